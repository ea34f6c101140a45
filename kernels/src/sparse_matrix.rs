//! A 2:4 matrix in the order in which the kernels read it: of four consecutive inputs, a *group*, one or two trits are not
//! zero. There are 32 such groups ([`PATTERNS`]), so a group is five bits, 1.25 bits a weight.
//!
//! The product of a group with a token is one of 32 numbers, which a kernel computes once for all rows: a *table* of 32
//! sixteen-bit numbers is one AVX-512 register, and `vpermw` looks it up for 32 rows, without regard to what stands above
//! the five bits of an index. That is fewer instructions than the dense product takes, and reads 5 bytes instead of 8.
//!
//! When a packed file is loaded its rows are dealt into *panels* of 32 rows, and a panel into blocks of 64 inputs, 16 groups,
//! 5 lines of 64 bytes. Little-endian word `r` of line `j` is row `r`: its bits 0 to 4, 5 to 9 and 10 to 14 are the codes of
//! groups `3 j`, `3 j + 1` and `3 j + 2` of the block, and bit 15 is bit `j` of the code of group 15.
//!
//! ```text
//! panel 0: block 0 | block 1 | … | block ceil(d_input / 64) - 1     rows 0 to 31
//! panel 1: …                                                        rows 32 to 63
//! ```
//!
//! Rows and groups that only fill up a panel or block have code 0; the groups meet tables of zeros, and the sums of the rows
//! are left out.

use crate::pages::{Line, Pages};
use crate::pool::Pool;
use crate::ternary_matrix::{self, PANEL};
use crate::tokens::GROUP;

/// Rows of a panel: two dense ones.
pub(crate) const ROWS: usize = 2 * PANEL;
/// Groups of a block.
pub(crate) const GROUPS: usize = 16;
/// Lines of a block.
pub(crate) const LINES: usize = 5;
/// Dense lines of a block, for each of its two dense panels.
pub(crate) const DENSE: usize = GROUPS * GROUP / ternary_matrix::BLOCK;

/// The groups by their codes: `4 p + a + 2 b` for two trits that are not zero, at the `p`-th of the pairs 01 02 03 12 13 23 of
/// places, the first negative if `a` is 1, the second if `b` is; `24 + 2 i + a` for one, at place `i`.
pub const PATTERNS: [[i8; GROUP]; 32] = {
    let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    let mut patterns = [[0; GROUP]; 32];
    let mut code = 0;
    while code < 24 {
        let (first, second) = pairs[code / 4];
        patterns[code][first] = 1 - 2 * (code as i8 & 1);
        patterns[code][second] = 1 - (code as i8 & 2);
        code += 1;
    }
    while code < 32 {
        patterns[code][(code - 24) / 2] = 1 - 2 * (code as i8 & 1);
        code += 1;
    }
    patterns
};

/// What a group adds to a row's dword of a dense line, where it is the first of four: its codes (`trit + 1`), one to a byte.
pub(crate) const SPREAD: [u32; 32] = {
    let mut spread = [0; 32];
    let mut code = 0;
    while code < 32 {
        let [a, b, c, d] = PATTERNS[code];
        spread[code] =
            u32::from_le_bytes([(a + 1) as u8, (b + 1) as u8, (c + 1) as u8, (d + 1) as u8]);
        code += 1;
    }
    spread
};

/// Rows of 2:4 trits with a scale each, which one product reads: one layer, or several that have the same input.
#[derive(Clone, Debug)]
pub struct SparseMatrix {
    d_output: usize,
    d_input: usize,
    lines: Pages,
    /// `[d_output]`.
    scales: Vec<f32>,
}

/// A matrix in the encoding `s24n`: five bits to a group, lowest bits first, each row from a byte of its own.
#[derive(Clone, Copy, Debug)]
pub struct S24n<'a> {
    /// `[d_output, ceil(5 d_input / 32)]`.
    pub bytes: &'a [u8],
    /// Rows.
    pub d_output: usize,
    /// The scale of all its weights.
    pub scale: f32,
}

impl SparseMatrix {
    /// Stacks matrices that have the same input, the first on top.
    ///
    /// # Panics
    ///
    /// If the bytes do not fit the shapes, or `d_input` is no multiple of 4, or 0, or beyond 2^18, where a sum could pass 32
    /// bits.
    pub fn stack(pool: &Pool, parts: &[S24n<'_>], d_input: usize) -> Self {
        assert!((1..=1 << 18).contains(&d_input), "sums stay inside 32 bits");
        assert!(d_input.is_multiple_of(GROUP), "whole groups");
        let row_bytes = (d_input / GROUP * 5).div_ceil(8);
        for part in parts {
            let expected = part.d_output.checked_mul(row_bytes);
            assert_eq!(Some(part.bytes.len()), expected, "rows of packed groups");
        }
        let rows: Vec<&[u8]> =
            parts.iter().flat_map(|part| part.bytes.chunks_exact(row_bytes)).collect();
        let scales = parts.iter().flat_map(|part| std::iter::repeat_n(part.scale, part.d_output));
        let depth = d_input.div_ceil(GROUPS * GROUP) * LINES;
        let mut lines = Pages::new(rows.len().div_ceil(ROWS) * depth);
        let mut panels: Vec<_> =
            rows.chunks(ROWS).zip(lines.lines_mut().chunks_exact_mut(depth)).collect();
        pool.write_chunks(&mut panels, 1, |_, panels| {
            for (rows, panel) in panels {
                for (r, row) in rows.iter().enumerate() {
                    for (block, codes) in panel.chunks_exact_mut(LINES).zip(row.chunks(2 * LINES)) {
                        deal(codes, block, r);
                    }
                }
            }
        });
        Self { d_output: rows.len(), d_input, lines, scales: scales.collect() }
    }

    /// Rows.
    pub fn d_output(&self) -> usize {
        self.d_output
    }

    /// Columns.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// The scale of each row, `[d_output]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Bytes that a product reads.
    pub fn size_bytes(&self) -> usize {
        64 * self.lines.lines().len()
    }

    /// Blocks of a panel.
    pub(crate) fn depth(&self) -> usize {
        self.d_input.div_ceil(GROUPS * GROUP)
    }

    /// The lines of the panels that have these dense ones, of which the first must begin a panel.
    pub(crate) fn lines(&self, dense: std::ops::Range<usize>) -> &[Line] {
        let depth = self.depth() * LINES;
        &self.lines.lines()[dense.start / 2 * depth..dense.end.div_ceil(2) * depth]
    }
}

/// The codes of up to 16 groups go to their places in a row of a block.
fn deal(codes: &[u8], block: &mut [Line], row: usize) {
    let mut bits = [0; 16];
    bits[..codes.len()].copy_from_slice(codes);
    let bits = u128::from_le_bytes(bits);
    let last = (bits >> 75) as u16;
    for (j, Line(line)) in block.iter_mut().enumerate() {
        let word = (bits >> (15 * j)) as u16 & 0x7fff | (last >> j & 1) << 15;
        line[2 * row..2 * row + 2].copy_from_slice(&word.to_le_bytes());
    }
}

/// The code of a row of the panel and a group of the block.
pub(crate) fn code(block: &[Line], row: usize, group: usize) -> usize {
    let word = |j: usize| u16::from_le_bytes([block[j].0[2 * row], block[j].0[2 * row + 1]]);
    let code = match group {
        15 => (0..LINES).map(|j| word(j) >> 15 << j).sum(),
        _ => word(group / 3) >> (5 * (group % 3)) & 31,
    };
    usize::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_are_those_with_one_or_two_that_are_not_zero() {
        for (code, pattern) in PATTERNS.iter().enumerate() {
            let non_zeros = pattern.iter().filter(|&&trit| trit != 0).count();
            assert_eq!(non_zeros, if code < 24 { 2 } else { 1 });
            assert_eq!(PATTERNS.iter().filter(|&other| other == pattern).count(), 1);
        }
        // The example of the encoding.
        assert_eq!(
            [6, 27, 12].map(|code| PATTERNS[code]),
            [[1, 0, -1, 0], [0, -1, 0, 0], [0, 1, 1, 0]]
        );
    }

    #[test]
    fn every_code_is_where_the_kernels_look_for_it() {
        for (d_output, groups) in [(1, 1), (3, 5), (32, 16), (33, 17), (70, 50)] {
            let expected = |r: usize, g: usize| (r * 7 + g * 5 + r * g) % 32;
            let row_bytes = usize::div_ceil(5 * groups, 8);
            let mut bytes = vec![0u8; d_output * row_bytes];
            for (r, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                for bit in 0..5 * groups {
                    row[bit / 8] |= ((expected(r, bit / 5) >> (bit % 5) & 1) as u8) << (bit % 8);
                }
            }
            let (top, bottom) = bytes.split_at(d_output / 2 * row_bytes);
            let parts = [
                S24n { bytes: top, d_output: d_output / 2, scale: 2.0 },
                S24n { bytes: bottom, d_output: d_output - d_output / 2, scale: 3.0 },
            ];
            let matrix = SparseMatrix::stack(&Pool::new(2), &parts, groups * GROUP);
            assert_eq!(matrix.scales()[d_output - 1], 3.0);
            for r in 0..d_output {
                let panel = matrix.lines(r / ROWS * 2..r / ROWS * 2 + 2);
                for g in 0..groups.next_multiple_of(GROUPS) {
                    let found = code(&panel[g / GROUPS * LINES..][..LINES], r % ROWS, g % GROUPS);
                    assert_eq!(found, if g < groups { expected(r, g) } else { 0 }, "{r} {g}");
                }
            }
        }
    }
}
