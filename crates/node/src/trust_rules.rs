//! Rules of audits, disputes, juries and escrow: constructor arguments of their contracts. They never change in a network.
//!
//! The defaults follow `docs/economics.md`, in whose unit (the price of an average answer) a coin is millions.

use crate::genesis::{COIN, UNBONDING_SECONDS};
use alloy_sol_types::{SolValue as _, sol};
use types::{Address, SystemContracts, U256};

sol! {
    struct AuditParams {
        uint64 commitSeconds; uint64 revealSeconds; uint64 backSeconds; uint32 rateMax; uint32 rateMin; uint256 fee; uint256 missPenalty;
        uint256 lazySlash; uint64 periodSeconds; uint32 missesFree; uint32 missesMax;
    }
    struct CanaryParams {
        uint64 seconds; uint256 bond; uint256 max;
    }
    struct DisputeParams {
        uint256 bond; uint64 clockSeconds; uint64 openSeconds; uint64 windowSeconds; uint256 fraudSlash; uint256 timeoutSlash;
        uint256 bountyPermille;
    }
    struct JuryParams {
        uint256 bond; uint64 commitSeconds; uint64 revealSeconds; uint64 rate; uint64 minJurors; uint64 tenureSeconds; uint256 minStake;
        uint256 textSlash; uint256 fee; uint256 missPenalty; uint256 bountyPermille;
    }
}

/// One audit for each receipt, times 1e6.
const ONE: u32 = 1_000_000;
/// Part of payments that goes to auditors, in thousandths.
const AUDIT_PERMILLE: u64 = 13;
/// Part of a slash that goes to who found the fault, in thousandths.
const BOUNTY_PERMILLE: u64 = 100;

/// Misses of an auditor in a window that cost nothing: a short outage.
const MISSES_FREE: u32 = 16;
/// Misses of an auditor in a window after which more cost nothing. At a thousandth of a coin each, an auditor with the least
/// stake stays for 40 windows in which it is buried in work.
const MISSES_MAX: u32 = 272;

/// What differs from network to network. Times are in seconds, coins in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrustRules {
    /// Smallest stake of a node.
    pub(crate) node_stake: u128,
    /// Smallest stake of an auditor.
    pub(crate) auditor_stake: u128,
    /// Expected auditors of a receipt times 1e6: at first and after a fault; in the limit.
    pub(crate) rates: (u32, u32),
    /// Time for commitments, and as much for reveals.
    pub(crate) commit_seconds: u64,
    /// Time of each side for all of its moves in a dispute.
    pub(crate) clock_seconds: u64,
    /// Time between announcing a dispute and opening it.
    pub(crate) open_seconds: u64,
    /// Time after an answer in which it can be disputed, and its payment waits.
    pub(crate) window_seconds: u64,
    /// Time before a node or an auditor can withdraw its stake.
    pub(crate) unbonding_seconds: u64,
    /// Fewest jurors that must vote.
    pub(crate) jurors_min: u64,
    /// Age of an auditor's stake from which on it counts in juries.
    pub(crate) tenure_seconds: u64,
    /// Least stake of that age, of all auditors together, with which juries decide anything.
    pub(crate) bench_stake: u128,
}

/// A duration in a network whose time runs `scale` times as fast: at least 1, since no rule works with none.
pub(crate) fn scaled(duration: u64, scale: u64) -> u64 {
    (duration / scale.max(1)).max(1)
}

impl TrustRules {
    /// Rules for networks of strangers.
    pub(crate) fn network() -> Self {
        Self {
            node_stake: 100 * COIN,
            auditor_stake: 20 * COIN,
            rates: (ONE / 10, ONE / 50),
            commit_seconds: 3_600,
            // A third of the window each: who is away for hours loses nothing, and the longest game ends in the window.
            clock_seconds: 8 * 3_600,
            open_seconds: 3_600,
            window_seconds: 24 * 3_600,
            unbonding_seconds: UNBONDING_SECONDS,
            // Of 31 expected ones: who has a third of the stake gets as many in 2 of 1000 cases.
            jurors_min: 20,
            tenure_seconds: UNBONDING_SECONDS,
            // What a jury can take from a node, twenty times.
            bench_stake: 1_000 * COIN,
        }
    }

    /// The same with short times, every receipt audited at first, and few jurors.
    pub(crate) fn devnet() -> Self {
        Self {
            rates: (ONE, ONE / 50),
            commit_seconds: 6,
            clock_seconds: 36,
            open_seconds: 8,
            window_seconds: 90,
            jurors_min: 1,
            tenure_seconds: 1,
            bench_stake: 20 * COIN,
            ..Self::network()
        }
    }

    /// The same rules with every duration divided by `scale`; stakes, rates, bonds and numbers of jurors stay.
    pub(crate) fn scaled(self, scale: u64) -> Self {
        // Every field is named, so that a new duration cannot be forgotten here.
        let Self {
            node_stake,
            auditor_stake,
            rates,
            commit_seconds,
            clock_seconds,
            open_seconds,
            window_seconds,
            unbonding_seconds,
            jurors_min,
            tenure_seconds,
            bench_stake,
        } = self;
        Self {
            node_stake,
            auditor_stake,
            rates,
            commit_seconds: scaled(commit_seconds, scale),
            clock_seconds: scaled(clock_seconds, scale),
            open_seconds: scaled(open_seconds, scale),
            window_seconds: scaled(window_seconds, scale),
            unbonding_seconds: scaled(unbonding_seconds, scale),
            jurors_min,
            tenure_seconds: scaled(tenure_seconds, scale),
            bench_stake,
        }
    }

    /// Longest game: both sides use all of their time. The time for opening one is left to those who end it.
    pub(crate) fn game_seconds(&self) -> u64 {
        2 * self.clock_seconds + self.open_seconds
    }

    fn wei(value: u128) -> U256 {
        U256::from(value)
    }

    /// Arguments of the `ModelRegistry`: what an entry costs.
    pub(crate) fn models(&self) -> Vec<u8> {
        Self::wei(COIN).abi_encode()
    }

    pub(crate) fn nodes(&self, c: &SystemContracts) -> Vec<u8> {
        let stake = Self::wei(self.node_stake);
        (c.model_registry, stake, self.unbonding_seconds, c.disputes, c.jury).abi_encode_params()
    }

    pub(crate) fn auditors(&self, c: &SystemContracts) -> Vec<u8> {
        (Self::wei(self.auditor_stake), self.unbonding_seconds, c.audits, c.jury).abi_encode_params()
    }

    pub(crate) fn audits(&self, c: &SystemContracts, canaries: Address) -> Vec<u8> {
        let params = AuditParams {
            commitSeconds: self.commit_seconds,
            revealSeconds: self.commit_seconds,
            backSeconds: self.commit_seconds * 4,
            rateMax: self.rates.0,
            rateMin: self.rates.1,
            fee: Self::wei(COIN / 1_000_000),
            missPenalty: Self::wei(COIN / 1_000),
            lazySlash: Self::wei(self.auditor_stake / 10),
            periodSeconds: self.window_seconds,
            missesFree: MISSES_FREE,
            missesMax: MISSES_MAX,
        };
        (c.receipt_log, c.beacon, c.auditors, c.disputes, c.jury, canaries, params).abi_encode_params()
    }

    pub(crate) fn canaries(&self, c: &SystemContracts) -> Vec<u8> {
        let params = CanaryParams {
            // Longer than any dispute about it.
            seconds: self.window_seconds + self.game_seconds() + 8 * self.commit_seconds,
            bond: Self::wei(COIN),
            max: U256::from(16),
        };
        (c.receipt_log, c.audits, c.disputes, params).abi_encode_params()
    }

    pub(crate) fn disputes(&self, c: &SystemContracts) -> Vec<u8> {
        let params = DisputeParams {
            bond: Self::wei(COIN / 10),
            clockSeconds: self.clock_seconds,
            openSeconds: self.open_seconds,
            windowSeconds: self.window_seconds,
            fraudSlash: Self::wei(self.node_stake / 2),
            // Not to answer must cost as much as to lose.
            timeoutSlash: Self::wei(self.node_stake / 2),
            bountyPermille: U256::from(BOUNTY_PERMILLE),
        };
        (c.node_registry, c.receipt_log, c.escrow, c.audits, c.jury, params).abi_encode_params()
    }

    pub(crate) fn jury(&self, c: &SystemContracts) -> Vec<u8> {
        let params = JuryParams {
            bond: Self::wei(COIN / 5),
            commitSeconds: self.commit_seconds,
            revealSeconds: self.commit_seconds,
            rate: 31 * u64::from(ONE),
            minJurors: self.jurors_min,
            tenureSeconds: self.tenure_seconds,
            minStake: Self::wei(self.bench_stake),
            textSlash: Self::wei(self.node_stake / 2),
            fee: Self::wei(COIN),
            missPenalty: Self::wei(COIN / 1_000),
            bountyPermille: U256::from(BOUNTY_PERMILLE),
        };
        (c.node_registry, c.receipt_log, c.escrow, c.beacon, c.auditors, c.audits, c.disputes, params)
            .abi_encode_params()
    }

    pub(crate) fn escrow(&self, c: &SystemContracts) -> Vec<u8> {
        let window = self.window_seconds;
        (c.receipt_log, c.disputes, c.jury, c.audits, window, window, U256::from(AUDIT_PERMILLE))
            .abi_encode_params()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_scale_divides_durations_and_nothing_else() {
        let network = TrustRules::network();
        assert_eq!(network.scaled(1), network);
        let fast = network.scaled(240);
        assert_eq!(
            (
                fast.commit_seconds,
                fast.clock_seconds,
                fast.open_seconds,
                fast.window_seconds,
                fast.unbonding_seconds,
                fast.tenure_seconds
            ),
            (15, 120, 15, 360, 2520, 2520)
        );
        let slow_again = TrustRules {
            commit_seconds: network.commit_seconds,
            clock_seconds: network.clock_seconds,
            open_seconds: network.open_seconds,
            window_seconds: network.window_seconds,
            unbonding_seconds: network.unbonding_seconds,
            tenure_seconds: network.tenure_seconds,
            ..fast
        };
        assert_eq!(slow_again, network);
        // Otherwise the constructor of `Disputes` refuses them, whatever the scale.
        for rules in [TrustRules::devnet(), network, fast, network.scaled(1000)] {
            assert!(rules.window_seconds > 2 * (rules.clock_seconds + rules.open_seconds), "{rules:?}");
            assert!(rules.clock_seconds >= rules.commit_seconds, "{rules:?}");
        }
        assert_eq!((scaled(10, 1000), scaled(10, 0)), (1, 10));
    }

    #[test]
    fn what_attacks_cost_is_computed_with_these_rules() {
        let (rules, told) = (TrustRules::network(), economics::attacks::Rules::today());
        let coins = |wei: u128| wei as f64 / COIN as f64;
        assert_eq!(told.node_stake, coins(rules.node_stake));
        assert_eq!(told.fraud_slash, coins(rules.node_stake / 2));
        assert_eq!(told.auditor_floor, coins(rules.auditor_stake / 2));
        assert_eq!(told.bench_stake, coins(rules.bench_stake));
        assert_eq!(told.game_seconds, rules.game_seconds() as f64);
        assert_eq!(told.window_seconds, rules.window_seconds as f64);
        assert_eq!(u64::from(told.jurors_min), rules.jurors_min);
        assert_eq!((told.misses_free, told.misses_max), (f64::from(MISSES_FREE), f64::from(MISSES_MAX)));
    }
}
