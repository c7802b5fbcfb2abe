//! The closed forms. All amounts in prices of an average answer, all chances in 0..=1.
//!
//! `pd` is the chance that a wrong answer is found and disputed in time: p (somebody looks at it) times q (who looks is
//! honest, is not away, and is in time). Powers are products, so that the results are the same on every platform.

/// `x` to the power `n`, by squaring.
#[must_use]
pub fn power(mut x: f64, mut n: u32) -> f64 {
    let mut out = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            out *= x;
        }
        x *= x;
        n >>= 1;
    }
    out
}

/// The chances of 0, 1, ... `n` successes in `n` trials of chance `p`. Computed from the most likely number outwards and
/// scaled to a sum of one, so that nothing vanishes however large `n` is.
#[must_use]
pub fn binomial(n: u32, p: f64) -> Vec<f64> {
    let p = p.clamp(0.0, 1.0);
    let odds = p / (1.0 - p);
    let mode = ((f64::from(n) + 1.0) * p).min(f64::from(n)) as u32;
    let mut out = vec![0.0; n as usize + 1];
    out[mode as usize] = 1.0;
    for k in mode..n {
        out[k as usize + 1] = out[k as usize] * f64::from(n - k) / f64::from(k + 1) * odds;
    }
    for k in (1..=mode).rev() {
        out[k as usize - 1] = out[k as usize] * f64::from(k) / f64::from(n - k + 1) / odds;
    }
    let sum: f64 = out.iter().sum();
    out.iter_mut().for_each(|x| *x /= sum);
    out
}

/// The chances of 0, 1, ... `draws` marked ones among `draws` taken without putting back from `total`, of which `marked`
/// are marked.
#[must_use]
pub fn hypergeometric(total: u32, marked: u32, draws: u32) -> Vec<f64> {
    let draws = draws.min(total);
    let marked = marked.min(total);
    (0..=draws)
        .map(|k| {
            if k > marked || draws - k > total - marked {
                return 0.0;
            }
            // C(draws, k) · marked falling k · (total - marked) falling (draws - k) / total falling draws, with factors
            // taken in turn so that the product neither overflows nor vanishes early.
            let mut out = 1.0;
            for i in 0..draws {
                let numerator = if i < k { marked - i } else { total - marked - (i - k) };
                out *= f64::from(numerator) / f64::from(total - i);
                if i < k {
                    out *= f64::from(draws - i) / f64::from(k - i);
                }
            }
            out
        })
        .collect()
}

/// The chance that one answer is found wrong and disputed in time: stake-weighted sortition with `rate` expected auditors
/// over `auditors` equal units of stake, `honest` of them honest, each away with chance `miss` and in time with chance
/// `timely`; apart from that a client replays it in time with chance `client`.
#[must_use]
pub fn detection(rate: f64, auditors: u32, honest: u32, miss: f64, timely: f64, client: f64) -> f64 {
    let each = (rate / f64::from(auditors.max(1))).min(1.0) * (1.0 - miss) * timely;
    1.0 - power(1.0 - each, honest) * (1.0 - client)
}

/// The chance that at least one of `n` wrong answers is found: 1 - (1 - pd)^n.
#[must_use]
pub fn detection_of_any(pd: f64, n: u32) -> f64 {
    1.0 - power(1.0 - pd, n)
}

/// What a node gains on average from one wrong answer: `gain` - pd·(slash + forfeited).
#[must_use]
pub fn single_gain(pd: f64, slash: f64, forfeited: f64, gain: f64) -> f64 {
    gain - pd * (slash + forfeited)
}

/// Whether one wrong answer loses money on average: pd·(slash + price) > gain. The payment is forfeited.
#[must_use]
pub fn single_cheat_loses(pd: f64, slash: f64, price: f64, gain: f64) -> bool {
    single_gain(pd, slash, price, gain) < 0.0
}

/// Smallest slash at which one wrong answer does not pay when its payment is clawed back: gain / pd - price.
#[must_use]
pub fn slash_when_clawed_back(pd: f64, price: f64, gain: f64) -> f64 {
    (gain / pd - price).max(0.0)
}

/// Smallest slash at which one wrong answer does not pay when the payment, already released, stays paid: gain / pd.
#[must_use]
pub fn slash_when_paid(pd: f64, gain: f64) -> f64 {
    gain / pd
}

/// What a node gains on average from `n` wrong answers given before the first verdict: n·gain less a slash for each one
/// found, as far as the stake goes, less `forfeited` for each one found.
#[must_use]
pub fn burst_gain(n: u32, pd: f64, slash: f64, stake: f64, forfeited: f64, gain: f64) -> f64 {
    let loss: f64 = binomial(n, pd)
        .iter()
        .enumerate()
        .map(|(found, chance)| chance * ((found as f64 * slash).min(stake) + found as f64 * forfeited))
        .sum();
    f64::from(n) * gain - loss
}

/// What a node that always cheats gains on average until it is out: it gives 1/pd answers up to the first that is found
/// and `in_flight` more until the verdict; one slash and one payment are lost for the first, and burst losses, with what
/// is left of the stake, for the others.
#[must_use]
pub fn always_gain(pd: f64, in_flight: u32, slash: f64, stake: f64, forfeited: f64, gain: f64) -> f64 {
    let slash = slash.min(stake);
    gain / pd - slash - forfeited + burst_gain(in_flight, pd, slash, stake - slash, forfeited, gain)
}

/// Stake that a large node needs for each answer it gives in an hour. Until the first verdict, `hours` later, its answers
/// may all be wrong; with many of them luck evens out, and the stake must cover what they save less what is forfeited.
#[must_use]
pub fn stake_in_flight(hours: u32, pd: f64, forfeited: f64, gain: f64) -> f64 {
    f64::from(hours) * (gain - pd * forfeited).max(0.0)
}

/// Smallest canary rate at which saying "right" without work loses money: k·lazy_slash > saved, so saved / lazy_slash.
#[must_use]
pub fn canary_break_even(saved: f64, lazy_slash: f64) -> f64 {
    saved / lazy_slash
}

/// Smallest bond at which a challenge without ground loses money against a node that is away for a whole move with
/// chance `offline`: offline / (1 - offline) · bounty · timeout_slash.
#[must_use]
pub fn spam_bond(offline: f64, bounty: f64, timeout_slash: f64) -> f64 {
    offline / (1.0 - offline) * bounty * timeout_slash
}

/// How a jury may end. Two thirds of the votes convict; fewer than `min` votes decide nothing.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct JuryOdds {
    /// Chance that those who vote "guilty" are two thirds.
    pub convicts: f64,
    /// Chance that enough voted and they are not.
    pub acquits: f64,
    /// Chance that fewer than the minimum voted.
    pub too_few: f64,
}

/// The jury drawn by sortition: `rate` expected jurors from `units` of stake, of which a share `guilty` votes guilty.
#[must_use]
pub fn jury(rate: f64, min: u32, units: u32, guilty: f64) -> JuryOdds {
    let yes = (f64::from(units) * guilty.clamp(0.0, 1.0)).round() as u32;
    let p = (rate / f64::from(units.max(1))).min(1.0);
    let (for_it, against) = (binomial(yes, p), binomial(units - yes, p));
    let mut odds = JuryOdds { convicts: 0.0, acquits: 0.0, too_few: 0.0 };
    for (a, pa) in for_it.iter().enumerate() {
        for (b, pb) in against.iter().enumerate() {
            let chance = pa * pb;
            if ((a + b) as u32) < min.max(1) {
                odds.too_few += chance;
            } else if a * 3 >= (a + b) * 2 {
                odds.convicts += chance;
            } else {
                odds.acquits += chance;
            }
        }
    }
    odds
}

/// The chance that a committee of exactly `size` members, drawn from `units` of stake without putting back, has two thirds
/// from the share `adversary`.
#[must_use]
pub fn committee_capture(size: u32, units: u32, adversary: f64) -> f64 {
    let marked = (f64::from(units) * adversary).round() as u32;
    hypergeometric(units, marked, size)
        .iter()
        .enumerate()
        .filter(|(k, _)| *k as u32 * 3 >= size * 2)
        .map(|(_, p)| p)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 + 1e-9 * b.abs(), "{a} is not {b}");
    }

    #[test]
    fn distributions_sum_to_one_and_have_their_means() {
        for (n, p) in [(1, 0.3), (10, 0.5), (200, 0.05), (400, 0.9), (200_000, 0.02), (5, 0.0), (5, 1.0)] {
            let terms = binomial(n, p);
            near(terms.iter().sum(), 1.0);
            near(terms.iter().enumerate().map(|(k, t)| k as f64 * t).sum(), f64::from(n) * p);
        }
        for (total, marked, draws) in [(10, 3, 4), (200, 66, 40), (50, 50, 7), (30, 0, 30), (9, 5, 9)] {
            let terms = hypergeometric(total, marked, draws);
            near(terms.iter().sum(), 1.0);
            let mean: f64 = terms.iter().enumerate().map(|(k, t)| k as f64 * t).sum();
            near(mean, f64::from(draws) * f64::from(marked) / f64::from(total));
        }
        // C(4,2)·C(6,1) / C(10,3) = 36/120.
        near(hypergeometric(10, 4, 3)[2], 0.3);
        near(binomial(4, 0.5)[2], 0.375);
    }

    #[test]
    fn detection_by_hand() {
        near(detection(1.0, 10, 10, 0.0, 1.0, 0.0), 1.0 - power(0.9, 10));
        near(detection(0.0, 10, 10, 0.0, 1.0, 0.25), 0.25);
        near(detection(5.0, 10, 1, 0.5, 0.5, 0.0), 0.125);
        near(detection_of_any(0.1, 2), 0.19);
        near(power(1.5, 5), 7.593_75);
    }

    #[test]
    fn the_slash_that_deters_is_the_one_at_which_the_gain_is_zero() {
        for pd in [0.001, 0.02, 0.3] {
            let slash = slash_when_clawed_back(pd, 1.0, 0.6);
            near(single_gain(pd, slash, if slash > 0.0 { 1.0 } else { 0.6 / pd }, 0.6), 0.0);
            near(single_gain(pd, slash_when_paid(pd, 0.6), 0.0, 0.6), 0.0);
            assert!(!single_cheat_loses(pd, slash * 0.9 - 0.1, 1.0, 0.6));
            assert!(single_cheat_loses(pd, slash * 1.1 + 0.1, 1.0, 0.6));
        }
        near(slash_when_clawed_back(0.9, 1.0, 0.5), 0.0);
    }

    #[test]
    fn a_burst_is_a_sum_of_single_answers_while_the_stake_lasts() {
        near(burst_gain(50, 0.1, 8.0, 1e9, 1.0, 0.5), 50.0 * single_gain(0.1, 8.0, 1.0, 0.5));
        // With a stake of one slash, only "any found" matters.
        near(burst_gain(3, 0.5, 8.0, 8.0, 0.0, 0.5), 1.5 - 8.0 * detection_of_any(0.5, 3));
        near(stake_in_flight(12, 0.1, 1.0, 0.6), 6.0);
        // ... which is the limit of a burst with a slash that deters, and many answers.
        let stake = 1000.0 * stake_in_flight(1, 0.1, 1.0, 0.6);
        assert!(burst_gain(1000, 0.1, 50.0, stake * 1.01, 1.0, 0.6) < 0.0);
        assert!(burst_gain(1000, 0.1, 50.0, stake * 0.99, 1.0, 0.6) > 0.0);
        near(always_gain(0.1, 0, 30.0, 30.0, 1.0, 0.5), 0.5 / 0.1 - 31.0);
    }

    #[test]
    fn juries_by_hand() {
        // Everybody is drawn: four of six is two thirds.
        let odds = jury(6.0, 1, 6, 4.0 / 6.0);
        near(odds.convicts, 1.0);
        near(jury(6.0, 7, 6, 1.0).too_few, 1.0);
        near(jury(6.0, 1, 6, 0.5).acquits, 1.0);
        let odds = jury(21.0, 9, 200, 0.33);
        near(odds.convicts + odds.acquits + odds.too_few, 1.0);
        // Three from ten with four bad, two or three bad: (36 + 4) / 120.
        near(committee_capture(3, 10, 0.4), 40.0 / 120.0);
        assert!(jury(41.0, 21, 200, 0.2).convicts < jury(21.0, 11, 200, 0.2).convicts);
        near(canary_break_even(0.09, 36.0), 0.0025);
        near(spam_bond(0.5, 0.2, 10.0), 2.0);
    }
}
