use crate::Chain;
use alloy_primitives::Bytes;
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::{Buf as _, Clock, Handle, Metrics, Spawner};
use futures::{FutureExt as _, StreamExt as _, channel::mpsc};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tracing::{debug, warn};

/// Most bytes of one message.
const BATCH_BYTES: usize = 256 << 10;
/// Most transactions of one message.
const BATCH_COUNT: usize = 2048;
/// How long a transaction waits for company.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Bad transactions of one peer that are forgiven. An honest validator passes on none, since it checks them itself.
const BAD_MAX: u32 = 32;
/// How long a peer is not listened to after more than that, and how long its bad ones are remembered.
const MUTED_FOR: Duration = Duration::from_secs(60);
/// Peers whose bad transactions are counted. There are fewer validators and candidates than that.
const PEERS_MAX: usize = 1024;

/// What became of a peer's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Transactions in it.
    pub(crate) all: usize,
    /// Those that went into the mempool.
    pub(crate) new: usize,
    /// Those that are wrong on any block: malformed, badly signed, for another chain, without the gas for their fixed costs, and the like.
    pub(crate) bad: usize,
}

/// How much rubbish each peer has sent lately.
#[derive(Debug)]
pub(crate) struct Scores<P> {
    peers: BTreeMap<P, Score>,
}

#[derive(Clone, Copy, Debug)]
struct Score {
    bad: u32,
    /// When it is forgotten.
    until: SystemTime,
}

impl<P: Ord + Clone> Scores<P> {
    pub(crate) fn new() -> Self {
        Self { peers: BTreeMap::new() }
    }

    /// Whether what `peer` sends is not even looked at.
    pub(crate) fn is_muted(&mut self, peer: &P, now: SystemTime) -> bool {
        self.peers.retain(|_, score| now < score.until);
        self.peers.get(peer).is_some_and(|score| score.bad > BAD_MAX)
    }

    /// Counts `bad` transactions against `peer`; true when that is what silences it.
    pub(crate) fn count(&mut self, peer: &P, bad: usize, now: SystemTime) -> bool {
        if bad == 0 || (self.peers.len() >= PEERS_MAX && !self.peers.contains_key(peer)) {
            return false;
        }
        let until = now + MUTED_FOR;
        let score = self.peers.entry(peer.clone()).or_insert(Score { bad: 0, until });
        let was_muted = score.bad > BAD_MAX;
        score.bad = score.bad.saturating_add(u32::try_from(bad).unwrap_or(u32::MAX));
        score.until = until;
        score.bad > BAD_MAX && !was_muted
    }
}

/// Sends this validator's new transactions to all peers, many at once, and takes theirs into the mempool.
///
/// A transaction travels one hop: every validator talks to every other. It travels when it can run, not before. A peer that sends what
/// no honest validator passes on is not listened to for a while.
pub(crate) fn spawn<E, S, R>(context: E, chain: Arc<Chain>, sender: S, receiver: R) -> Vec<Handle<()>>
where
    E: Spawner + Clock + Metrics,
    S: Sender,
    R: Receiver<PublicKey = S::PublicKey>,
{
    let queue = chain.gossip_queue();
    // Checking signatures keeps a thread busy.
    let receive = context.child("receive").dedicated();
    vec![
        context.child("send").spawn(move |context| send(context, queue, sender)),
        receive.spawn(move |context| take(context, chain, receiver)),
    ]
}

async fn send<E: Clock, S: Sender>(context: E, mut queue: mpsc::Receiver<Bytes>, mut sender: S) {
    while let Some(first) = queue.next().await {
        context.sleep(BATCH_DELAY).await;
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_COUNT
            && bytes < BATCH_BYTES
            && let Some(Some(next)) = queue.next().now_or_never()
        {
            bytes += next.len();
            batch.push(next);
        }
        sender.send(Recipients::All, alloy_rlp::encode(batch), false);
    }
}

async fn take<E: Clock, R: Receiver>(context: E, chain: Arc<Chain>, mut receiver: R) {
    let mut scores = Scores::new();
    while let Ok((peer, mut message)) = receiver.recv().await {
        if scores.is_muted(&peer, context.current()) {
            continue;
        }
        // The network bounds the size of messages and how many come; the mempool checks everything else.
        let bytes = message.copy_to_bytes(message.remaining());
        let taken = match alloy_rlp::decode_exact::<Vec<Bytes>>(&bytes) {
            Ok(batch) if batch.len() <= BATCH_COUNT => chain.admit_all(&batch),
            _ => Taken { bad: BAD_MAX as usize + 1, ..Taken::default() },
        };
        debug!(%peer, ?taken, "gossiped transactions");
        if scores.count(&peer, taken.bad, context.current()) {
            warn!(%peer, seconds = MUTED_FOR.as_secs(), "a peer sends bad transactions; not listening to it for a while");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_silences_a_peer_for_a_while_and_nobody_else() {
        let start = SystemTime::UNIX_EPOCH;
        let mut scores = Scores::new();
        for _ in 0..BAD_MAX {
            assert!(!scores.count(&1, 1, start));
        }
        assert!(!scores.is_muted(&1, start));
        assert!(scores.count(&1, 1, start), "one too many");
        assert!(!scores.count(&1, 1, start), "said once");
        assert!(scores.is_muted(&1, start) && !scores.is_muted(&2, start));
        assert!(!scores.is_muted(&1, start + MUTED_FOR));
        // A malformed message alone suffices, and few bad ones far apart do not.
        assert!(scores.count(&3, BAD_MAX as usize + 1, start));
        let mut now = start;
        for _ in 0..10 * BAD_MAX {
            scores.is_muted(&4, now);
            assert!(!scores.count(&4, 1, now));
            now += MUTED_FOR;
        }
        // Good ones cost nothing, and the list has an end.
        for peer in 0..3 * PEERS_MAX {
            assert!(!scores.count(&peer, 0, now));
            scores.count(&peer, 1, now);
        }
        assert!(scores.peers.len() <= PEERS_MAX);
    }
}
