use kernels::{argmax, exp};
use std::collections::BTreeMap;
use types::Sampling;

/// Chooses tokens for one sequence (`SPEC.md` of the kernels, section 6).
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    params: Sampling,
    counts: BTreeMap<u32, u32>,
    drawn: u64,
}

impl Sampler {
    pub(crate) fn new(params: Sampling) -> Self {
        Self { params, counts: BTreeMap::new(), drawn: 0 }
    }

    /// The next token. `logits` is used as scratch.
    pub(crate) fn next(&mut self, logits: &mut [f32]) -> u32 {
        let token = self.choose(logits);
        *self.counts.entry(token).or_default() += 1;
        self.drawn += 1;
        token
    }

    fn choose(&self, logits: &mut [f32]) -> u32 {
        let p = &self.params;
        if p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 {
            for (token, count) in &self.counts {
                let penalty = p.presence_penalty + p.frequency_penalty * (*count as f32);
                logits[*token as usize] -= penalty;
            }
        }
        if p.temperature == 0.0 {
            return argmax(logits) as u32;
        }
        // Likeliest first; equal logits in order of id.
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if p.top_k > 0 && (p.top_k as usize) < order.len() {
            let k = p.top_k as usize;
            order.select_nth_unstable_by(k - 1, by_logit);
            order.truncate(k);
        }
        order.sort_unstable_by(by_logit);
        let largest = logits[order[0] as usize];
        let weights: Vec<f32> =
            order.iter().map(|t| exp((logits[*t as usize] - largest) / p.temperature)).collect();
        let kept = kept(&weights, p.top_p, p.min_p);
        let total = sum(&weights[..kept]);
        let target = uniform(p.seed, self.drawn) * total;
        let mut below = 0f32;
        for (token, weight) in order[..kept].iter().zip(&weights) {
            below += *weight;
            if target < below {
                return *token;
            }
        }
        order[kept - 1]
    }
}

/// How many of the sorted weights top-p and min-p keep; at least one.
fn kept(weights: &[f32], top_p: f32, min_p: f32) -> usize {
    let mut n = weights.len();
    if top_p < 1.0 {
        let goal = sum(weights) * top_p;
        let mut below = 0f32;
        n = weights
            .iter()
            .position(|w| {
                below += *w;
                below >= goal
            })
            .map_or(n, |i| i + 1);
    }
    if min_p > 0.0 {
        // The largest weight is exp(0) = 1.
        n = weights[..n].iter().position(|w| *w < min_p).unwrap_or(n);
    }
    n.max(1)
}

/// Ascending sum, one addition after the other.
fn sum(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |a, w| a + w)
}

/// A float in [0, 1) with 24 random bits, from the counter-based generator: key = seed, counter = index of the token.
fn uniform(seed: u64, index: u64) -> f32 {
    let words = philox4x32([index as u32, (index >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    (words[0] >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11).
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xd251_1f53;
        let p1 = u64::from(c2) * 0xcd9e_8d57;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // kat_vectors of the Random123 distribution.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn draw(params: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(params);
        (0..n).map(|_| sampler.next(&mut logits.to_vec())).collect()
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
}
