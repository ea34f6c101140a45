//! AVX2 with VNNI in 256 bits: Intel's client processors since 2021 (Alder Lake), AMD since 2024 (Zen 5).

use std::arch::x86_64::*;

use super::avx2::{Avx2, store};
use super::{AHEAD, Arch, Shape, group};
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
        let shape = Shape::new(blocks, x, BLOCK / GROUP, tokens, sums);
        // SAFETY: `self` is proof of the instructions. Each part gets the lines of its panels, the entries of its tokens and
        // its sums, of lengths that `Shape` has checked.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, blocks, x, sums| int8_vector(blocks, x, sums, shape))
                }
                _ => {
                    walk!(shape, [1], 4, |P, blocks, x, sums| int8_tile::<4>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        self.0.ternary_f32(blocks, x, tokens, sums);
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(lines, x, 1, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [4, 1], 1, |P, lines, x, sums| rows_tile::<1, P>(
                        lines, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 4, |P, lines, x, sums| rows_tile::<4, P>(
                        lines, x, sums, shape
                    ))
                }
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        self.0.dense(w, d_output, d_input, x, y);
    }
}

/// One token and one panel, with the masks of `avx512_vnni.rs`: eight sums in flight.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` groups, `sums` to 16 sums.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn int8_vector(blocks: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, .. } = shape;
    let masks = [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm256_set1_epi8(mask as i8));
    let mut acc = [[_mm256_setzero_si256(); 4]; 2];
    for k in 0..depth {
        let mut groups = [_mm256_setzero_si256(); 4];
        for (i, place) in groups.iter_mut().enumerate() {
            // SAFETY: group `4 k + i` of `4 * depth`.
            *place = _mm256_set1_epi32(unsafe { group(x, 4 * k + i) });
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
    let sum = |[a, b, c, d]: [__m256i; 4]| {
        let low = _mm256_add_epi32(a, _mm256_srai_epi32::<2>(b));
        let high = _mm256_add_epi32(_mm256_srai_epi32::<4>(c), _mm256_srai_epi32::<6>(d));
        _mm256_add_epi32(low, high)
    };
    // SAFETY: the 16 sums.
    unsafe { store(&[sum(acc[0]), sum(acc[1])], sums) };
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
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
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
                let group = unsafe { group(x, (4 * k + i) * tokens + t) };
                let group = _mm256_set1_epi32(group);
                for (acc, &codes) in acc.iter_mut().zip(&codes) {
                    *acc = _mm256_dpbusd_avx_epi32(*acc, codes, group);
                }
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the sums of token `t`.
        unsafe { store(acc, sums.add(t * width)) };
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
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
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
                    let group = unsafe { group(x, k * tokens + t) };
                    let group = _mm256_set1_epi32(group);
                    acc[p][half] = _mm256_dpbusd_avx_epi32(acc[p][half], bytes, group);
                }
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the sums of token `t`.
        unsafe { store(acc.as_flattened(), sums.add(t * width)) };
    }
}
