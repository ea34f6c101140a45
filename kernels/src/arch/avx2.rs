//! AVX2 with FMA: x86-64 since 2013.
//!
//! No closure stands in an inner loop: `array::map` and the like are compiled without the instruction set, and
//! then call back for each element.
//!
//! Products walk in tiles of `R` rows by `T` vectors, so that an unpacked row serves `T` vectors and a
//! loaded vector `R` rows. Each pair of row and vector has sums of its own, in one order, whatever the
//! tile: eight sums in flight hide the latency of the FMA.

use std::arch::x86_64::*;

use super::Arch;
use super::scalar::trit;

/// Exists only where AVX2 and FMA were detected.
pub(crate) struct Avx2(());

static AVX2: Avx2 = Avx2(());

impl Avx2 {
    /// `None` if this CPU lacks AVX2 or FMA.
    pub(crate) fn new() -> Option<&'static Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&AVX2)
    }
}

/// Calls `$tile::<R, T>` over all rows and vectors: vectors by four with one row, else one with four rows.
macro_rules! tiles {
    ($tile:ident, $d_output:expr, $seq:expr, $row:expr, $x:expr, $y:expr) => {{
        let (d_output, seq, y) = ($d_output, $seq, $y);
        let mut t = 0;
        while t + 4 <= seq {
            let x = [$x(t), $x(t + 1), $x(t + 2), $x(t + 3)];
            for r in 0..d_output {
                let [sums] = $tile([$row(r)], x);
                for (i, sum) in sums.into_iter().enumerate() {
                    y[(t + i) * d_output + r] = sum;
                }
            }
            t += 4;
        }
        for t in t..seq {
            let x = $x(t);
            let y = &mut y[t * d_output..][..d_output];
            let mut r = 0;
            while r + 4 <= d_output {
                let sums = $tile([$row(r), $row(r + 1), $row(r + 2), $row(r + 3)], [x]);
                for (y, [sum]) in y[r..].iter_mut().zip(sums) {
                    *y = sum;
                }
                r += 4;
            }
            for r in r..d_output {
                [[y[r]]] = $tile([$row(r)], [x]);
            }
        }
    }};
}

impl Arch for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn ternary_f32(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        // SAFETY: `self` is proof that this CPU has AVX2 and FMA.
        unsafe { ternary_f32(bytes, d_output, d_input, x, y) }
    }

    fn ternary_i8(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[i8], y: &mut [i32]) {
        // SAFETY: `self` is proof that this CPU has AVX2 and FMA.
        unsafe { ternary_i8(bytes, d_output, d_input, x, y) }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        // SAFETY: `self` is proof that this CPU has AVX2 and FMA.
        unsafe { dense(w, d_output, d_input, x, y) }
    }

    fn weighted_rows(&self, rows: &[f32], weights: &[f32], out: &mut [f32]) {
        // SAFETY: `self` is proof that this CPU has AVX2 and FMA.
        unsafe { weighted_rows(rows, weights, out) }
    }
}

/// Weights that a step of a float tile takes from each row.
const STEP: usize = 16;

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(x: &[f32; STEP]) -> [__m256; 2] {
    // SAFETY: `x` holds two times eight floats; the loads need no alignment.
    unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
}

/// Sums the lanes of each pair of vectors of a tile. Four are folded together, and a lone one as if
/// beside zeros, so that the order is the same in every tile.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fold<const R: usize, const T: usize>(sums: [[[__m256; 2]; T]; R]) -> [[f32; T]; R] {
    let mut out = [[0.0; T]; R];
    for (group, sums) in sums.as_flattened().chunks(4).enumerate() {
        let mut all = [_mm256_setzero_ps(); 4];
        for (all, [even, odd]) in all.iter_mut().zip(sums) {
            *all = _mm256_add_ps(*even, *odd);
        }
        let [a, b, c, d] = all;
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let folded = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        let mut four = [0.0; 4];
        // SAFETY: `four` holds four floats; the store needs no alignment.
        unsafe { _mm_storeu_ps(four.as_mut_ptr(), folded) };
        for (out, sum) in out.as_flattened_mut().iter_mut().skip(4 * group).zip(four) {
            *out = sum;
        }
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn ternary_f32(bytes: &[u8], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
    let row_bytes = d_input.div_ceil(4);
    let row = |r: usize| &bytes[r * row_bytes..][..row_bytes];
    let vector = |t: usize| &x[t * d_input..][..d_input];
    tiles!(ternary_f32_tile, d_output, x.len() / d_input, row, vector, y);
}

/// Four bytes give sixteen trits: broadcast, shift lane `i` by `2i`, and let `permutevar`, which reads the two
/// lowest bits of a lane, look the trit up as a float. No mask, no subtraction, no conversion.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn ternary_f32_tile<const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let trits = _mm256_setr_ps(-1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0);
    let low = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    let high = _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30);
    let steps = x[0].len() / STEP;
    let (mut whole_rows, mut whole) = ([[].as_slice(); R], [[].as_slice(); T]);
    for (whole, row) in whole_rows.iter_mut().zip(rows) {
        *whole = &row.as_chunks::<{ STEP / 4 }>().0[..steps];
    }
    for (whole, x) in whole.iter_mut().zip(x) {
        *whole = &x.as_chunks::<STEP>().0[..steps];
    }
    let mut sums = [[[_mm256_setzero_ps(); 2]; T]; R];
    for step in 0..steps {
        let mut x = [[_mm256_setzero_ps(); 2]; T];
        for (x, whole) in x.iter_mut().zip(whole) {
            *x = load(&whole[step]);
        }
        for (row, sums) in whole_rows.iter().zip(&mut sums) {
            let codes = _mm256_set1_epi32(i32::from_le_bytes(row[step]));
            let w0 = _mm256_permutevar_ps(trits, _mm256_srlv_epi32(codes, low));
            let w1 = _mm256_permutevar_ps(trits, _mm256_srlv_epi32(codes, high));
            for ([x0, x1], [s0, s1]) in x.iter().zip(sums) {
                *s0 = _mm256_fmadd_ps(w0, *x0, *s0);
                *s1 = _mm256_fmadd_ps(w1, *x1, *s1);
            }
        }
    }
    let mut out = fold(sums);
    for (row, out) in rows.iter().zip(&mut out) {
        for (x, out) in x.iter().zip(out) {
            for (i, x) in (STEP * steps..).zip(&x[STEP * steps..]) {
                *out += f32::from(trit(row, i)) * x;
            }
        }
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn dense(w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
    let row = |r: usize| &w[r * d_input..][..d_input];
    let vector = |t: usize| &x[t * d_input..][..d_input];
    tiles!(dense_tile, d_output, x.len() / d_input, row, vector, y);
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dense_tile<const R: usize, const T: usize>(rows: [&[f32]; R], x: [&[f32]; T]) -> [[f32; T]; R] {
    let steps = x[0].len() / STEP;
    let (mut whole_rows, mut whole) = ([[].as_slice(); R], [[].as_slice(); T]);
    for (whole, row) in whole_rows.iter_mut().zip(rows) {
        *whole = &row.as_chunks::<STEP>().0[..steps];
    }
    for (whole, x) in whole.iter_mut().zip(x) {
        *whole = &x.as_chunks::<STEP>().0[..steps];
    }
    let mut sums = [[[_mm256_setzero_ps(); 2]; T]; R];
    for step in 0..steps {
        let mut x = [[_mm256_setzero_ps(); 2]; T];
        for (x, whole) in x.iter_mut().zip(whole) {
            *x = load(&whole[step]);
        }
        for (row, sums) in whole_rows.iter().zip(&mut sums) {
            let [w0, w1] = load(&row[step]);
            for ([x0, x1], [s0, s1]) in x.iter().zip(sums) {
                *s0 = _mm256_fmadd_ps(w0, *x0, *s0);
                *s1 = _mm256_fmadd_ps(w1, *x1, *s1);
            }
        }
    }
    let mut out = fold(sums);
    for (row, out) in rows.iter().zip(&mut out) {
        for (x, out) in x.iter().zip(out) {
            for (w, x) in row[STEP * steps..].iter().zip(&x[STEP * steps..]) {
                *out += w * x;
            }
        }
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn weighted_rows(rows: &[f32], weights: &[f32], out: &mut [f32]) {
    let width = out.len();
    let mut column = 0;
    while column + 32 <= width {
        weighted_columns::<4>(rows, weights, column, out);
        column += 32;
    }
    while column + 8 <= width {
        weighted_columns::<1>(rows, weights, column, out);
        column += 8;
    }
    for (i, out) in out.iter_mut().enumerate().skip(column) {
        *out = weights.iter().enumerate().map(|(r, weight)| weight * rows[r * width + i]).sum();
    }
}

/// Eight times `V` columns from `column`, even and odd rows apart: with `V = 4`, eight sums in flight.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn weighted_columns<const V: usize>(rows: &[f32], weights: &[f32], column: usize, out: &mut [f32]) {
    let width = out.len();
    let mut sums = [[_mm256_setzero_ps(); V]; 2];
    for (r, &weight) in weights.iter().enumerate() {
        let weight = _mm256_set1_ps(weight);
        let row = &rows[r * width + column..][..8 * V];
        for (sum, eight) in sums[r % 2].iter_mut().zip(row.as_chunks::<8>().0) {
            // SAFETY: `eight` holds eight floats; the load needs no alignment.
            let eight = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
            *sum = _mm256_fmadd_ps(weight, eight, *sum);
        }
    }
    let [even, odd] = sums;
    let out = out[column..][..8 * V].as_chunks_mut::<8>().0;
    for ((eight, even), odd) in out.iter_mut().zip(even).zip(odd) {
        // SAFETY: `eight` holds eight floats; the store needs no alignment.
        unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), _mm256_add_ps(even, odd)) };
    }
}

/// Codes of one byte position in a block: 32 bytes of a row hold 128 codes, in four planes by bit pair.
const BLOCK: usize = 128;

/// Blocks between two widenings of the 16-bit sums: a block adds at most `4 * 2 * 3 * 128 = 3072` to a lane
/// (even if a code is the invalid 3), and `10 * 3072 < 2^15`.
const WIDEN: usize = 10;

#[target_feature(enable = "avx2,fma")]
fn ternary_i8(bytes: &[u8], d_output: usize, d_input: usize, x: &[i8], y: &mut [i32]) {
    let row_bytes = d_input.div_ceil(4);
    let padded = d_input.next_multiple_of(BLOCK);
    let seq = x.len() / d_input;
    let mut planes = vec![0; seq * padded];
    let mut totals = vec![0; seq];
    let vectors = x.chunks_exact(d_input).zip(planes.chunks_exact_mut(padded));
    for ((x, planes), total) in vectors.zip(&mut totals) {
        *total = split_planes(x, planes);
    }
    let row = |r: usize| (bytes, r * row_bytes);
    let vector = |t: usize| (&planes[t * padded..][..padded], totals[t]);
    tiles!(ternary_i8_tile, d_output, seq, row, vector, y);
}

/// Deals codes `4j + p` of each block to plane `p`, place `j`, which is where the packed row has their trits;
/// returns the sum of all codes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split_planes(x: &[i8], planes: &mut [i8]) -> i32 {
    // In each half, four dwords: codes 0, 4, 8, 12; 1, 5, 9, 13; …
    let deal = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    ));
    let weave = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let (bytes, words) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let mut total = _mm256_setzero_si256();
    for (source, target) in x.chunks(BLOCK).zip(planes.chunks_exact_mut(BLOCK)) {
        let mut block = [0i8; BLOCK];
        block[..source.len()].copy_from_slice(source);
        let mut quarters = [_mm256_setzero_si256(); 4];
        for (quarter, codes) in quarters.iter_mut().zip(block.as_chunks::<32>().0) {
            // SAFETY: `codes` holds 32 codes; the load needs no alignment.
            *quarter = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        }
        for quarter in quarters {
            let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, quarter), words);
            total = _mm256_add_epi32(total, sums);
        }
        let [a, b, c, d] = quarters;
        let (a, b) = (_mm256_shuffle_epi8(a, deal), _mm256_shuffle_epi8(b, deal));
        let (c, d) = (_mm256_shuffle_epi8(c, deal), _mm256_shuffle_epi8(d, deal));
        // A transposition of dwords, four by four, in each half.
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        let dealt = [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ef, gh),
            _mm256_unpackhi_epi64(ef, gh),
        ];
        for (plane, target) in dealt.into_iter().zip(target.chunks_exact_mut(32)) {
            let plane = _mm256_permutevar8x32_epi32(plane, weave);
            // SAFETY: `target` holds 32 codes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(target.as_mut_ptr().cast(), plane) };
        }
    }
    sum_lanes_i32(total)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_lanes_i32(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b00_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b00_00_00_01>(x)))
}

/// 32 bytes of all rows from `start`, or as many as there are and then zeros. What lies beyond a row's
/// end meets codes of zero.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_bytes(bytes: &[u8], start: usize) -> __m256i {
    let mut last = [0u8; 32];
    let pointer = match bytes.get(start..start + 32) {
        Some(all) => all.as_ptr(),
        None => {
            let rest = &bytes[start..];
            last[..rest.len()].copy_from_slice(rest);
            last.as_ptr()
        }
    };
    // SAFETY: both arms point at 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(pointer.cast()) }
}

/// `sum trit * x = sum code * x - sum x`: codes are unsigned, as `maddubs` wants its first operand.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn ternary_i8_tile<const R: usize, const T: usize>(
    rows: [(&[u8], usize); R],
    x: [(&[i8], i32); T],
) -> [[i32; T]; R] {
    let blocks = x[0].0.len() / BLOCK;
    let pair = _mm256_set1_epi8(3);
    let words = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); T]; R];
    for first in (0..blocks).step_by(WIDEN) {
        let mut narrow = [[_mm256_setzero_si256(); T]; R];
        for block in first..blocks.min(first + WIDEN) {
            for (&(bytes, start), narrow) in rows.iter().zip(&mut narrow) {
                let packed = load_bytes(bytes, start + 32 * block);
                let codes = [
                    _mm256_and_si256(packed, pair),
                    _mm256_and_si256(_mm256_srli_epi16::<2>(packed), pair),
                    _mm256_and_si256(_mm256_srli_epi16::<4>(packed), pair),
                    _mm256_and_si256(_mm256_srli_epi16::<6>(packed), pair),
                ];
                for (&(planes, _), narrow) in x.iter().zip(narrow) {
                    let planes = &planes[BLOCK * block..][..BLOCK];
                    for (p, &codes) in codes.iter().enumerate() {
                        // SAFETY: `planes` holds four times 32 codes; the load needs no alignment.
                        let x = unsafe { _mm256_loadu_si256(planes.as_ptr().add(32 * p).cast()) };
                        *narrow = _mm256_add_epi16(*narrow, _mm256_maddubs_epi16(codes, x));
                    }
                }
            }
        }
        for (sums, narrow) in sums.iter_mut().zip(narrow) {
            for (sum, narrow) in sums.iter_mut().zip(narrow) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow, words));
            }
        }
    }
    let mut out = [[0; T]; R];
    for (sums, out) in sums.iter().zip(&mut out) {
        for ((sum, (_, total)), out) in sums.iter().zip(x).zip(out) {
            *out = sum_lanes_i32(*sum) - total;
        }
    }
    out
}
