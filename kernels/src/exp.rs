//! An exponential that vectorizes.

/// `e^x` within 2 units in the last place for `x` in `[-87.33, 88.37]`; smaller `x` give 0, larger ones a value of at
/// least `2.3e38`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite, `ln 2` in two parts), `e^r` by the polynomial of Cephes'
/// `expf`, the power of two added to the exponent. libm's `expf` is as exact, but a call per value.
///
/// Call it inside a loop of `simd!`: fused multiply-adds are fast in code that is compiled for them, and calls elsewhere.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.33;
    let clamped = x.clamp(LOWEST, 88.37);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < LOWEST { 0.0 } else { scaled }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in -873_300..=883_700 {
            let x = i as f32 * 1e-4;
            let wanted = f64::from(x).exp();
            let unit = f64::from(f32::EPSILON) * 2.0_f64.powf(wanted.log2().floor());
            worst = worst.max((f64::from(exp(x)) - wanted).abs() / unit);
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0) > 2.3e38 && exp(f32::NAN).is_nan());
    }
}
