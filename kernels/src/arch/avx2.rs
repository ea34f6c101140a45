//! AVX2 with FMA: x86-64 since 2013.
//!
//! No closure stands in an inner loop: `array::map` and the like are compiled without the instruction set, and
//! then call back for each element.
//!
//! Float products walk in tiles of `R` rows by `T` vectors, so that a loaded row serves `T` vectors and a
//! loaded vector `R` rows. Each pair of row and vector has sums of its own, in one order, whatever the
//! tile: eight sums in flight hide the latency of the FMA.

use std::arch::x86_64::*;

use super::{AHEAD, Arch, Shape, group};
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::GROUP;

/// Exists only where AVX2 and FMA were detected.
pub(crate) struct Avx2(());

static AVX2: Avx2 = Avx2(());

impl Avx2 {
    /// `None` if this CPU lacks AVX2 or FMA.
    pub(crate) fn new() -> Option<&'static Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&AVX2)
    }
}

impl Arch for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(blocks, x, BLOCK / GROUP, tokens, sums);
        // SAFETY: `self` is proof of the instructions. Each part gets the lines of its panels, the entries of its tokens and
        // its sums, of lengths that `Shape` has checked.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, blocks, x, sums| int8_tile::<1>(
                        blocks, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 2, |P, blocks, x, sums| int8_tile::<2>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        let shape = Shape::new(blocks, x, BLOCK, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [4, 1], 1, |P, blocks, x, sums| f32_tile::<1, P>(
                        blocks, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 4, |P, blocks, x, sums| f32_tile::<4, P>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(lines, x, 1, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, lines, x, sums| rows_tile::<1>(lines, x, sums, shape))
                }
                _ => {
                    walk!(shape, [1], 2, |P, lines, x, sums| rows_tile::<2>(lines, x, sums, shape))
                }
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        // SAFETY: `self` is proof that this CPU has AVX2 and FMA.
        unsafe { dense(w, d_output, d_input, x, y) }
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

/// Blocks between two widenings of the 16-bit sums: a block adds at most `4 * 2 * 2 * 128 = 2048` to a lane, and
/// `15 * 2048 < 2^15`.
const WIDEN: usize = 15;

/// `T` tokens of a tile of `tokens`, and one panel. Two products of a code and an activation make a 16-bit lane.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to the first of `T` groups for each four inputs, `tokens` apart, `sums` to `T`
/// rows of 16 sums, `width` apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_tile<const T: usize>(
    blocks: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
    let mask = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); 2]; T];
    for first in (0..depth).step_by(WIDEN) {
        let mut narrow = [[_mm256_setzero_si256(); 2]; T];
        for k in first..depth.min(first + WIDEN) {
            for half in 0..2 {
                // SAFETY: a half of line `k` of `depth`; a line is aligned. A prefetch may lead anywhere.
                let mut packed = unsafe {
                    let half = blocks.add(k).cast::<__m256i>().add(half);
                    _mm_prefetch::<_MM_HINT_T0>(half.cast::<i8>().wrapping_add(AHEAD));
                    _mm256_load_si256(half)
                };
                for i in 0..4 {
                    let codes = _mm256_and_si256(packed, mask);
                    packed = _mm256_srli_epi16::<2>(packed);
                    for (t, narrow) in narrow.iter_mut().enumerate() {
                        // SAFETY: group `4 k + i` of token `t`.
                        let group = unsafe { group(x, (4 * k + i) * tokens + t) };
                        let products = _mm256_maddubs_epi16(codes, _mm256_set1_epi32(group));
                        narrow[half] = _mm256_add_epi16(narrow[half], products);
                    }
                }
            }
        }
        for (acc, narrow) in acc.as_flattened_mut().iter_mut().zip(narrow.as_flattened()) {
            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(*narrow, ones));
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the sums of token `t`.
        unsafe { store(acc, sums.add(t * width)) };
    }
}

/// `T` tokens of a tile of `tokens`, and `P` panels. A dword holds the 16 codes of a row: shifted, its two lowest bits look
/// the trit up (`permutevar` reads no others).
///
/// # Safety
///
/// `blocks` leads to `P * depth` lines, `x` to the first of `T` floats for each input, `tokens` apart, `sums` to `T` rows of
/// `16 P` sums, `width` apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile<const T: usize, const P: usize>(
    blocks: *const Line,
    x: *const f32,
    sums: *mut f32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
    let trits = _mm256_setr_ps(-1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0);
    let mut acc = [[[_mm256_setzero_ps(); 2]; P]; T];
    for k in 0..depth {
        let mut packed = [[_mm256_setzero_si256(); 2]; P];
        for (p, packed) in packed.iter_mut().enumerate() {
            for (half, packed) in packed.iter_mut().enumerate() {
                // SAFETY: a half of line `p * depth + k` of `P * depth`; a line is aligned.
                *packed = unsafe {
                    _mm256_load_si256(blocks.add(p * depth + k).cast::<__m256i>().add(half))
                };
            }
        }
        // Input `4 p + b` of the block is bit pair `p` of byte `b`: 8 b + 2 p bits up.
        macro_rules! inputs {
            ($($input:literal: $shift:literal),*) => {$(
                for (p, packed) in packed.iter().enumerate() {
                    for (half, &packed) in packed.iter().enumerate() {
                        let w = _mm256_permutevar_ps(trits, _mm256_srli_epi32::<$shift>(packed));
                        for (t, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: input `16 k + input` of token `t`.
                            let x = unsafe { *x.add((BLOCK * k + $input) * tokens + t) };
                            acc[p][half] = _mm256_fmadd_ps(w, _mm256_set1_ps(x), acc[p][half]);
                        }
                    }
                }
            )*};
        }
        inputs!(0: 0, 1: 8, 2: 16, 3: 24, 4: 2, 5: 10, 6: 18, 7: 26);
        inputs!(8: 4, 9: 12, 10: 20, 11: 28, 12: 6, 13: 14, 14: 22, 15: 30);
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (part, acc) in acc.into_iter().flatten().enumerate() {
            // SAFETY: eight of the `16 P` sums of row `t`.
            unsafe { _mm256_storeu_ps(sums.add(t * width + 8 * part), acc) };
        }
    }
}

/// `T` tokens of a tile of `tokens`, and one panel of bytes. Both sides are widened to 16 bits: a product of a byte and a
/// code fits, their sum may not.
///
/// # Safety
///
/// `lines` leads to `depth` lines, `x` to the first of `T` groups for each four inputs, `tokens` apart, `sums` to `T` rows
/// of 16 sums, `width` apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows_tile<const T: usize>(
    lines: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
    // Four quarters of four rows, two partial sums for each row.
    let mut acc = [[_mm256_setzero_si256(); 4]; T];
    for k in 0..depth {
        let mut bytes = [_mm256_setzero_si256(); 4];
        for (quarter, bytes) in bytes.iter_mut().enumerate() {
            // SAFETY: a quarter of line `k` of `depth`; a line is aligned.
            let packed = unsafe { _mm_load_si128(lines.add(k).cast::<__m128i>().add(quarter)) };
            *bytes = _mm256_cvtepu8_epi16(packed);
        }
        for (t, acc) in acc.iter_mut().enumerate() {
            // SAFETY: group `k` of token `t`.
            let group = unsafe { group(x, k * tokens + t) };
            let group = _mm256_cvtepi8_epi16(_mm_set1_epi32(group));
            for (acc, &bytes) in acc.iter_mut().zip(&bytes) {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(bytes, group));
            }
        }
    }
    for (t, &[a, b, c, d]) in acc.iter().enumerate() {
        // Rows 0 1 4 5 | 2 3 6 7 after the sums of pairs.
        let in_order = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b));
        // SAFETY: the sums of token `t`.
        unsafe { store(&[in_order(a, b), in_order(c, d)], sums.add(t * width)) };
    }
}

/// Writes neighbouring sums of one token.
///
/// # Safety
///
/// `sums` leads to eight for each vector.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store(vectors: &[__m256i], sums: *mut i32) {
    for (i, &vector) in vectors.iter().enumerate() {
        // SAFETY: sums `8 i` to `8 i + 7`; the store needs no alignment.
        unsafe { _mm256_storeu_si256(sums.add(8 * i).cast(), vector) };
    }
}
