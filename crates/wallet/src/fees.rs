/// How much an account offers for its transactions, in wei per gas.
///
/// The base fee is what everybody pays; the offered cap costs nothing above it, so it can be generous. The tip is what buys a place before
/// others. Both start low and rise by eighths, since mempools ask a tenth more of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeeRules {
    /// First tip.
    pub tip: u128,
    /// The highest tip, reached when the deadline is near.
    pub tip_max: u128,
    /// The highest fee cap that is ever offered, whatever the base fee.
    pub fee_max: u128,
}

/// 1 gwei.
const GWEI: u128 = 1_000_000_000;

impl Default for FeeRules {
    /// A move of 1,000,000 gas costs at most 0.01 coin at this tip and, where strangers burn thousands of coins a minute for a base fee like
    /// that, 1 coin at this fee: a fraction of what a lost game costs.
    fn default() -> Self {
        Self { tip: GWEI / 1000, tip_max: 10 * GWEI, fee_max: 1000 * GWEI }
    }
}

/// An offer: what a transaction pays at most for a unit of gas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) fee: u128,
    pub(crate) tip: u128,
}

impl Offer {
    /// The least that mempools take instead of `self`.
    pub(crate) fn raised(self) -> Self {
        let more = |x: u128| x.saturating_add((x / 8).max(1));
        Self { fee: more(self.fee), tip: more(self.tip) }
    }

    /// At least as much as `other` in both.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { fee: self.fee.max(other.fee), tip: self.tip.max(other.tip) }
    }
}

/// Thousandths of a call's time.
pub(crate) const WHOLE: u64 = 1000;

impl FeeRules {
    /// The most that is offered when `spent` thousandths of the call's time are over: a tenth of the highest fee and a sixty-fourth of the
    /// highest tip in the first half, then more and more.
    fn ceiling(&self, spent: u64) -> Offer {
        let late = u128::from(spent.min(WHOLE).saturating_sub(WHOLE / 2));
        let half = u128::from(WHOLE / 2);
        let fee = (self.fee_max / 10).saturating_add(self.fee_max / 10 * 9 / half * late).max(1);
        let fee = if late == half { self.fee_max.max(1) } else { fee };
        let tip = (self.tip_max >> (6 - 6 * late / half)).max(1);
        Offer { fee, tip: tip.min(fee) }
    }

    /// What to offer when `spent` thousandths of the call's time are over. Half of the time is for cheap attempts; then the tip doubles
    /// with every fiftieth until it is at its highest.
    pub(crate) fn offer(&self, base_fee: u128, spent: u64) -> Offer {
        let ceiling = self.ceiling(spent);
        let doublings = spent.min(WHOLE).saturating_sub(WHOLE / 2) / (WHOLE / 50);
        let tip = self.tip.clamp(1, u128::MAX >> 32) << doublings;
        let tip = tip.min(ceiling.tip);
        // The base fee rises by an eighth a block at most: twice as much lasts six full blocks.
        let fee = base_fee.saturating_mul(2).saturating_add(tip).min(ceiling.fee);
        Offer { fee, tip }
    }

    /// What replaces `last`: `wanted`, or an eighth more than `last`. `None` when that is above what is offered at this time.
    pub(crate) fn replacement(&self, last: Offer, wanted: Offer, spent: u64) -> Option<Offer> {
        let (next, ceiling) = (last.raised().max(wanted), self.ceiling(spent));
        let next = Offer { fee: next.fee.max(next.tip), tip: next.tip };
        (next.fee <= ceiling.fee && next.tip <= ceiling.tip).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tip_rises_with_time_and_ends_at_its_highest() {
        let rules = FeeRules::default();
        assert_eq!(rules.offer(7, 0).tip, rules.tip);
        assert_eq!(rules.offer(7, WHOLE).tip, rules.tip_max);
        assert_eq!(rules.offer(u128::MAX, WHOLE).fee, rules.fee_max);
    }

    proptest! {
        #[test]
        fn offers_never_fall_and_never_pass_the_bounds(base in 0u128..1 << 60, a in 0u64..1100, b in 0u64..1100) {
            let rules = FeeRules::default();
            let (early, late) = (rules.offer(base, a.min(b)), rules.offer(base, a.max(b)));
            prop_assert!(early.tip <= late.tip && early.fee <= late.fee);
            for offer in [early, late] {
                prop_assert!(offer.tip <= offer.fee.max(1) && offer.fee <= rules.fee_max && offer.tip <= rules.tip_max);
            }
        }

        #[test]
        fn a_replacement_is_at_least_an_eighth_dearer(fee in 0u128..1 << 80, tip in 0u128..1 << 80, base in 0u128..1 << 40, spent in 0u64..1000) {
            let rules = FeeRules { fee_max: u128::MAX, tip_max: u128::MAX, ..FeeRules::default() };
            let last = Offer { fee: fee.max(tip), tip };
            let next = rules.replacement(last, rules.offer(base, spent), spent).unwrap();
            prop_assert!(next.fee > last.fee && next.fee - last.fee >= last.fee / 8);
            prop_assert!(next.tip > last.tip && next.tip - last.tip >= last.tip / 8);
            prop_assert!(next.tip <= next.fee);
        }
    }
}
