//! AMX with products of bytes: Intel's server processors since 2023 (Sapphire Rapids).
//!
//! A CPU with it has eight tiles of 16 rows of 64 bytes. `tdpbssd` takes one as 16 tokens of 64 activations, one as 64
//! inputs of 16 rows of weights, and adds to a third, which is 16 tokens of 16 sums: 16,384 products. The second has four
//! inputs of all its weight rows in a row of the tile, so a line of weights, unpacked, is four rows of it.
//!
//! Weights are unpacked once for [`MOST`] tokens, which is why few tokens are left to AVX-512. Two tiles of tokens
//! meet two of weights, so that each loaded tile serves twice.

use std::marker::PhantomData;
use std::sync::LazyLock;

use super::avx512_vnni::Avx512Vnni;
use super::tiles::{BYTES, Feature, ROWS, Registers, Tiles, granted};
use super::{Arch, Many};
use crate::pages::Line;
use crate::simd::simd;
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::{GROUP, MANY, MOST};

/// Lines of a panel that fill a tile with weights.
const LINES: usize = BYTES / BLOCK;
/// Tiles of weights, one after the other, that are unpacked at once: with two panels, half of the first cache.
const STEPS: usize = 16;

/// Tokens, and rows of weights, that four tiles of sums stand for.
const SIDE: usize = 2 * ROWS;
const _: () = assert!(MOST.is_multiple_of(SIDE) && PANEL == ROWS && MANY >= ROWS);

/// Exists only where AMX with bytes and AVX-512 with VNNI, which does what is not many tokens, were detected.
pub(crate) struct Amx<T = Registers> {
    rest: &'static dyn Arch,
    tiles: PhantomData<fn() -> T>,
}

impl Amx {
    /// `None` if this CPU lacks one of them, or the system does not let this process use the tiles.
    pub(crate) fn new() -> Option<&'static Self> {
        static FOUND: LazyLock<Option<Amx>> = LazyLock::new(|| {
            let rest = Avx512Vnni::new().filter(|_| granted(Feature::Int8))?;
            Some(Amx { rest, tiles: PhantomData })
        });
        FOUND.as_ref()
    }
}

impl<T: Tiles> Arch for Amx<T> {
    fn name(&self) -> &'static str {
        T::INT8
    }

    fn many(&self) -> Option<&dyn Many> {
        Some(self)
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        self.rest.ternary_int8(blocks, x, tokens, sums);
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        self.rest.ternary_f32(blocks, x, tokens, sums);
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        self.rest.int8_rows(lines, x, tokens, sums);
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        self.rest.dense(w, d_output, d_input, x, y);
    }

    fn prefers_sparse(&self) -> bool {
        self.rest.prefers_sparse()
    }

    fn tables(&self, x: &[[i8; GROUP]], tables: &mut [Line]) {
        self.rest.tables(x, tables);
    }

    fn sparse_int8(&self, lines: &[Line], tables: &[Line], sums: &mut [i32]) {
        self.rest.sparse_int8(lines, tables, sums);
    }

    fn unpack(&self, lines: &[Line], dense: [&mut [Line]; 2]) {
        self.rest.unpack(lines, dense);
    }
}

/// The sums of [`MOST`] tokens and two panels.
#[repr(C, align(64))]
struct Sums([[i32; SIDE]; MOST]);

impl<T: Tiles> Many for Amx<T> {
    fn ternary_int8(
        &self,
        blocks: &[Line],
        codes: &[i8],
        d_input: usize,
        tokens: usize,
        sums: &mut [i32],
    ) {
        let depth = d_input.div_ceil(BLOCK);
        let panels = blocks.len() / depth;
        let width = panels * PANEL;
        assert_eq!(blocks.len(), panels * depth, "whole panels");
        assert!(tokens <= MOST && sums.len() == tokens * width, "a sum for a row and a token");
        let readable = tokens.next_multiple_of(SIDE) * d_input + BYTES;
        assert!(codes.len() >= readable, "tokens to the end of the tiles");
        // SAFETY: `self` is proof of the instructions, and nothing below makes other tiles.
        let mut tiles = unsafe { T::new() };
        // A second panel that is missing keeps what was there; nobody reads its sums.
        let mut w = [[[Line([0; 64]); ROWS]; STEPS]; 2];
        for pair in (0..panels).step_by(2) {
            let panels = pair..panels.min(pair + 2);
            let mut found = Sums([[0; SIDE]; MOST]);
            for first in (0..depth).step_by(STEPS * LINES) {
                let lines = first..depth.min(first + STEPS * LINES);
                let steps = lines.len().div_ceil(LINES);
                for (panel, w) in panels.clone().zip(&mut w) {
                    let w = w.as_flattened_mut();
                    unpack(&blocks[panel * depth..][lines.clone()], w);
                    // What the last step reads beyond the codes of a token meets zeros.
                    w[lines.len() * BLOCK / GROUP..steps * ROWS].fill(Line([0; 64]));
                }
                for (side, sums) in found.0.chunks_exact_mut(SIDE).enumerate() {
                    if side * SIDE < tokens {
                        let x = &codes[side * SIDE * d_input + first * BLOCK..];
                        // SAFETY: the last of 32 tokens begins 31 times `d_input` from the first, and its last tile ends at
                        // most 63 codes after it: within `readable`.
                        unsafe { add_products(&mut tiles, x, d_input, &w, steps, sums) };
                    }
                }
            }
            for (sums, found) in sums.chunks_exact_mut(width).zip(&found.0) {
                let rows = panels.start * PANEL..panels.end * PANEL;
                sums[rows.clone()].copy_from_slice(&found[..rows.len()]);
            }
        }
    }
}

simd! {
    /// Each line becomes four rows of a tile: its codes one after the other, the lowest first.
    fn unpack<'a>(lines: &'a [Line], rows: &'a mut [Line]) {
        for (line, rows) in lines.iter().zip(rows.as_chunks_mut::<4>().0) {
            for (i, row) in rows.iter_mut().enumerate() {
                for (codes, packed) in row.0.iter_mut().zip(line.0) {
                    *codes = packed >> (2 * i) & 3;
                }
            }
        }
    }
}

/// 32 tokens and two panels, `steps` tiles deep.
///
/// # Safety
///
/// `x` leads to 64 codes for each step and token, tokens `stride` apart.
unsafe fn add_products<T: Tiles>(
    tiles: &mut T,
    x: &[i8],
    stride: usize,
    w: &[[[Line; ROWS]; STEPS]; 2],
    steps: usize,
    sums: &mut [[i32; SIDE]],
) {
    assert_eq!(sums.len(), SIDE, "all tokens of the tiles");
    let row = size_of::<[i32; SIDE]>();
    let sums = sums.as_mut_ptr().cast::<u8>();
    let quarters = [0, BYTES, ROWS * row, ROWS * row + BYTES].map(|at| sums.wrapping_add(at));
    // SAFETY: 32 rows of 32 sums, in quarters.
    unsafe {
        tiles.load::<0>(quarters[0], row);
        tiles.load::<1>(quarters[1], row);
        tiles.load::<2>(quarters[2], row);
        tiles.load::<3>(quarters[3], row);
    }
    let [one, other] = w;
    for (step, (one, other)) in one.iter().zip(other).enumerate().take(steps) {
        let x = x.as_ptr().cast::<u8>().wrapping_add(step * BYTES);
        // SAFETY: 16 tokens and 16 more by the contract above; the tiles of weights are whole.
        unsafe {
            tiles.load::<4>(x, stride);
            tiles.load::<5>(x.wrapping_add(ROWS * stride), stride);
            tiles.load::<6>(one.as_ptr().cast(), BYTES);
            tiles.load::<7>(other.as_ptr().cast(), BYTES);
        }
        tiles.dot_int8::<0, 4, 6>();
        tiles.dot_int8::<1, 4, 7>();
        tiles.dot_int8::<2, 5, 6>();
        tiles.dot_int8::<3, 5, 7>();
    }
    // SAFETY: 32 rows of 32 sums, in quarters.
    unsafe {
        tiles.store::<0>(quarters[0], row);
        tiles.store::<1>(quarters[1], row);
        tiles.store::<2>(quarters[2], row);
        tiles.store::<3>(quarters[3], row);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Scalar;
    use super::*;
    pub(crate) use crate::arch::tiles::tests::Emulated;

    /// The kernel on any CPU.
    pub(crate) static EMULATED: Amx<Emulated> = Amx { rest: &Scalar, tiles: PhantomData };
}
