/// IEEE-754 half to single precision; exact.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = (u32::from(h) & 0x8000) << 16;
    let exponent = (u32::from(h) >> 10) & 31;
    let mantissa = u32::from(h) & 0x3ff;
    match exponent {
        0 => {
            let magnitude = (mantissa as f32) * (1.0 / 16_777_216.0);
            f32::from_bits(magnitude.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13)),
    }
}

/// Single to half precision, rounding to nearest, ties to even; overflow gives infinity, NaN a quiet NaN.
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    if x.is_nan() {
        return sign | 0x7e00;
    }
    let exponent = ((bits >> 23) & 255) as i32 - 112;
    let mantissa = bits & 0x7f_ffff;
    if exponent >= 31 {
        return sign | 0x7c00;
    }
    let (value, shift) = if exponent <= 0 {
        if exponent < -10 {
            return sign;
        }
        (mantissa | 0x80_0000, (14 - exponent) as u32)
    } else {
        (((exponent as u32) << 23) | mantissa, 13)
    };
    let half = value >> shift;
    let rest = value & ((1 << shift) - 1);
    let middle = 1 << (shift - 1);
    let up = rest > middle || (rest == middle && half & 1 == 1);
    sign | (half + u32::from(up)) as u16
}

/// Adding and taking away 1.5·2²³ rounds to the nearest integer, ties to even, for |x| < 2²².
pub(crate) const ROUND: f32 = 12_582_912.0;

/// e to the x: Cody-Waite reduction and a degree-5 polynomial (as Cephes `expf`, but with the last coefficient exactly 0.5), with
/// multiplications and additions only. The argument is clamped to [-87, 88]; the largest error is about 1 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // A NaN stays a NaN.
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // The lowest bits of `shifted` are n; the shift drops all others.
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// x / (1 + e^-x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Hyperbolic tangent as `1 - 2 / (e^2x + 1)`.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// GELU in its tanh form (arXiv:1606.08415): `x / (1 + e^-2u)`, `u = √(2/π) (x + 0.044715 x³)`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let cube = (x * x) * x;
    let u = 0.797_884_6 * (x + 0.044_715 * cube);
    x / (1.0 + exp(-2.0 * u))
}

/// GELU with the error function (arXiv:1606.08415), which is Abramowitz and Stegun's 7.1.26 (error below 1.5e-7).
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let a = z.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t + -1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t + -0.284_496_72;
    let p = p * t + 0.254_829_6;
    let erf = 1.0 - (p * t) * exp(-(a * a));
    let erf = if z < 0.0 { -erf } else { erf };
    (0.5 * x) * (1.0 + erf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_half_survives_the_round_trip() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert!(f16_to_f32(f32_to_f16(x)).is_nan());
            } else {
                assert_eq!(f32_to_f16(x), h, "{h:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn exp_is_within_about_one_ulp(x in -87f32..88.0) {
            let exact = libm::exp(f64::from(x));
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            prop_assert!((f64::from(exp(x)) - exact).abs() <= 1.0 * ulp + ulp * 0.01, "{x}");
        }

        #[test]
        fn activations_are_close_to_exact_ones(x in -12f32..12.0) {
            let d = f64::from(x);
            let close = |found: f32, exact: f64| (f64::from(found) - exact).abs() <= 1e-6 * (1.0 + exact.abs());
            prop_assert!(close(tanh(x), libm::tanh(d)), "tanh {x}");
            prop_assert!(close(silu(x), d / (1.0 + libm::exp(-d))), "silu {x}");
            prop_assert!(close(gelu_erf(x), 0.5 * d * (1.0 + libm::erf(d / 2f64.sqrt()))), "gelu {x}");
            let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            prop_assert!(close(gelu_tanh(x), 0.5 * d * (1.0 + libm::tanh(u))), "gelu_tanh {x}");
        }

        #[test]
        fn halves_round_to_nearest(x in -70000f32..70000.0) {
            let h = f32_to_f16(x);
            let here = (f64::from(f16_to_f32(h)) - f64::from(x)).abs();
            for neighbour in [h.wrapping_sub(1), h.wrapping_add(1)] {
                let n = f16_to_f32(neighbour);
                if n.is_finite() && f16_to_f32(h).is_finite() {
                    prop_assert!(here <= (f64::from(n) - f64::from(x)).abs());
                }
            }
        }
    }

    #[test]
    fn golden_values() {
        assert_eq!(exp(0.0).to_bits(), 0x3f80_0000);
        assert_eq!(exp(1.0).to_bits(), 0x402d_f854);
        assert_eq!(exp(-1.0).to_bits(), 0x3ebc_5ab2);
        // Tells the last coefficient from its neighbours.
        assert_eq!(exp(f32::from_bits(0xbeb1_7218)).to_bits(), 0x3f35_04f3);
        assert_eq!(exp(1000.0), exp(88.0));
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
    }
}
