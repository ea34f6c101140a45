//! AVX2 with VNNI in 256 bits: Intel's client processors since 2021 (Alder Lake), AMD since 2024 (Zen 5).

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{AHEAD, Arch, shape};
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::GROUP;

/// Exists only where AVX-VNNI was detected, and AVX2 and FMA, which do what is not an integer product.
pub(crate) struct AvxVnni(&'static Avx2);

impl AvxVnni {
    /// `None` if this CPU lacks one of them.
    pub(crate) fn new() -> Option<&'static Self> {
        static FOUND: std::sync::LazyLock<Option<AvxVnni>> = std::sync::LazyLock::new(|| {
            Some(AvxVnni(Avx2::new().filter(|_| is_x86_feature_detected!("avxvnni"))?))
        });
        FOUND.as_ref()
    }
}

impl Arch for AvxVnni {
    fn name(&self) -> &'static str {
        "avx-vnni"
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let (panels, depth) =
            shape(blocks.len(), x.len() / tokens * GROUP / BLOCK, tokens, sums.len());
        assert_eq!(x.len(), depth * BLOCK / GROUP * tokens, "whole blocks");
        let (blocks, x, sums) = (blocks.as_ptr(), x.as_ptr(), sums.as_mut_ptr());
        let width = panels * PANEL;
        // SAFETY: `self` is proof of the instructions. Each call gets the `depth` lines of each of its panels, the groups
        // of its tokens, and its part of `tokens` rows of `width` sums: the lengths just checked.
        unsafe {
            match tokens {
                1 => by_panels!(panels, depth, blocks, sums, [1], |P, blocks, sums| {
                    int8_vector(blocks, depth, x, sums)
                }),
                _ => by_panels!(panels, depth, blocks, sums, [1], |P, blocks, sums| {
                    // Four tokens by one panel fill the sixteen registers.
                    for first in (0..tokens).step_by(4) {
                        let (x, sums) = (x.add(first), sums.add(first * width));
                        int8_tile::<4>(blocks, depth, x, tokens, sums, width);
                    }
                }),
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        self.0.ternary_f32(blocks, x, tokens, sums);
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let (panels, depth) = shape(lines.len(), x.len() / tokens, tokens, sums.len());
        assert_eq!(x.len(), depth * tokens, "whole groups");
        let (lines, x, sums) = (lines.as_ptr(), x.as_ptr(), sums.as_mut_ptr());
        let width = panels * PANEL;
        // SAFETY: as in `ternary_int8`, with a line for each four inputs.
        unsafe {
            match tokens {
                1 => by_panels!(panels, depth, lines, sums, [4, 1], |P, lines, sums| {
                    rows_tile::<1, P>(lines, depth, x, tokens, sums, width)
                }),
                _ => by_panels!(panels, depth, lines, sums, [1], |P, lines, sums| {
                    for first in (0..tokens).step_by(4) {
                        let (x, sums) = (x.add(first), sums.add(first * width));
                        rows_tile::<4, P>(lines, depth, x, tokens, sums, width);
                    }
                }),
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        self.0.dense(w, d_output, d_input, x, y);
    }

    fn weighted_rows(&self, rows: &[f32], weights: &[f32], out: &mut [f32]) {
        self.0.weighted_rows(rows, weights, out);
    }
}

/// One token and one panel, with the masks of `avx512_vnni.rs`: eight sums in flight.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` groups, `sums` to 16 sums.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn int8_vector(blocks: *const Line, depth: usize, x: *const [i8; GROUP], sums: *mut i32) {
    let masks = [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm256_set1_epi8(mask as i8));
    let mut acc = [[_mm256_setzero_si256(); 4]; 2];
    for k in 0..depth {
        let mut groups = [_mm256_setzero_si256(); 4];
        for (i, group) in groups.iter_mut().enumerate() {
            // SAFETY: group `4 k + i` of `4 * depth`.
            *group = _mm256_set1_epi32(unsafe { x.add(4 * k + i).cast::<i32>().read_unaligned() });
        }
        for (half, acc) in acc.iter_mut().enumerate() {
            // SAFETY: a half of line `k` of `depth`; a line is aligned. A prefetch may lead anywhere.
            let codes = unsafe {
                let half = blocks.add(k).cast::<__m256i>().add(half);
                _mm_prefetch::<_MM_HINT_T0>(half.cast::<i8>().wrapping_add(AHEAD));
                _mm256_load_si256(half)
            };
            for ((acc, &mask), &group) in acc.iter_mut().zip(&masks).zip(&groups) {
                *acc = _mm256_dpbusd_avx_epi32(*acc, _mm256_and_si256(codes, mask), group);
            }
        }
    }
    for (half, [a, b, c, d]) in acc.into_iter().enumerate() {
        let low = _mm256_add_epi32(a, _mm256_srai_epi32::<2>(b));
        let high = _mm256_add_epi32(_mm256_srai_epi32::<4>(c), _mm256_srai_epi32::<6>(d));
        // SAFETY: eight of 16 sums.
        unsafe { _mm256_storeu_si256(sums.add(8 * half).cast(), _mm256_add_epi32(low, high)) };
    }
}

/// `T` tokens of a tile of `tokens`, and one panel: codes are unpacked once for all tokens.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to the first of `T` groups for each four inputs, `tokens` apart, `sums` to `T`
/// rows of 16 sums, `width` apart.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn int8_tile<const T: usize>(
    blocks: *const Line,
    depth: usize,
    x: *const [i8; GROUP],
    tokens: usize,
    sums: *mut i32,
    width: usize,
) {
    let mask = _mm256_set1_epi8(3);
    let mut acc = [[_mm256_setzero_si256(); 2]; T];
    for k in 0..depth {
        let mut packed = [_mm256_setzero_si256(); 2];
        for (half, packed) in packed.iter_mut().enumerate() {
            // SAFETY: a half of line `k` of `depth`; a line is aligned.
            *packed = unsafe { _mm256_load_si256(blocks.add(k).cast::<__m256i>().add(half)) };
        }
        for i in 0..4 {
            let mut codes = [_mm256_setzero_si256(); 2];
            for (codes, packed) in codes.iter_mut().zip(&mut packed) {
                *codes = _mm256_and_si256(*packed, mask);
                *packed = _mm256_srli_epi16::<2>(*packed);
            }
            for (t, acc) in acc.iter_mut().enumerate() {
                // SAFETY: group `4 k + i` of token `t`.
                let group =
                    unsafe { x.add((4 * k + i) * tokens + t).cast::<i32>().read_unaligned() };
                let group = _mm256_set1_epi32(group);
                for (acc, &codes) in acc.iter_mut().zip(&codes) {
                    *acc = _mm256_dpbusd_avx_epi32(*acc, codes, group);
                }
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            // SAFETY: eight of the 16 sums of row `t`.
            unsafe { _mm256_storeu_si256(sums.add(t * width + 8 * half).cast(), acc) };
        }
    }
}

/// `T` tokens of a tile of `tokens`, and `P` panels of bytes.
///
/// # Safety
///
/// `lines` leads to `P * depth` lines, `x` to the first of `T` groups for each four inputs, `tokens` apart, `sums` to `T`
/// rows of `16 P` sums, `width` apart.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn rows_tile<const T: usize, const P: usize>(
    lines: *const Line,
    depth: usize,
    x: *const [i8; GROUP],
    tokens: usize,
    sums: *mut i32,
    width: usize,
) {
    let mut acc = [[[_mm256_setzero_si256(); 2]; P]; T];
    for k in 0..depth {
        for p in 0..P {
            for half in 0..2 {
                // SAFETY: a half of line `p * depth + k` of `P * depth`; a line is aligned.
                let bytes = unsafe {
                    _mm256_load_si256(lines.add(p * depth + k).cast::<__m256i>().add(half))
                };
                for (t, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: group `k` of token `t`.
                    let group = unsafe { x.add(k * tokens + t).cast::<i32>().read_unaligned() };
                    let group = _mm256_set1_epi32(group);
                    acc[p][half] = _mm256_dpbusd_avx_epi32(acc[p][half], bytes, group);
                }
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (part, acc) in acc.into_iter().flatten().enumerate() {
            // SAFETY: eight of the `16 P` sums of row `t`.
            unsafe { _mm256_storeu_si256(sums.add(t * width + 8 * part).cast(), acc) };
        }
    }
}
