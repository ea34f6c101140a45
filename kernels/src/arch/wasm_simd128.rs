//! WebAssembly with SIMD128: every browser since 2023.
//!
//! Its one product of integers, `i32x4.dot_i16x8_s`, takes pairs of 16 bits. A line of weights is four registers of four
//! rows each, and a dword of one of them is the row of two 16-bit lanes: a mask in each lane finds the codes of inputs 0
//! and 2 of a group, and after a shift by eight those of 1 and 3. The activations are dealt in the same pairs.

use std::arch::wasm32::*;

use super::quad::{self, Quad};
use super::{Arch, Shape, group};
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::GROUP;

/// Whether there is SIMD128 is decided when a module is compiled.
pub(crate) struct WasmSimd128;

impl Arch for WasmSimd128 {
    fn name(&self) -> &'static str {
        "wasm-simd128"
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(blocks, x, BLOCK / GROUP, tokens, sums);
        // SAFETY: each part gets the lines of its panels, the entries of its tokens and its sums, of lengths that `Shape` has
        // checked.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, blocks, x, sums| int8_vector(blocks, x, sums, shape))
                }
                _ => walk!(shape, [1], 4, |P, blocks, x, sums| int8_tile(blocks, x, sums, shape)),
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        quad::ternary_f32::<v128>(blocks, x, tokens, sums);
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(lines, x, 1, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, lines, x, sums| rows_vector(lines, x, sums, shape))
                }
                _ => walk!(shape, [1], 4, |P, lines, x, sums| rows_tile(lines, x, sums, shape)),
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        quad::dense::<v128>(w, d_output, d_input, x, y);
    }
}

impl Quad for v128 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        f32x4_splat(value)
    }

    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: by the contract of the trait; the load needs no alignment.
        unsafe { v128_load(x.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, y: *mut f32) {
        // SAFETY: by the contract of the trait; the store needs no alignment.
        unsafe { v128_store(y.cast(), self) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        f32x4_add(self, other)
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        f32x4_add(self, f32x4_mul(a, b))
    }

    #[inline(always)]
    unsafe fn trits<const SHIFT: u32>(rows: *const u32) -> Self {
        // SAFETY: four dwords by the contract of the trait.
        let rows = unsafe { v128_load(rows.cast()) };
        let codes = v128_and(u32x4_shr(rows, SHIFT), i32x4_splat(3));
        f32x4_sub(f32x4_convert_i32x4(codes), f32x4_splat(1.0))
    }
}

/// Sixteen bytes as 16-bit lanes: those at even places, and those at odd ones.
type Pairs = [v128; 2];

/// Four rows of a line, as unsigned bytes.
///
/// # Safety
///
/// `line` leads to a line.
#[inline(always)]
unsafe fn bytes(line: *const Line, quarter: usize) -> Pairs {
    // SAFETY: a quarter of the line.
    let bytes = unsafe { v128_load(line.cast::<v128>().add(quarter)) };
    [v128_and(bytes, i16x8_splat(0xff)), u16x8_shr(bytes, 8)]
}

/// Four groups of activations.
#[inline(always)]
fn pairs(groups: v128) -> Pairs {
    [i16x8_shr(i16x8_shl(groups, 8), 8), i16x8_shr(groups, 8)]
}

/// The pairs of one of four groups, in every dword.
#[inline(always)]
fn of_group<const D: usize>([even, odd]: Pairs) -> Pairs {
    [i32x4_shuffle::<D, D, D, D>(even, even), i32x4_shuffle::<D, D, D, D>(odd, odd)]
}

/// The pairs of each of four groups.
#[inline(always)]
fn of_groups(x: Pairs) -> [Pairs; 4] {
    [of_group::<0>(x), of_group::<1>(x), of_group::<2>(x), of_group::<3>(x)]
}

/// Adds to each dword of `sums` the products of its four weights and the four activations.
#[inline(always)]
fn dot(sums: v128, w: Pairs, x: Pairs) -> v128 {
    i32x4_add(i32x4_add(sums, i32x4_dot_i16x8(w[0], x[0])), i32x4_dot_i16x8(w[1], x[1]))
}

/// The lowest codes of each byte, and `packed` with the next in their place.
#[inline(always)]
fn unpack([even, odd]: Pairs) -> (Pairs, Pairs) {
    let mask = i16x8_splat(3);
    ([v128_and(even, mask), v128_and(odd, mask)], [u16x8_shr(even, 2), u16x8_shr(odd, 2)])
}

/// One token and one panel.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` groups, `sums` to 16 sums.
#[inline(always)]
unsafe fn int8_vector(blocks: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let mut acc = [i32x4_splat(0); 4];
    for k in 0..shape.depth {
        // SAFETY: groups `4 k` to `4 k + 3` of `4 * depth`.
        let x = of_groups(pairs(unsafe { v128_load(x.add(4 * k).cast()) }));
        for (quarter, acc) in acc.iter_mut().enumerate() {
            // SAFETY: line `k` of `depth`.
            let mut packed = unsafe { bytes(blocks.add(k), quarter) };
            for x in x {
                let codes;
                (codes, packed) = unpack(packed);
                *acc = dot(*acc, codes, x);
            }
        }
    }
    for (quarter, acc) in acc.into_iter().enumerate() {
        // SAFETY: four of the 16 sums; the store needs no alignment.
        unsafe { v128_store(sums.add(4 * quarter).cast(), acc) };
    }
}

/// Quarters of a panel that are computed at a time: with four tokens, eight sums in flight.
const QUARTERS: usize = 2;

/// Four tokens of a tile of `tokens`, and one panel.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to the first of four groups for each four inputs, `tokens` apart, `sums` to four
/// rows of 16 sums, `width` apart.
#[inline(always)]
unsafe fn int8_tile(blocks: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, tokens, .. } = shape;
    for first in (0..4).step_by(QUARTERS) {
        let mut acc = [[i32x4_splat(0); 4]; QUARTERS];
        for k in 0..depth {
            let mut packed = [[i32x4_splat(0); 2]; QUARTERS];
            for (q, packed) in packed.iter_mut().enumerate() {
                // SAFETY: line `k` of `depth`.
                *packed = unsafe { bytes(blocks.add(k), first + q) };
            }
            for i in 0..4 {
                // SAFETY: group `4 k + i` of four tokens.
                let x = unsafe { v128_load(x.add((4 * k + i) * tokens).cast()) };
                let x = of_groups(pairs(x));
                for (acc, packed) in acc.iter_mut().zip(&mut packed) {
                    let codes;
                    (codes, *packed) = unpack(*packed);
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = dot(*acc, codes, x);
                    }
                }
            }
        }
        // SAFETY: the sums of these quarters.
        unsafe { store(&acc, sums.add(4 * first), shape) };
    }
}

/// One token and one panel of bytes.
///
/// # Safety
///
/// `lines` leads to `depth` lines, `x` to `depth` groups, `sums` to 16 sums.
#[inline(always)]
unsafe fn rows_vector(lines: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let mut acc = [i32x4_splat(0); 4];
    for k in 0..shape.depth {
        // SAFETY: group `k` of `depth`.
        let x = pairs(i32x4_splat(unsafe { group(x, k) }));
        for (quarter, acc) in acc.iter_mut().enumerate() {
            // SAFETY: line `k` of `depth`.
            *acc = dot(*acc, unsafe { bytes(lines.add(k), quarter) }, x);
        }
    }
    for (quarter, acc) in acc.into_iter().enumerate() {
        // SAFETY: four of the 16 sums; the store needs no alignment.
        unsafe { v128_store(sums.add(4 * quarter).cast(), acc) };
    }
}

/// Four tokens of a tile of `tokens`, and one panel of bytes.
///
/// # Safety
///
/// `lines` leads to `depth` lines, `x` to the first of four groups for each four inputs, `tokens` apart, `sums` to four
/// rows of 16 sums, `width` apart.
#[inline(always)]
unsafe fn rows_tile(lines: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, tokens, .. } = shape;
    for first in (0..4).step_by(QUARTERS) {
        let mut acc = [[i32x4_splat(0); 4]; QUARTERS];
        for k in 0..depth {
            // SAFETY: group `k` of four tokens.
            let x = of_groups(pairs(unsafe { v128_load(x.add(k * tokens).cast()) }));
            for (q, acc) in acc.iter_mut().enumerate() {
                // SAFETY: line `k` of `depth`.
                let bytes = unsafe { bytes(lines.add(k), first + q) };
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = dot(*acc, bytes, x);
                }
            }
        }
        // SAFETY: the sums of these quarters.
        unsafe { store(&acc, sums.add(4 * first), shape) };
    }
}

/// Writes neighbouring quarters of the sums of four tokens.
///
/// # Safety
///
/// `sums` leads to four rows of that many sums, `width` apart.
#[inline(always)]
unsafe fn store(acc: &[[v128; 4]; QUARTERS], sums: *mut i32, shape: Shape) {
    for (q, acc) in acc.iter().enumerate() {
        for (t, &acc) in acc.iter().enumerate() {
            // SAFETY: four sums of token `t`; the store needs no alignment.
            unsafe { v128_store(sums.add(t * shape.width + 4 * q).cast(), acc) };
        }
    }
}
