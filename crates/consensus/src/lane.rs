//! Who may use the lane of the mempool: which calls, of whom. A choice of each validator; whether a block is valid does not depend on it.

use alloy_primitives::{Address, B256, Bytes};
use alloy_rpc_types_eth::TransactionRequest;
use ledger::{CallOutcome, Executed, Ledger, Overrides, RecoveredTx};
use quick_cache::sync::Cache;
use std::{collections::BTreeMap, sync::atomic::AtomicBool};

/// Gas of one look at the state: a view of a contract that reads a few slots.
const LOOK_GAS: u64 = 200_000;
/// Looks that are remembered.
const LOOKS: usize = 8192;
/// Blocks for which a sender's standing is believed, and for which it is believed that it has none: who just joined should not wait.
const GOOD_FOR: u64 = 32;
const BAD_FOR: u64 = 2;
/// Bytes of a word of the ABI.
const WORD: usize = 32;

/// What the state must say of the sender of a protocol call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `view(sender)` of `contract` returns something other than zero in its word number `word`: a stake, as a rule.
    Member {
        /// The contract.
        contract: Address,
        /// Selector of the view.
        view: [u8; 4],
        /// Index of the word.
        word: usize,
    },
    /// `view(x)` of `contract`, where `x` is the first word of the protocol call's arguments, returns the sender in one of its words: a
    /// party of case `x`.
    Party {
        /// The contract.
        contract: Address,
        /// Selector of the view.
        view: [u8; 4],
    },
}

/// Which transactions are protocol calls: receiver, selector, and whose (one of the roles suffices).
#[derive(Clone, Debug, Default)]
pub struct LaneRules(BTreeMap<(Address, [u8; 4]), Vec<Role>>);

impl LaneRules {
    /// With one more call.
    #[must_use]
    pub fn and(mut self, to: Address, selector: [u8; 4], roles: &[Role]) -> Self {
        self.0.entry((to, selector)).or_default().extend(roles);
        self
    }
}

impl LaneRules {
    /// Whether `tx` is a protocol call of somebody who has standing after `head`. When the state cannot be read: no.
    pub fn admit(&self, ledger: &Ledger, head: &Executed, tx: &RecoveredTx) -> bool {
        self.admit_by(tx, |role, subject| look(ledger, head, tx.sender(), role, subject))
    }

    fn admit_by(&self, tx: &RecoveredTx, has: impl Fn(Role, B256) -> bool) -> bool {
        let Some((to, input)) = tx.call() else { return false };
        let Some(selector) = input.first_chunk::<4>() else { return false };
        let Some(roles) = self.0.get(&(to, *selector)) else { return false };
        let subject = input.get(4..4 + WORD).map(B256::from_slice).unwrap_or_default();
        roles.iter().any(|role| has(*role, subject))
    }
}

/// What is remembered of a look: valid until this block, and what it was.
type Look = (u64, bool);

/// The rules, and what was found lately.
pub(crate) struct Lane {
    rules: LaneRules,
    looks: Cache<(Address, Role, B256), Look>,
}

impl Default for Lane {
    fn default() -> Self {
        Self::new(LaneRules::default())
    }
}

impl Lane {
    pub(crate) fn new(rules: LaneRules) -> Self {
        Self { rules, looks: Cache::new(LOOKS) }
    }

    /// As [`LaneRules::admit`], with looks at the state that may be a few blocks old.
    pub(crate) fn admits(&self, ledger: &Ledger, head: &Executed, tx: &RecoveredTx) -> bool {
        self.rules.admit_by(tx, |role, subject| {
            // Membership has no subject.
            let about = if matches!(role, Role::Member { .. }) { B256::ZERO } else { subject };
            let key = (tx.sender(), role, about);
            if let Some((_, known)) = self.looks.get(&key).filter(|(until, _)| head.number() <= *until) {
                return known;
            }
            let found = look(ledger, head, tx.sender(), role, subject);
            let until = head.number() + if found { GOOD_FOR } else { BAD_FOR };
            self.looks.insert(key, (until, found));
            found
        })
    }
}

fn look(ledger: &Ledger, head: &Executed, sender: Address, role: Role, subject: B256) -> bool {
    let (contract, view, argument) = match role {
        Role::Member { contract, view, .. } => (contract, view, sender.into_word()),
        Role::Party { contract, view } => (contract, view, subject),
    };
    let data = Bytes::from([view.as_slice(), argument.as_slice()].concat());
    let mut call = TransactionRequest::default().to(contract).input(data.into());
    call.gas = Some(LOOK_GAS);
    // Bounded by its gas; nobody has to end it early.
    let never = AtomicBool::new(false);
    let done = ledger.queries(&never).call(head, &call, &Overrides::default());
    let Ok(CallOutcome::Success { output, .. }) = done else {
        return false;
    };
    let mut words = output.chunks_exact(WORD);
    match role {
        Role::Member { word, .. } => words.nth(word).is_some_and(|w| w.iter().any(|b| *b != 0)),
        Role::Party { .. } => words.any(|w| w == sender.into_word().as_slice()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
    use alloy_eips::eip2718::Encodable2718 as _;
    use alloy_primitives::{Signature, TxKind, hex};
    use ledger::{Genesis, GenesisAccount};
    use types::{FixedBytes, NetworkConfig, SystemContracts, ValidatorKey, signing};

    const COURT: Address = Address::repeat_byte(0xc0);
    const TRAP: Address = Address::repeat_byte(0xc1);
    const MOVE: [u8; 4] = [1, 2, 3, 4];
    const VIEW: [u8; 4] = [5, 6, 7, 8];

    fn start() -> (Ledger, Executed) {
        let code = |code: &[u8]| GenesisAccount { code: code.to_vec().into(), ..Default::default() };
        // One contract returns the first argument of whatever it is asked; the other never ends.
        let echo = code(&hex!("60043560005260206000f3"));
        let trap = code(&hex!("5b600056"));
        let genesis = Genesis {
            chain_id: 7,
            timestamp: 0,
            gas_limit: 30_000_000,
            base_fee: 1,
            alloc: [(COURT, echo), (TRAP, trap)].into(),
            deployments: vec![],
        };
        let key = ValidatorKey {
            peer: B256::repeat_byte(1),
            vote: FixedBytes::repeat_byte(2),
            possession: FixedBytes::repeat_byte(3),
        };
        let network = NetworkConfig {
            version: types::NETWORK_VERSION,
            chain_id: 7,
            block_time_ms: 250,
            epoch_blocks: 100,
            window_seconds: 90,
            game_seconds: 600,
            unbonding_seconds: 1,
            contracts: SystemContracts::none(),
            validators: vec![key],
        };
        let executed = genesis.execute(&network).unwrap();
        (Ledger::new(genesis.params(&network), executed.hash()), executed)
    }

    fn call(who: u8, to: Address, selector: [u8; 4], subject: B256) -> RecoveredTx {
        let secret = B256::repeat_byte(who);
        let input = Bytes::from([selector.as_slice(), subject.as_slice()].concat());
        let to = TxKind::Call(to);
        let tx = TxEip1559 {
            chain_id: 7,
            gas_limit: 100_000,
            max_fee_per_gas: 1,
            to,
            input,
            ..Default::default()
        };
        let raw = signing::sign(&secret, tx.signature_hash()).unwrap();
        let signature = Signature::from_raw_array(&raw).unwrap();
        RecoveredTx::decode(&TxEnvelope::from(tx.into_signed(signature)).encoded_2718(), 7).unwrap()
    }

    #[test]
    fn only_parties_of_a_case_have_its_lane() {
        let (ledger, head) = start();
        let rules = LaneRules::default().and(COURT, MOVE, &[Role::Party { contract: COURT, view: VIEW }]);
        let lane = Lane::new(rules);
        let me = signing::address_of(&B256::repeat_byte(1)).unwrap().into_word();
        let admits =
            |who, to, selector, subject| lane.admits(&ledger, &head, &call(who, to, selector, subject));
        for _ in 0..2 {
            // This contract says that whoever the case is named after is a party of it.
            assert!(admits(1, COURT, MOVE, me));
            assert!(!admits(2, COURT, MOVE, me), "a stranger");
            assert!(!admits(1, COURT, MOVE, B256::ZERO), "no such case");
            assert!(!admits(1, COURT, VIEW, me), "another function");
            assert!(!admits(1, TRAP, MOVE, me), "another contract");
        }
    }

    #[test]
    fn members_are_those_of_whom_the_contract_says_something() {
        let (ledger, head) = start();
        let member = |contract, word| Role::Member { contract, view: VIEW, word };
        let admits = |role: Role| {
            LaneRules::default().and(COURT, MOVE, &[role]).admit(
                &ledger,
                &head,
                &call(1, COURT, MOVE, B256::ZERO),
            )
        };
        assert!(admits(member(COURT, 0)), "it echoes the sender, which is not zero");
        assert!(!admits(member(COURT, 1)), "there is no second word");
        assert!(!admits(member(TRAP, 0)), "what does not answer within its gas says no");
        assert!(!admits(member(Address::repeat_byte(9), 0)), "nobody there");
    }
}
