//! A ternary matrix in the order in which the kernels read it.
//!
//! The packed file knows nothing of CPUs; when it is loaded its rows are dealt into *panels* of 16 rows, and a panel
//! into blocks of 16 inputs. A block is 64 bytes, a cache line and one AVX-512 register: little-endian dword `r` is row
//! `r`, and bit pair `p` (lowest first) of its byte `b` is the code (`trit + 1`) of input `16 k + 4 p + b` for the `k`-th
//! block. So one mask gives, for every row of the panel, the codes of four neighbouring inputs as four bytes: the left
//! operand of `vpdpbusd`, of `sdot`, of `pmaddubsw`, while the right one is four activations, the same for all rows.
//!
//! ```text
//! panel 0: block 0 | block 1 | … | block ceil(d_input / 16) - 1     rows 0 to 15
//! panel 1: …                                                        rows 16 to 31
//! ```
//!
//! Rows and inputs that only fill up a panel or block have code 0; the inputs meet activations of zero, and the sums of
//! the rows are left out.

use crate::pages::{Line, Pages};
use crate::pool::Pool;

/// Rows of a panel.
pub const PANEL: usize = 16;
/// Inputs of a block.
pub const BLOCK: usize = 16;

/// Rows of trits with a scale each, which one product reads: one layer, or several that have the same input.
#[derive(Clone, Debug)]
pub struct TernaryMatrix {
    d_output: usize,
    d_input: usize,
    blocks: Pages,
    /// `[d_output]`.
    scales: Vec<f32>,
}

/// A matrix in the encoding `t2`: four codes to a byte, lowest bits first, each row from a byte of its own.
#[derive(Clone, Copy, Debug)]
pub struct T2<'a> {
    /// `[d_output, ceil(d_input / 4)]`; no code is 3.
    pub bytes: &'a [u8],
    /// Rows.
    pub d_output: usize,
    /// The scale of all its weights.
    pub scale: f32,
}

impl TernaryMatrix {
    /// Stacks matrices that have the same input, the first on top.
    ///
    /// # Panics
    ///
    /// If the bytes do not fit the shapes, or `d_input` is 0 or beyond 2^18, where a sum could pass 32 bits.
    pub fn stack(pool: &Pool, parts: &[T2<'_>], d_input: usize) -> Self {
        assert!((1..=1 << 18).contains(&d_input), "sums stay inside 32 bits");
        let row_bytes = d_input.div_ceil(4);
        for part in parts {
            let expected = part.d_output.checked_mul(row_bytes);
            assert_eq!(Some(part.bytes.len()), expected, "rows of packed trits");
        }
        let rows: Vec<&[u8]> =
            parts.iter().flat_map(|part| part.bytes.chunks_exact(row_bytes)).collect();
        let scales = parts.iter().flat_map(|part| std::iter::repeat_n(part.scale, part.d_output));
        let depth = d_input.div_ceil(BLOCK);
        let mut blocks = Pages::new(rows.len().div_ceil(PANEL) * depth);
        let mut panels: Vec<_> =
            rows.chunks(PANEL).zip(blocks.lines_mut().chunks_exact_mut(depth)).collect();
        pool.write_chunks(&mut panels, 1, |_, panels| {
            for (rows, panel) in panels {
                for (r, row) in rows.iter().enumerate() {
                    let (dwords, rest) = row.as_chunks::<4>();
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    for (Line(line), &dword) in panel.iter_mut().zip(dwords.iter().chain([&last])) {
                        line[4 * r..4 * r + 4].copy_from_slice(&deal(dword));
                    }
                }
            }
        });
        Self { d_output: rows.len(), d_input, blocks, scales: scales.collect() }
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
        64 * self.blocks.lines().len()
    }

    /// Some neighbouring panels, block by block.
    pub(crate) fn blocks(&self, panels: std::ops::Range<usize>) -> &[Line] {
        let depth = self.d_input.div_ceil(BLOCK);
        &self.blocks.lines()[panels.start * depth..panels.end * depth]
    }
}

/// Code `i` of byte `j` goes to bit pair `j` of byte `i`: the 16 codes of a row's block, as a 4 x 4 matrix, are
/// transposed, by exchanging its off-diagonal quarters and then those of the quarters.
fn deal(codes: [u8; 4]) -> [u8; 4] {
    let mut x = u32::from_le_bytes(codes);
    let t = (x ^ x >> 12) & 0x0000_f0f0;
    x ^= t ^ t << 12;
    let t = (x ^ x >> 6) & 0x00cc_00cc;
    x ^= t ^ t << 6;
    x.to_le_bytes()
}

/// The trit of a row of the panel and an input of the block.
pub(crate) fn trit(line: &Line, row: usize, input: usize) -> i8 {
    (line.0[4 * row + input % 4] >> (2 * (input / 4)) & 3) as i8 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_where_the_kernels_look_for_it() {
        for (d_output, d_input) in [(1, 1), (3, 5), (16, 16), (17, 33), (40, 130)] {
            let code = |r: usize, i: usize| ((r * 7 + i * 5 + r * i) % 3) as u8;
            let mut bytes = vec![0; d_output * usize::div_ceil(d_input, 4)];
            for (r, row) in bytes.chunks_exact_mut(d_input.div_ceil(4)).enumerate() {
                (0..d_input).for_each(|i| row[i / 4] |= code(r, i) << (2 * (i % 4)));
            }
            let (top, bottom) = bytes.split_at(d_output / 2 * d_input.div_ceil(4));
            let parts = [
                T2 { bytes: top, d_output: d_output / 2, scale: 2.0 },
                T2 { bytes: bottom, d_output: d_output - d_output / 2, scale: 3.0 },
            ];
            let matrix = TernaryMatrix::stack(&Pool::new(2), &parts, d_input);
            let depth = d_input.div_ceil(BLOCK);
            for r in 0..d_output {
                let panel = matrix.blocks(r / PANEL..r / PANEL + 1);
                assert_eq!(panel.len(), depth);
                for i in 0..d_input {
                    let found = trit(&panel[i / BLOCK], r % PANEL, i % BLOCK);
                    assert_eq!(found, code(r, i) as i8 - 1, "row {r}, input {i}");
                }
                assert_eq!(matrix.scales()[r], if r < d_output / 2 { 2.0 } else { 3.0 });
            }
        }
    }
}
