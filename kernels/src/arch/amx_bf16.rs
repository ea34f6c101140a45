//! AMX with products of bf16: Intel's server processors since 2023 (Sapphire Rapids).
//!
//! `tdpbf16ps` takes a tile of 16 rows of 16 words, a tile of 16 words of 16 columns, and adds to a third, 16 rows of 16 sums:
//! 8,192 products. A packed row is what the first wants, a panel what the second wants. Two tiles of rows meet the two of a
//! panel, so that each loaded tile serves twice.

use std::marker::PhantomData;

use super::avx512_bf16::Avx512Bf16;
use super::tiles::{BYTES, Feature, Registers, Tiles, granted};
use crate::gemm::Matrix;
use crate::train::blocking::{Arithmetic, Block, DEPTH, LEFT_STRIDE, Left, PANEL, ROWS, WORDS};

/// Rows, and columns, of a tile.
const SIDE: usize = 16;

/// Bytes of a word, of a sum.
const WORD: usize = 4;

const _: () = assert!(ROWS == 2 * SIDE && PANEL == 2 * SIDE && WORDS * WORD == BYTES);

/// Exists only where AMX with bf16 and AVX-512 with bf16, which packs, were detected.
#[derive(Debug)]
pub(crate) struct AmxBf16<T = Registers> {
    packing: Avx512Bf16,
    tiles: PhantomData<fn() -> T>,
}

impl AmxBf16 {
    /// `None` if this CPU lacks one of them, or the system does not let this process use the tiles.
    pub(crate) fn new() -> Option<Self> {
        let packing = Avx512Bf16::new().filter(|_| granted(Feature::Bf16))?;
        Some(Self { packing, tiles: PhantomData })
    }
}

// Derived, these would ask the same of the tiles.
impl<T> Clone for AmxBf16<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for AmxBf16<T> {}

impl<T: Tiles> Arithmetic for AmxBf16<T> {
    type Word = u32;

    const PER_WORD: usize = Avx512Bf16::PER_WORD;

    const TILE: usize = ROWS;

    fn pack_left<'a>(self, a: Matrix<'a>, words: &'a mut [u32]) -> Left<'a, u32> {
        self.packing.pack_left(a, words)
    }

    fn pack_right(self, b: Matrix<'_>, words: &mut [u32]) {
        self.packing.pack_right(b, words);
    }

    fn multiply(self, block: Block<'_, u32>) {
        let Block { left, panel, rows, depth, cols, out, out_stride, accumulate } = block;
        let steps = depth.div_ceil(WORDS);
        assert_eq!(left.strides, (LEFT_STRIDE, 1), "rows as they were packed");
        let readable = rows.next_multiple_of(ROWS) * LEFT_STRIDE;
        assert!(depth <= DEPTH && left.words.len() >= readable, "rows to the end of the tiles");
        assert!(panel.len() >= steps * WORDS * PANEL, "a panel to the end of the tiles");
        assert!(rows == 0 || out.len() >= (rows - 1) * out_stride + cols, "room for the product");
        // SAFETY: `self` is proof of the instructions, and nothing below makes other tiles.
        let mut tiles = unsafe { T::new() };
        for first in (0..rows).step_by(ROWS) {
            let left = &left.words[first * LEFT_STRIDE..];
            let out = &mut out[first * out_stride..];
            let rows = ROWS.min(rows - first);
            if rows == ROWS && cols == PANEL {
                // SAFETY: 32 rows, `steps` lines deep, and as many columns of sums; checked above.
                unsafe {
                    add(&mut tiles, left, panel, steps, out.as_mut_ptr(), out_stride, accumulate)
                };
                continue;
            }
            // Fewer sums go through a copy of full size.
            let mut sums = [[0.0_f32; PANEL]; ROWS];
            for (sums, out) in sums.iter_mut().zip(out.chunks(out_stride)).take(rows) {
                sums[..cols].copy_from_slice(&out[..cols]);
            }
            // SAFETY: rows and columns have room to the end of the tiles; checked above.
            unsafe {
                add(
                    &mut tiles,
                    left,
                    panel,
                    steps,
                    sums.as_flattened_mut().as_mut_ptr(),
                    PANEL,
                    accumulate,
                );
            }
            for (sums, out) in sums.iter().zip(out.chunks_mut(out_stride)).take(rows) {
                out[..cols].copy_from_slice(&sums[..cols]);
            }
        }
    }
}

/// 32 rows and a panel, `steps` lines deep.
///
/// # Safety
///
/// `left` has 32 rows of so many lines, `panel` 16 rows for each; `sums` leads to 32 rows of 32, `stride` apart.
unsafe fn add<T: Tiles>(
    tiles: &mut T,
    left: &[u32],
    panel: &[u32],
    steps: usize,
    sums: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let quarters = [0, SIDE, SIDE * stride, SIDE * stride + SIDE];
    let quarters = quarters.map(|at| sums.wrapping_add(at).cast::<u8>());
    let zeros = [0.0_f32; SIDE];
    // A row of zeros stands for all where nothing was summed yet.
    let (from, from_stride) = if accumulate {
        (quarters, stride * WORD)
    } else {
        ([zeros.as_ptr().cast_mut().cast(); 4], 0)
    };
    // SAFETY: 32 rows of 32 sums, in quarters, or the one row again and again.
    unsafe {
        tiles.load::<0>(from[0], from_stride);
        tiles.load::<1>(from[1], from_stride);
        tiles.load::<2>(from[2], from_stride);
        tiles.load::<3>(from[3], from_stride);
    }
    let (left, panel) = (left.as_ptr(), panel.as_ptr());
    for step in 0..steps {
        let left = left.wrapping_add(step * WORDS);
        let panel = panel.wrapping_add(step * WORDS * PANEL);
        // SAFETY: 32 rows of a line and 16 rows of two lines, by the contract above.
        unsafe {
            tiles.load::<4>(left.cast(), LEFT_STRIDE * WORD);
            tiles.load::<5>(left.wrapping_add(SIDE * LEFT_STRIDE).cast(), LEFT_STRIDE * WORD);
            tiles.load::<6>(panel.cast(), PANEL * WORD);
            tiles.load::<7>(panel.wrapping_add(SIDE).cast(), PANEL * WORD);
        }
        tiles.dot_bf16::<0, 4, 6>();
        tiles.dot_bf16::<1, 4, 7>();
        tiles.dot_bf16::<2, 5, 6>();
        tiles.dot_bf16::<3, 5, 7>();
    }
    // SAFETY: 32 rows of 32 sums, in quarters.
    unsafe {
        tiles.store::<0>(quarters[0], stride * WORD);
        tiles.store::<1>(quarters[1], stride * WORD);
        tiles.store::<2>(quarters[2], stride * WORD);
        tiles.store::<3>(quarters[3], stride * WORD);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::arch::tiles::tests::Emulated;

    impl AmxBf16<Emulated> {
        /// The kernel on any CPU that can pack.
        pub(crate) fn emulated() -> Option<Self> {
            Avx512Bf16::new().map(|packing| Self { packing, tiles: PhantomData })
        }
    }
}
