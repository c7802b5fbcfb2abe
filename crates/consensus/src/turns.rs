//! In which order the validators of an epoch take turns.

use alloy_primitives::{B256, Keccak256};
use commonware_codec::Encode as _;
use commonware_consensus::{
    simplex::elector::{Config, Elector, Scheduled, Terms},
    types::{Participant, Round},
};
use commonware_cryptography::{certificate::Scheme, ed25519::PublicKey};
use commonware_utils::ordered::Set;
use std::sync::Arc;

/// The order in which the validators of one epoch propose, again and again. It is drawn from randomness that becomes known with the last block of
/// the epoch before, when all keys are fixed: nobody can choose keys with which its turns lie side by side. How two members
/// lie to one another does not depend on who else is there, so joining or leaving at the last moment moves nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order(Arc<[u32]>);

impl Order {
    /// The order of the validators with these peer keys, which are in the order of the set: ascending by keccak-256 of
    /// `"og/turns/1" ‖ seed ‖ peer key`.
    pub(crate) fn draw(seed: B256, peers: impl Iterator<Item = B256>) -> Self {
        let mut drawn: Vec<(B256, u32)> = (0u32..)
            .zip(peers)
            .map(|(index, peer)| {
                let mut hash = Keccak256::new();
                hash.update(b"og/turns/1");
                hash.update(seed);
                hash.update(peer);
                (hash.finalize(), index)
            })
            .collect();
        drawn.sort_unstable();
        Self(drawn.into_iter().map(|(_, index)| index).collect())
    }

    /// The index in the set of who proposes in `view`.
    pub(crate) fn leader(&self, view: u64) -> u64 {
        match self.0.len() as u64 {
            0 => 0,
            n => u64::from(self.0[(view % n) as usize]),
        }
    }
}

/// Makes the engine follow the [`Order`] that is drawn from this seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn(pub(crate) B256);

impl<S: Scheme<PublicKey = PublicKey>> Config<S> for Drawn {
    type Elector = Order;

    fn build(self, participants: &Set<PublicKey>) -> Order {
        assert!(!participants.is_empty(), "no participants");
        Order::draw(self.0, participants.iter().map(|peer| B256::from_slice(&peer.encode())))
    }
}

impl<S: Scheme<PublicKey = PublicKey>> Elector<S> for Order {
    type Mode = Scheduled;

    fn terms(&self) -> Terms {
        Terms::rotating()
    }

    fn elect(&self, round: Round, _: ()) -> Participant {
        Participant::from_usize(self.leader(round.view().get()) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Scheme as Votes, epochs::peers, keys::tests::config};
    use commonware_consensus::types::{Epoch, View};
    use proptest::prelude::*;

    fn draw(seed: u8, peers: &[B256]) -> Order {
        Order::draw(B256::repeat_byte(seed), peers.iter().copied())
    }

    #[test]
    fn the_engine_follows_the_drawn_order() {
        for n in [1, 2, 4, 7] {
            let set = config(n).first_set();
            let seed = B256::repeat_byte(n as u8);
            let order = Order::draw(seed, set.members.iter().map(|v| v.peer));
            let elector = Config::<Votes>::build(Drawn(seed), &peers(&set));
            for view in 1..30 {
                let round = Round::new(Epoch::new(3), View::new(view));
                let elected = Elector::<Votes>::elect(&elector, round, ());
                assert_eq!(usize::from(elected) as u64, order.leader(view));
            }
        }
    }

    #[test]
    fn neighbouring_keys_are_no_neighbours_in_most_orders() {
        // Three of sixteen keys lie side by side; by lot, their turns do in 16 of 16 * 15 * 14 / 6 placements.
        let peers: Vec<_> = (0..16).map(B256::with_last_byte).collect();
        let together = (0..=255)
            .filter(|seed| {
                let order = draw(*seed, &peers);
                (0..16).any(|view| (view..view + 3).all(|v| (4..7).contains(&order.leader(v))))
            })
            .count();
        assert!(together < 20, "{together} of 256");
        // With the order of the keys themselves it would be all of them.
        assert!((0..16).any(|view: u64| (view..view + 3).all(|v| (4..7).contains(&(v % 16)))));
    }

    proptest! {
        #[test]
        fn each_has_one_turn_in_a_round_and_who_joins_moves_nobody(
            keys in proptest::collection::btree_set(any::<[u8; 32]>(), 2..40),
            seed in any::<u8>(),
            gone in any::<prop::sample::Index>(),
            from in 0u64..1000,
        ) {
            let peers: Vec<B256> = keys.into_iter().map(B256::new).collect();
            let order = draw(seed, &peers);
            let n = peers.len() as u64;
            let mut turns: Vec<u64> = (from..from + n).map(|v| order.leader(v)).collect();
            turns.sort_unstable();
            prop_assert_eq!(turns, (0..n).collect::<Vec<_>>());
            let gone = peers[gone.index(peers.len())];
            let rest: Vec<B256> = peers.iter().copied().filter(|p| *p != gone).collect();
            let by_key = |order: &Order, peers: &[B256]| -> Vec<B256> {
                order.0.iter().map(|i| peers[*i as usize]).filter(|p| *p != gone).collect()
            };
            prop_assert_eq!(by_key(&order, &peers), by_key(&draw(seed, &rest), &rest));
        }
    }
}
