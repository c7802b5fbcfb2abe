use crate::{EngineError, constraint::Constraint};
use kernels::{argmax, exp, uniform};
use std::collections::BTreeMap;
use types::Sampling;

/// First candidates that top-p sorts; it sorts four times as many whenever they are not enough.
const TOP_P_FIRST: usize = 64;

/// Log-probabilities at one place of an answer, of the model itself: before bias, penalties, grammar and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm of the chosen token's probability.
    pub logprob: f64,
    /// The likeliest tokens, best first, with theirs.
    pub top: Vec<(u32, f64)>,
}

/// What decides the tokens of one answer, besides the model and the prompt.
#[derive(Clone, Debug)]
pub struct Choosing {
    /// Sampling parameters and seed.
    pub sampling: Sampling,
    /// Which of several answers to one prompt this is.
    pub choice: u32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Grammar that the answer must follow.
    pub constraint: Option<Constraint>,
}

impl Choosing {
    /// Plain sampling of the first answer.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, choice: 0, logit_bias: Vec::new(), constraint: None }
    }
}

/// Chooses tokens for one sequence (`SPEC.md` of the kernels, section 6).
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    by: Choosing,
    counts: BTreeMap<u32, u32>,
    drawn: u64,
}

impl Sampler {
    pub(crate) fn new(by: Choosing) -> Self {
        Self { by, counts: BTreeMap::new(), drawn: 0 }
    }

    /// The next token. `logits` is used as scratch.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar allows no token.
    pub(crate) fn next(&mut self, logits: &mut [f32]) -> Result<u32, EngineError> {
        for (token, bias) in &self.by.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let p = self.by.sampling;
        if p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 {
            for (token, count) in &self.counts {
                let penalty = p.presence_penalty + p.frequency_penalty * (*count as f32);
                logits[*token as usize] -= penalty;
            }
        }
        if let Some(constraint) = &mut self.by.constraint {
            let mask = constraint.mask()?;
            let allowed = |t: usize| mask.get(t / 32).is_some_and(|word| word >> (t % 32) & 1 == 1);
            if !(0..logits.len()).any(allowed) {
                return Err(EngineError::Grammar("it allows no further token".into()));
            }
            for (t, logit) in logits.iter_mut().enumerate() {
                if !allowed(t) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = self.choose(logits);
        if let Some(constraint) = &mut self.by.constraint {
            constraint.accept(token)?;
        }
        self.note(token);
        Ok(token)
    }

    /// The biases, when the next token is the one of the largest logit after them and nothing else counts.
    pub(crate) fn greedy_biases(&self) -> Option<&[(u32, f32)]> {
        let p = &self.by.sampling;
        let plain = p.temperature == 0.0 && p.presence_penalty == 0.0 && p.frequency_penalty == 0.0;
        (plain && self.by.constraint.is_none()).then_some(&self.by.logit_bias)
    }

    /// Notes a token that was chosen elsewhere as [`greedy_biases`](Self::greedy_biases) says.
    pub(crate) fn note(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
        self.drawn += 1;
    }

    fn choose(&self, logits: &[f32]) -> u32 {
        let p = &self.by.sampling;
        let best = argmax(logits);
        if p.temperature == 0.0 {
            return best as u32;
        }
        let largest = logits[best];
        // Excluded tokens have the logit minus infinity and no weight at all.
        let mut kept: Vec<(u32, f32)> = logits
            .iter()
            .enumerate()
            .filter(|(_, l)| **l > f32::NEG_INFINITY)
            .map(|(t, l)| (t as u32, exp((l - largest) / p.temperature)))
            .collect();
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| {
            logits[b.0 as usize].total_cmp(&logits[a.0 as usize]).then(a.0.cmp(&b.0))
        };
        if p.top_k > 0 && (p.top_k as usize) < kept.len() {
            let k = p.top_k as usize;
            kept.select_nth_unstable_by(k - 1, by_logit);
            kept.truncate(k);
            kept.sort_unstable_by_key(|(t, _)| *t);
        }
        if p.min_p > 0.0 {
            // The largest weight is exp(0) = 1, so one token always stays.
            kept.retain(|(_, w)| *w >= p.min_p);
        }
        if p.top_p < 1.0 {
            let goal = sum(&kept) * p.top_p;
            let mut sorted = TOP_P_FIRST.min(kept.len());
            let n = loop {
                if sorted < kept.len() {
                    kept.select_nth_unstable_by(sorted - 1, by_logit);
                }
                kept[..sorted].sort_unstable_by(by_logit);
                let mut below = 0f32;
                let reached = kept[..sorted].iter().position(|(_, w)| {
                    below += *w;
                    below >= goal
                });
                match reached {
                    Some(i) => break i + 1,
                    None if sorted == kept.len() => break sorted,
                    None => sorted = (sorted * 4).min(kept.len()),
                }
            };
            kept.truncate(n);
            kept.sort_unstable_by_key(|(t, _)| *t);
        }
        let target = uniform(p.seed, self.drawn, self.by.choice) * sum(&kept);
        let mut below = 0f32;
        for (token, weight) in &kept {
            below += *weight;
            if target < below {
                return *token;
            }
        }
        kept.last().map_or(best as u32, |(t, _)| *t)
    }
}

/// Log-probabilities of `token` and the `n` likeliest tokens. The sum runs over ascending ids in f64, the logarithm is `libm`'s,
/// so they are the same on every machine.
pub(crate) fn logprobs(logits: &[f32], token: u32, n: u8) -> TokenLogprobs {
    let largest = logits[argmax(logits)];
    let total: f64 = logits.iter().map(|l| f64::from(exp(l - largest))).sum();
    let log_total = libm::log(total);
    let of = |t: u32| f64::from(logits[t as usize] - largest) - log_total;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = usize::from(n).min(order.len());
    if n > 0 {
        order.select_nth_unstable_by(n - 1, by_logit);
    }
    order.truncate(n);
    order.sort_unstable_by(by_logit);
    TokenLogprobs { logprob: of(token), top: order.into_iter().map(|t| (t, of(t))).collect() }
}

/// Sum in ascending order of id, one addition after the other.
fn sum(kept: &[(u32, f32)]) -> f32 {
    kept.iter().fold(0.0, |a, (_, w)| a + w)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn draw(params: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(Choosing::new(params));
        (0..n).map(|_| sampler.next(&mut logits.to_vec()).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_penalties_move_on() {
        let logits = [1.0, 2.0, 2.0, 0.5];
        assert_eq!(draw(Sampling::GREEDY, &logits, 3), [1, 1, 1]);
        let penalised = Sampling { presence_penalty: 0.5, ..Sampling::GREEDY };
        assert_eq!(draw(penalised, &logits, 3), [1, 2, 1]);
        let counted = Sampling { frequency_penalty: 0.6, ..Sampling::GREEDY };
        assert_eq!(draw(counted, &logits, 4), [1, 2, 1, 2]);
    }

    #[test]
    fn filters_keep_what_they_promise() {
        let logits = [0.0, 3.0, 2.0, 1.0, -5.0];
        let params = Sampling { temperature: 1.0, seed: 9, ..Sampling::GREEDY };
        let seen =
            |p: Sampling| draw(p, &logits, 2000).into_iter().collect::<std::collections::BTreeSet<_>>();
        assert!(seen(params).len() >= 4);
        assert_eq!(seen(Sampling { top_k: 2, ..params }).into_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(seen(Sampling { top_p: 0.5, ..params }).into_iter().collect::<Vec<_>>(), [1]);
        assert_eq!(seen(Sampling { min_p: 0.2, ..params }).into_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(seen(Sampling { min_p: 1.0, ..params }).into_iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn frequencies_follow_the_softmax_and_seeds_differ() {
        let logits = [0.0, 1.0];
        let params = Sampling { temperature: 1.0, seed: 3, ..Sampling::GREEDY };
        let ones = draw(params, &logits, 20_000).iter().filter(|t| **t == 1).count();
        // e / (1 + e) = 0.731; five standard deviations are 0.016.
        assert!((ones as f64 / 20_000.0 - 0.731).abs() < 0.016, "{ones}");
        assert_ne!(draw(params, &logits, 64), draw(Sampling { seed: 4, ..params }, &logits, 64));
        assert_eq!(draw(params, &logits, 64), draw(params, &logits, 64));
    }

    #[test]
    fn a_bias_forbids_and_forces_and_choices_differ() {
        let logits = [0.0, 1.0, 0.5];
        let mut by = Choosing::new(Sampling { temperature: 1.0, seed: 3, ..Sampling::GREEDY });
        let run = |by: &Choosing| {
            let mut s = Sampler::new(by.clone());
            (0..200).map(|_| s.next(&mut logits.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        let first = run(&by);
        by.choice = 1;
        assert_ne!(run(&by), first);
        by.logit_bias = vec![(1, -100.0)];
        assert!(run(&by).iter().all(|t| *t != 1));
        by.logit_bias = vec![(2, 100.0)];
        assert!(run(&by).iter().all(|t| *t == 2));
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let found = logprobs(&[0.0, 2.0, 1.0, 2.0], 2, 3);
        let total = 1.0 + 2.0 * 2f64.exp() + 1f64.exp();
        assert!((found.logprob - (1f64.exp() / total).ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [1, 3, 2]);
    }

    proptest! {
        /// The fast selection gives the same set as sorting everything.
        #[test]
        fn top_p_equals_a_full_sort(logits in prop::collection::vec(-4f32..4.0, 1..400), top_p in 0.01f32..1.0, seed: u64) {
            let params = Sampling { temperature: 1.3, top_p, seed, ..Sampling::GREEDY };
            let token = draw(params, &logits, 1)[0];
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let weight = |t: u32| exp((logits[t as usize] - largest) / 1.3);
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            let goal = order.iter().fold(0f32, |a, t| a + weight(*t)) * top_p;
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            let mut below = 0f32;
            let n = order.iter().position(|t| { below += weight(*t); below >= goal }).map_or(order.len(), |i| i + 1);
            order.truncate(n);
            order.sort_unstable();
            let target = uniform(seed, 0, 0) * order.iter().fold(0f32, |a, t| a + weight(*t));
            let mut below = 0f32;
            let expected = order.iter().copied().find(|t| { below += weight(*t); target < below });
            prop_assert_eq!(token, expected.unwrap_or(order[n - 1]));
        }
    }
}
