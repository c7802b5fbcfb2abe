//! The lot, computed here as the contract `Sortition` does.

use super::Bench;
use alloy_sol_types::SolValue as _;
use client::{
    ClientError,
    contracts::{Auditors, Audits},
};
use types::{Address, B256, U256, keccak256};

/// One expected draw, in the contract's unit.
const ONE: u64 = 1_000_000;

/// A receipt, and the models of which it must be for us to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) index: u64,
    pub(super) models: Vec<B256>,
}

/// Receipts of a batch for which this auditor is drawn, by what they may be answers of.
pub(super) async fn candidates(
    bench: &Bench,
    size: u64,
    batch: &Audits::Batch,
) -> Result<Vec<Candidate>, ClientError> {
    let mut weights = Vec::new();
    for model in bench.models.iter().map(|m| m.id().0) {
        let call = Auditors::weightsCall {
            auditor: bench.me(),
            model,
            blockNumber: U256::from(batch.blockNumber - 1),
        };
        let found = bench.court.rpc.view(bench.court.network.contracts.auditors, &call).await?;
        weights.push((model, found.stake, found.total));
    }
    let candidates = (batch.first..size).map(|index| {
        let lot = lot(batch.seed, index, bench.me());
        let drawn = weights.iter().filter(|(_, stake, total)| wins(lot, batch.rate, *stake, *total));
        Candidate { index, models: drawn.map(|(model, ..)| *model).collect() }
    });
    Ok(candidates.filter(|c| !c.models.is_empty()).collect())
}

fn lot(seed: B256, index: u64, auditor: Address) -> u64 {
    let hash = keccak256((seed, U256::from(index), auditor).abi_encode());
    u64::from_be_bytes(hash[24..].try_into().unwrap_or_default())
}

fn wins(lot: u64, rate: u32, stake: U256, total: U256) -> bool {
    U256::from(lot) * total * U256::from(ONE) < (U256::from(rate) * stake) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_stake_nobody_is_drawn() {
        assert!(!wins(0, 1_000_000, U256::ZERO, U256::ZERO));
        assert!(!wins(0, 1_000_000, U256::ZERO, U256::from(5)));
        assert!(wins(0, 1, U256::from(1), U256::from(5)));
        assert!(wins(u64::MAX, 1_000_000, U256::from(5), U256::from(5)));
        assert!(!wins(u64::MAX / 2, 1_000_000, U256::from(1), U256::from(5)));
    }
}
