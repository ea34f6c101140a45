//! Quantizing in the forward pass of training: codes as floats, whose products are exact below 2^24, or dequantized at once.
//!
//! The gradients are straight-through: the identity.

use rayon::prelude::*;

use crate::simd::{LANES, simd};
use crate::ternarize::{self, EPS};

/// Entries in one task.
const CHUNK: usize = 1 << 14;

/// Rows in one task.
const ROWS: usize = 64;

/// Smallest maximum that a scale is made of.
const FLOOR: f32 = crate::quantize::EPS;

/// Splits weights into trits, as floats, and returns their scale, so that `w ~ scale * trit`: the twin of
/// [`crate::ternarize::ternarize`], with the same `k`; a NaN stays one.
///
/// # Panics
///
/// If the lengths differ.
pub fn trits(w: &[f32], extra_eps: f64, trits: &mut [f32]) -> f32 {
    let k = (1.0 / (absmean(w).max(EPS) + extra_eps)) as f32;
    ternarize(w, k, 1.0, trits);
    k.recip()
}

/// `out = scale * trit`, see [`trits`].
///
/// # Panics
///
/// If the lengths differ.
pub fn ternarize_dequantize(w: &[f32], extra_eps: f64, out: &mut [f32]) {
    let k = (1.0 / (absmean(w).max(EPS) + extra_eps)) as f32;
    ternarize(w, k, k.recip(), out);
}

/// [`ternarize::absmean`] on all threads, to the bit.
fn absmean(w: &[f32]) -> f64 {
    let sums: Vec<f64> = w.par_chunks(ternarize::CHUNK).map(ternarize::sum_of_magnitudes).collect();
    ternarize::mean(sums.into_iter(), w.len())
}

fn ternarize(w: &[f32], k: f32, scale: f32, out: &mut [f32]) {
    assert_eq!(w.len(), out.len());
    w.par_chunks(CHUNK)
        .zip(out.par_chunks_mut(CHUNK))
        .for_each(|(w, out)| ternarize_chunk(w, k, scale, out));
}

/// Splits each row into int8 codes, as floats, and a scale, so that `x ~ scale * code`: the twin of
/// [`crate::quantize::quantize_int8`], with the same `k`; a NaN stays one.
///
/// # Shapes
///
/// - `x`, `codes`: `[rows, hidden]`
/// - `scales`: `[rows]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn int8_codes(x: &[f32], hidden: usize, codes: &mut [f32], scales: &mut [f32]) {
    assert!(hidden > 0 && x.len() == scales.len() * hidden, "rows of {hidden}");
    assert_eq!(x.len(), codes.len());
    x.par_chunks(ROWS * hidden)
        .zip(codes.par_chunks_mut(ROWS * hidden))
        .zip(scales.par_chunks_mut(ROWS))
        .for_each(|((x, codes), scales)| int8_rows(x, hidden, codes, scales));
}

/// `out = scale * code` for each row, see [`int8_codes`].
///
/// # Shapes
///
/// - `x`, `out`: `[rows, hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn quantize_dequantize_int8(x: &[f32], hidden: usize, out: &mut [f32]) {
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    assert_eq!(x.len(), out.len());
    x.par_chunks(ROWS * hidden).zip(out.par_chunks_mut(ROWS * hidden)).for_each(|(x, out)| {
        let mut scales = [0.0; ROWS];
        let scales = &mut scales[..x.len() / hidden];
        int8_rows(x, hidden, out, scales);
        scale_chunk(out, hidden, scales, 1.0);
    });
}

/// `x = x * scales[row] * factor`, in this order.
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`
/// - `scales`: `[rows]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn scale_rows(x: &mut [f32], hidden: usize, scales: &[f32], factor: f32) {
    assert!(hidden > 0 && x.len() == scales.len() * hidden, "rows of {hidden}");
    x.par_chunks_mut(ROWS * hidden)
        .zip(scales.par_chunks(ROWS))
        .for_each(|(x, scales)| scale_chunk(x, hidden, scales, factor));
}

simd! {
    fn ternarize_chunk<'a>(w: &'a [f32], k: f32, scale: f32, out: &'a mut [f32]) {
        for (out, w) in out.iter_mut().zip(w) {
            *out = (w * k).round_ties_even().clamp(-1.0, 1.0) * scale;
        }
    }
}

simd! {
    fn int8_rows<'a>(x: &'a [f32], hidden: usize, codes: &'a mut [f32], scales: &'a mut [f32]) {
        for ((x, codes), scale) in
            x.chunks_exact(hidden).zip(codes.chunks_exact_mut(hidden)).zip(scales)
        {
            let mut lanes = [FLOOR; LANES];
            let (whole, tail) = x.as_chunks::<LANES>();
            for x in whole {
                for (lane, x) in lanes.iter_mut().zip(x) {
                    let x = x.abs();
                    *lane = if x > *lane { x } else { *lane };
                }
            }
            let tail = tail.iter().map(|x| x.abs());
            let k = 127.0 / lanes.iter().copied().chain(tail).fold(FLOOR, f32::max);
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * k).round_ties_even().clamp(-128.0, 127.0);
            }
            *scale = k.recip();
        }
    }
}

simd! {
    fn scale_chunk<'a>(x: &'a mut [f32], hidden: usize, scales: &'a [f32], factor: f32) {
        for (x, scale) in x.chunks_exact_mut(hidden).zip(scales) {
            for x in x {
                *x = *x * scale * factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::quantize_int8;
    use crate::train::tests::noise;

    #[test]
    fn twins_of_the_quantizers_of_files() {
        let (rows, hidden) = (7, 131);
        let x = noise(rows * hidden, 1);
        let mut found = vec![0.0; x.len()];
        for extra_eps in [0.0, 1e-5] {
            let (wanted, scale) = crate::ternarize::ternarize(&x, extra_eps);
            assert_eq!(trits(&x, extra_eps, &mut found), scale);
            assert!(found.iter().zip(&wanted).all(|(found, &trit)| *found == f32::from(trit)));
        }
        let (mut scales, mut wanted) = (vec![0.0; rows], vec![0; hidden]);
        int8_codes(&x, hidden, &mut found, &mut scales);
        for (row, (x, found)) in x.chunks(hidden).zip(found.chunks(hidden)).enumerate() {
            assert_eq!(quantize_int8(x, &mut wanted), scales[row]);
            assert!(found.iter().zip(&wanted).all(|(found, &code)| *found == f32::from(code)));
        }
    }
}
