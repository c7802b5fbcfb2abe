//! Which calls of the system contracts have a lane: those with a deadline, of those whom the ledger knows.

use alloy_sol_types::{SolCall, sol};
use client::contracts::{
    Auditors, Audits, Disputes, Escrow, Jury, NodeRegistry, ReceiptLog, Staking as StakingContract,
};
use consensus::{LaneRules, Role};
use types::SystemContracts;

sol! {
    /// The stake is the second word: the first says where the structure begins.
    function validator(address operator) external view returns (bytes memory);
}

/// The lane of a network with these contracts.
pub(crate) fn rules(contracts: &SystemContracts) -> LaneRules {
    let c = contracts;
    let member = |contract, view, word| Role::Member { contract, view, word };
    let node = member(c.node_registry, NodeRegistry::nodeInfoCall::SELECTOR, 1);
    let auditor = member(c.auditors, Auditors::auditorInfoCall::SELECTOR, 0);
    let validator = member(c.staking, validatorCall::SELECTOR, 1);
    let party = Role::Party { contract: c.disputes, view: Disputes::gameOfCall::SELECTOR };
    let plaintiff = Role::Party { contract: c.jury, view: Jury::caseOfCall::SELECTOR };
    LaneRules::default()
        .and(c.disputes, Disputes::moveCall::SELECTOR, &[party])
        .and(c.disputes, Disputes::timeoutCall::SELECTOR, &[party, node, auditor])
        .and(c.disputes, Disputes::announceCall::SELECTOR, &[auditor])
        .and(c.disputes, Disputes::openLoggedCall::SELECTOR, &[auditor])
        .and(c.audits, Audits::commitCall::SELECTOR, &[auditor])
        .and(c.audits, Audits::revealCall::SELECTOR, &[auditor])
        .and(c.audits, Audits::backCall::SELECTOR, &[auditor])
        .and(c.jury, Jury::escalateCall::SELECTOR, &[auditor])
        .and(c.jury, Jury::commitCall::SELECTOR, &[auditor])
        .and(c.jury, Jury::revealCall::SELECTOR, &[auditor])
        .and(c.jury, Jury::answerCall::SELECTOR, &[node])
        .and(c.jury, Jury::resolveCall::SELECTOR, &[auditor, node, plaintiff])
        .and(c.jury, Jury::settleCall::SELECTOR, &[auditor, plaintiff])
        .and(c.receipt_log, ReceiptLog::appendCall::SELECTOR, &[node])
        .and(c.escrow, Escrow::settleCall::SELECTOR, &[node])
        .and(c.escrow, Escrow::redeemCall::SELECTOR, &[node])
        .and(c.escrow, Escrow::releaseCall::SELECTOR, &[node])
        .and(c.staking, StakingContract::unjailCall::SELECTOR, &[validator])
        .and(c.staking, StakingContract::reportEquivocationCall::SELECTOR, &[validator])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        genesis::{COIN, NewNetwork, staking_rules},
        trust_rules::TrustRules,
    };
    use alloy_consensus::TxEip1559;
    use alloy_primitives::TxKind;
    use ledger::{BlockInput, Executed, Ledger, RecoveredTx};
    use types::{Address, B256, Bytes, FixedBytes, U256, ValidatorKey, keccak256};
    use wallet::Account;

    fn account(name: &str) -> Account {
        Account::new(keccak256(name)).unwrap()
    }

    fn signed(by: &Account, to: Address, value: U256, input: Vec<u8>) -> RecoveredTx {
        let (to, input, max_fee_per_gas) = (TxKind::Call(to), Bytes::from(input), 10_000_000_000);
        let tx = TxEip1559 {
            chain_id: 7,
            gas_limit: 2_000_000,
            max_fee_per_gas,
            to,
            value,
            input,
            ..Default::default()
        };
        RecoveredTx::decode(&by.sign(tx).unwrap(), 7).unwrap()
    }

    /// A network with one node and one auditor, after the block in which they joined.
    fn start() -> (Ledger, Executed, SystemContracts) {
        let key = ValidatorKey {
            peer: B256::repeat_byte(1),
            vote: FixedBytes::repeat_byte(2),
            possession: FixedBytes::repeat_byte(3),
        };
        let rich = U256::from(1000 * COIN);
        let names = ["node", "auditor", "stranger", "validator"];
        let new = NewNetwork {
            chain_id: 7,
            block_time_ms: 250,
            epoch_blocks: 100,
            timestamp: 1,
            validators: vec![(account("validator").address(), key)],
            funded: names.map(|n| (account(n).address(), rich)).to_vec(),
            staking: staking_rules(),
            trust: TrustRules::devnet(),
        };
        let (genesis, network) = new.build().unwrap();
        let executed = genesis.execute(&network).unwrap();
        let ledger = Ledger::new(genesis.params(&network), executed.hash());
        let c = network.contracts;
        let stake = U256::from(200 * COIN);
        let register = NodeRegistry::registerCall { endpoint: "http://127.0.0.1:1".into() }.abi_encode();
        let txs = [
            signed(&account("node"), c.node_registry, stake, register),
            signed(
                &account("auditor"),
                c.auditors,
                stake,
                Auditors::joinCall { models: vec![] }.abi_encode(),
            ),
        ];
        let input = BlockInput {
            timestamp: 2,
            seal: B256::ZERO,
            beneficiary: Address::ZERO,
            randomness: B256::ZERO,
            turn: Default::default(),
        };
        let built = ledger.build(&executed, &input, txs.map(std::sync::Arc::new)).unwrap();
        assert!(built.receipts().iter().all(|r| r.status()), "both joined");
        (ledger, built, c)
    }

    #[test]
    fn the_lane_is_for_those_whom_the_ledger_knows() {
        let (ledger, head, c) = start();
        let rules = rules(&c);
        let admits = |who: &str, to: Address, call: Vec<u8>| {
            rules.admit(&ledger, &head, &signed(&account(who), to, U256::ZERO, call))
        };
        let append = ReceiptLog::appendCall { oldSize: 0, newSize: 1, root: B256::ZERO }.abi_encode();
        let node = account("node").address();
        let commit = Audits::commitCall { node, size: 1, hash: B256::ZERO }.abi_encode();
        let unjail = StakingContract::unjailCall {}.abi_encode();
        for (call, to, who) in
            [(append, c.receipt_log, "node"), (commit, c.audits, "auditor"), (unjail, c.staking, "validator")]
        {
            for name in ["node", "auditor", "stranger", "validator"] {
                assert_eq!(admits(name, to, call.clone()), name == who, "{name} in the lane of {who}");
            }
        }
        // Nobody is a party of a dispute that does not exist, and registering is no matter of minutes.
        let moved =
            Disputes::moveCall { id: U256::from(1), state: Bytes::new(), moved: Bytes::new() }.abi_encode();
        let update = NodeRegistry::updateEndpointCall { endpoint: String::new() }.abi_encode();
        for name in ["node", "auditor", "stranger", "validator"] {
            assert!(!admits(name, c.disputes, moved.clone()));
            assert!(!admits(name, c.node_registry, update.clone()));
        }
    }
}
