//! Quantizing and dequantizing in one pass, for the forward side of quantization-aware training.
//!
//! The gradients are straight-through: the identity.

use rayon::prelude::*;

use super::simd::{LANES, simd};

/// Entries in one task, and in one partial sum of magnitudes.
const CHUNK: usize = 1 << 14;

/// Smallest mean or maximum that a scale is made of.
const FLOOR: f32 = 1e-5;

/// `out = clamp(round(w * k), -1, 1) / k` with `k = 1 / (max(mean(|w|), 1e-5) + extra_eps)` over the whole tensor, the mean in
/// f64, halves to even (absmean, arXiv:2402.17764 section 2).
///
/// # Panics
///
/// If the lengths differ.
pub fn ternarize_dequantize(w: &[f32], extra_eps: f64, out: &mut [f32]) {
    assert_eq!(w.len(), out.len());
    let total: f64 = w.par_chunks(CHUNK).map(magnitudes).collect::<Vec<_>>().iter().sum();
    let mean = (total / w.len().max(1) as f64).max(f64::from(FLOOR));
    let k = (1.0 / (mean + extra_eps)) as f32;
    w.par_chunks(CHUNK)
        .zip(out.par_chunks_mut(CHUNK))
        .for_each(|(w, out)| round_all(w, k, -1.0, 1.0, out));
}

/// `out = clamp(round(x * k), -128, 127) / k` with `k = 127 / max(max(|x|), 1e-5)` for each row, halves to even (absmax,
/// arXiv:2402.17764 section 2).
///
/// # Shapes
///
/// - `x`, `out`: `[rows, hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn quantize_dequantize_int8(x: &[f32], hidden: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    x.par_chunks(64 * hidden)
        .zip(out.par_chunks_mut(64 * hidden))
        .for_each(|(x, out)| int8_rows(x, hidden, out));
}

simd! {
    fn magnitudes<'a>(w: &'a [f32]) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (whole, tail) = w.as_chunks::<LANES>();
        for w in whole {
            for (lane, w) in lanes.iter_mut().zip(w) {
                *lane += f64::from(w.abs());
            }
        }
        lanes.iter().sum::<f64>() + tail.iter().map(|w| f64::from(w.abs())).sum::<f64>()
    }
}

simd! {
    fn round_all<'a>(x: &'a [f32], k: f32, low: f32, high: f32, out: &'a mut [f32]) {
        round_row(x, k, low, high, out);
    }
}

#[inline(always)]
fn round_row(x: &[f32], k: f32, low: f32, high: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * k).round_ties_even().clamp(low, high) / k;
    }
}

simd! {
    fn int8_rows<'a>(x: &'a [f32], hidden: usize, out: &'a mut [f32]) {
        for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            let mut lanes = [FLOOR; LANES];
            let (whole, tail) = x.as_chunks::<LANES>();
            for x in whole {
                for (lane, x) in lanes.iter_mut().zip(x) {
                    let x = x.abs();
                    *lane = if x > *lane { x } else { *lane };
                }
            }
            let max = lanes.iter().copied().chain(tail.iter().map(|x| x.abs())).fold(FLOOR, f32::max);
            round_row(x, 127.0 / max, -128.0, 127.0, out);
        }
    }
}
