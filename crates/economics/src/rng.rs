//! The simulation's own random numbers, so that a seed gives the same bytes with every compiler and platform.

/// xoshiro256** (Blackman and Vigna 2018), seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// A generator for `seed`; every seed gives a good state.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        Self(std::array::from_fn(|_| splitmix64(&mut x)))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number in `0..n` (`n` at least 1); by multiplication, so biased by less than `n` / 2^64.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.bits()) * u128::from(n.max(1))) >> 64) as u32
    }

    /// True with the chance whose [`threshold`] is given.
    pub fn chance(&mut self, threshold: u64) -> bool {
        threshold == u64::MAX || self.bits() < threshold
    }
}

/// One step of splitmix64 (Steele, Lea and Flood 2014).
fn splitmix64(x: &mut u64) -> u64 {
    *x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *x;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A probability as a fraction of 2^64; 1 and above saturate.
#[must_use]
pub fn threshold(p: f64) -> u64 {
    // The cast saturates: negative and NaN give 0, 2^64 and above give the largest value.
    (p * 18_446_744_073_709_551_616.0) as u64
}

/// Draws from a binomial distribution by inversion of its table.
#[derive(Clone, Debug)]
pub struct Binomial {
    cumulative: Vec<u64>,
}

impl Binomial {
    /// The number of successes in `n` trials of chance `p`.
    #[must_use]
    pub fn new(n: u32, p: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulative = Vec::new();
        for term in crate::analysis::binomial(n, p) {
            sum += term;
            cumulative.push(threshold(sum));
            if sum > 1.0 - 1e-15 {
                break;
            }
        }
        Self { cumulative }
    }

    /// One draw.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let x = rng.bits();
        self.cumulative.iter().position(|&c| x < c).unwrap_or(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_matches_its_published_vector() {
        let mut x = 1_234_567;
        assert_eq!(splitmix64(&mut x), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut x), 3_203_168_211_198_807_973);
    }

    #[test]
    fn draws_have_the_mean_and_variance_of_their_distribution() {
        let (mut rng, n) = (Rng::new(7), 200_000);
        let table = Binomial::new(200, 0.02);
        let draws: Vec<f64> = (0..n).map(|_| table.draw(&mut rng) as f64).collect();
        let mean = draws.iter().sum::<f64>() / f64::from(n);
        let variance = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / f64::from(n);
        assert!((mean - 4.0).abs() < 0.02, "{mean}");
        assert!((variance - 3.92).abs() < 0.08, "{variance}");
        let hits = (0..n).filter(|_| rng.chance(threshold(0.25))).count() as f64;
        assert!((hits / f64::from(n) - 0.25).abs() < 0.005);
        assert!(rng.chance(threshold(1.0)) && !rng.chance(threshold(0.0)));
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
