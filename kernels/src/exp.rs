//! The exponential, in operations that every CPU vectorizes.

/// `1.5 * 2^23`: leaves the nearest integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

/// `e^x` within two units in the last place; 0 below -87.3 (no subnormals), and `e^88 = 1.65e38` above
/// 88, since neither a softmax nor a sigmoid gains by an infinity. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite's two-part `ln 2`), then the polynomial of
/// Cephes `expf` for `e^r`, then `2^n` by writing the exponent. libm's `expf` is a call for each value;
/// this is inlined into loops of four or eight lanes, and is the same to the bit on every CPU.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let bounded = x.clamp(-87.3, 88.0);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * (355.0 / 512.0) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_3e-1;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = (p * (r * r) + r + 1.0) * power;
    if x < -87.3 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_exact_to_two_units() {
        for i in -873_000..=880_000 {
            let x = i as f32 / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "e^{x}: {error:e}");
        }
    }

    #[test]
    fn ends_are_tame() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
