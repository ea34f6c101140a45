//! NEON with dot products: Arm's cores since 2017 (Cortex-A55 and A75, Neoverse N1), Apple's since 2019 (A13, M1).
//!
//! A line of weights is four registers of four rows each. `sdot` takes one of them and one dword of another, which holds
//! four codes of a token: so a register of activations, loaded once, serves four tokens, or four groups of inputs of
//! one. It is written as assembly, because its intrinsic is not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::quad::{self, Quad};
use super::{Arch, Shape, group};
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::GROUP;

/// Exists only where NEON's dot products were detected.
pub(crate) struct NeonDotprod(());

static NEON_DOTPROD: NeonDotprod = NeonDotprod(());

impl NeonDotprod {
    /// `None` if this CPU lacks them.
    pub(crate) fn new() -> Option<&'static Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(&NEON_DOTPROD)
    }
}

impl Arch for NeonDotprod {
    fn name(&self) -> &'static str {
        "neon-dotprod"
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
                4 => {
                    walk!(shape, [1], 4, |P, blocks, x, sums| int8_tile::<1, 4>(
                        blocks, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 12, |P, blocks, x, sums| int8_tile::<3, 2>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        quad::ternary_f32::<float32x4_t>(blocks, x, tokens, sums);
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(lines, x, 1, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [2, 1], 1, |P, lines, x, sums| rows_vector::<P>(
                        lines, x, sums, shape
                    ))
                }
                4 => {
                    walk!(shape, [1], 4, |P, lines, x, sums| rows_tile::<1, 4>(
                        lines, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 12, |P, lines, x, sums| rows_tile::<3, 2>(
                        lines, x, sums, shape
                    ))
                }
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        quad::dense::<float32x4_t>(w, d_output, d_input, x, y);
    }
}

/// NEON without more is part of the architecture.
impl Quad for float32x4_t {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: this CPU has NEON.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { vld1q_f32(x) }
    }

    #[inline(always)]
    unsafe fn store(self, y: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe { vst1q_f32(y, self) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: this CPU has NEON.
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: this CPU has NEON.
        unsafe { vfmaq_f32(self, a, b) }
    }

    #[inline(always)]
    unsafe fn trits<const SHIFT: u32>(rows: *const u32) -> Self {
        // SAFETY: this CPU has NEON; four dwords by the contract of the trait. A negative shift goes right.
        unsafe {
            let shifted = vshlq_u32(vld1q_u32(rows), vdupq_n_s32(-(SHIFT as i32)));
            let codes = vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(3)));
            vsubq_f32(codes, vdupq_n_f32(1.0))
        }
    }
}

/// Adds to each dword of `sums` the products of its four codes in `w` with the four of dword `D` of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const D: i32>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: it touches these registers alone, and the instruction is there where this function is.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{dword}]",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            x = in(vreg) x,
            dword = const D,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// [`dot`] with each dword of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dots(sums: &mut [int32x4_t; 4], w: int8x16_t, x: int8x16_t) {
    let [a, b, c, d] = *sums;
    *sums = [dot::<0>(a, w, x), dot::<1>(b, w, x), dot::<2>(c, w, x), dot::<3>(d, w, x)];
}

/// Four rows of a line.
///
/// # Safety
///
/// `line` leads to a line.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn rows(line: *const Line, quarter: usize) -> uint8x16_t {
    // SAFETY: a quarter of the line.
    unsafe { vld1q_u8(line.cast::<u8>().add(16 * quarter)) }
}

/// Four neighbouring groups.
///
/// # Safety
///
/// `x` leads to more than `i + 3` groups.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn groups(x: *const [i8; GROUP], i: usize) -> int8x16_t {
    // SAFETY: by the contract above; groups lie side by side.
    unsafe { vld1q_s8(x.add(i).cast()) }
}

/// One token and one panel. The codes of four inputs stay where a mask finds them, so sums come out 1, 4 or 16 times too
/// large, which one shift at the end mends; a sum of at most `32 * 128 * 2^18 / 4` fits 32 bits. The last codes, whose
/// mask would reach the sign, are shifted down instead.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` groups, `sums` to 16 sums.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8_vector(blocks: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, .. } = shape;
    let [a, b, c] = [vdupq_n_u8(0x03), vdupq_n_u8(0x0c), vdupq_n_u8(0x30)];
    let mut acc = [[vdupq_n_s32(0); 3]; 4];
    for k in 0..depth {
        // SAFETY: groups `4 k` to `4 k + 3` of `4 * depth`.
        let x = unsafe { groups(x, 4 * k) };
        for (quarter, acc) in acc.iter_mut().enumerate() {
            // SAFETY: line `k` of `depth`.
            let packed = unsafe { rows(blocks.add(k), quarter) };
            acc[0] = dot::<0>(acc[0], vreinterpretq_s8_u8(vandq_u8(packed, a)), x);
            acc[1] = dot::<1>(acc[1], vreinterpretq_s8_u8(vandq_u8(packed, b)), x);
            acc[2] = dot::<2>(acc[2], vreinterpretq_s8_u8(vandq_u8(packed, c)), x);
            acc[0] = dot::<3>(acc[0], vreinterpretq_s8_u8(vshrq_n_u8::<6>(packed)), x);
        }
    }
    for (quarter, [a, b, c]) in acc.into_iter().enumerate() {
        let sum = vaddq_s32(a, vaddq_s32(vshrq_n_s32::<2>(b), vshrq_n_s32::<4>(c)));
        // SAFETY: four of the 16 sums.
        unsafe { vst1q_s32(sums.add(4 * quarter), sum) };
    }
}

/// Four times `V` tokens and one panel, `Q` quarters of it at a time: codes are unpacked once for all tokens, and as many
/// sums in flight as there are registers for.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` times `4 V` groups, `sums` to `4 V` rows of 16 sums, `width` apart.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8_tile<const V: usize, const Q: usize>(
    blocks: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, width, .. } = shape;
    let mask = vdupq_n_u8(3);
    for first in (0..4).step_by(Q) {
        let mut acc = [[[vdupq_n_s32(0); 4]; V]; Q];
        for k in 0..depth {
            let mut packed = [vdupq_n_u8(0); Q];
            for (q, packed) in packed.iter_mut().enumerate() {
                // SAFETY: line `k` of `depth`.
                *packed = unsafe { rows(blocks.add(k), first + q) };
            }
            for i in 0..4 {
                let mut codes = [vdupq_n_s8(0); Q];
                for (codes, packed) in codes.iter_mut().zip(&mut packed) {
                    *codes = vreinterpretq_s8_u8(vandq_u8(*packed, mask));
                    *packed = vshrq_n_u8::<2>(*packed);
                }
                for v in 0..V {
                    // SAFETY: groups of four tokens, of input `4 k + i` of `4 * depth`.
                    let x = unsafe { groups(x, 4 * ((4 * k + i) * V + v)) };
                    for (acc, &codes) in acc.iter_mut().zip(&codes) {
                        dots(&mut acc[v], codes, x);
                    }
                }
            }
        }
        for (q, acc) in acc.iter().enumerate() {
            for (t, &acc) in acc.as_flattened().iter().enumerate() {
                // SAFETY: four of the 16 sums of token `t`.
                unsafe { vst1q_s32(sums.add(t * width + 4 * (first + q)), acc) };
            }
        }
    }
}

/// What takes 128 off a byte and makes it signed. The sums are short of so many times the activations then.
const SIGN: u8 = 0x80;

/// One token and `P` panels of bytes.
///
/// # Safety
///
/// `lines` leads to `P * depth` lines, `x` to `depth` groups, `sums` to `16 P` sums.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn rows_vector<const P: usize>(
    lines: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, .. } = shape;
    let (sign, ones) = (vdupq_n_u8(SIGN), vdupq_n_s8(1));
    let mut acc = [[vdupq_n_s32(0); 4]; P];
    let mut of_x = vdupq_n_s32(0);
    for k in 0..depth {
        // SAFETY: group `k` of `depth`.
        let x = vreinterpretq_s8_s32(vdupq_n_s32(unsafe { group(x, k) }));
        of_x = dot::<0>(of_x, ones, x);
        for (p, acc) in acc.iter_mut().enumerate() {
            for (quarter, acc) in acc.iter_mut().enumerate() {
                // SAFETY: line `p * depth + k` of `P * depth`.
                let bytes = unsafe { rows(lines.add(p * depth + k), quarter) };
                *acc = dot::<0>(*acc, vreinterpretq_s8_u8(veorq_u8(bytes, sign)), x);
            }
        }
    }
    for (i, &acc) in acc.as_flattened().iter().enumerate() {
        // SAFETY: four of the `16 P` sums.
        unsafe { vst1q_s32(sums.add(4 * i), vaddq_s32(acc, vshlq_n_s32::<7>(of_x))) };
    }
}

/// Four times `V` tokens and one panel of bytes, `Q` quarters of it at a time.
///
/// # Safety
///
/// `lines` leads to `depth` lines, `x` to `depth` times `4 V` groups, `sums` to `4 V` rows of 16 sums, `width` apart.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn rows_tile<const V: usize, const Q: usize>(
    lines: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, width, .. } = shape;
    let (sign, ones) = (vdupq_n_u8(SIGN), vdupq_n_s8(1));
    for first in (0..4).step_by(Q) {
        let mut acc = [[[vdupq_n_s32(0); 4]; V]; Q];
        // Of four tokens each.
        let mut of_x = [vdupq_n_s32(0); V];
        for k in 0..depth {
            let mut bytes = [vdupq_n_s8(0); Q];
            for (q, bytes) in bytes.iter_mut().enumerate() {
                // SAFETY: line `k` of `depth`.
                let packed = unsafe { rows(lines.add(k), first + q) };
                *bytes = vreinterpretq_s8_u8(veorq_u8(packed, sign));
            }
            for (v, of_x) in of_x.iter_mut().enumerate() {
                // SAFETY: groups of four tokens, of group `k` of `depth`.
                let x = unsafe { groups(x, 4 * (k * V + v)) };
                *of_x = dot::<0>(*of_x, x, ones);
                for (acc, &bytes) in acc.iter_mut().zip(&bytes) {
                    dots(&mut acc[v], bytes, x);
                }
            }
        }
        let mut missing = [[0; 4]; V];
        for (missing, &of_x) in missing.iter_mut().zip(&of_x) {
            // SAFETY: four numbers.
            unsafe { vst1q_s32(missing.as_mut_ptr(), vshlq_n_s32::<7>(of_x)) };
        }
        for (q, acc) in acc.iter().enumerate() {
            let tokens = acc.as_flattened().iter().zip(missing.as_flattened());
            for (t, (&acc, &missing)) in tokens.enumerate() {
                let sum = vaddq_s32(acc, vdupq_n_s32(missing));
                // SAFETY: four of the 16 sums of token `t`.
                unsafe { vst1q_s32(sums.add(t * width + 4 * (first + q)), sum) };
            }
        }
    }
}
