//! One file for each instruction set; a value of a type here is proof that the CPU has it.

/// Walks a product in parts of `P` panels, for each number `P` in turn as often as there are so many left (the last number
/// is 1), and by `$tokens` of the tile's tokens. A part is given where its lines, its tokens and its sums begin.
#[allow(unused_macros, reason = "some CPUs have the scalar kernel alone")]
macro_rules! walk {
    ($shape:expr, [$($number:literal),*], $tokens:literal,
     |$p:ident, $lines:ident, $x:ident, $sums:ident| $part:expr) => {{
        let Shape { panels, depth, tokens, width } = $shape;
        let (lines, x, sums) = ($lines.as_ptr(), $x.as_ptr(), $sums.as_mut_ptr());
        let mut panel = 0;
        $(
            while panels - panel >= $number {
                #[allow(dead_code, reason = "a part of one panel does not ask")]
                const $p: usize = $number;
                for first in (0..tokens).step_by($tokens) {
                    let $lines = lines.wrapping_add(panel * depth);
                    let $x = x.wrapping_add(first);
                    let $sums = sums.wrapping_add(first * width + panel * PANEL);
                    $part;
                }
                panel += $number;
            }
        )*
    }};
}

/// Calls `$tile::<R, T>` over all rows and vectors: vectors by four with one row, else one with four rows.
#[allow(unused_macros, reason = "some CPUs have the scalar kernel alone")]
macro_rules! tiles {
    ($tile:expr, $d_output:expr, $seq:expr, $row:expr, $x:expr, $y:expr) => {{
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

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "train"))]
mod amx_bf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "x86_64", feature = "train"))]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
mod quad;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm_simd128;

use crate::pages::Line;
use crate::sparse_matrix::{DENSE, GROUPS, LINES, PATTERNS, ROWS, SPREAD, code};
use crate::ternary_matrix::PANEL;
use crate::tokens::{GROUP, TILES};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::Amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "train"))]
pub(crate) use amx_bf16::AmxBf16;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx_vnni::AvxVnni;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(all(target_arch = "x86_64", feature = "train"))]
pub(crate) use avx512_bf16::Avx512Bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512_vnni::Avx512Vnni;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon_dotprod::NeonDotprod;
pub(crate) use scalar::Scalar;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux", feature = "train"))]
pub(crate) use tiles::tests::Emulated;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) use wasm_simd128::WasmSimd128;

/// Bytes ahead of those at work that a product of one token asks for. Against 2 KiB, on Zen 5 with one thread, the shape of 25M
/// parameters, partly in L3, decodes 1.14 times as fast, 125M 1.09 times, and 2B4T as fast as before; twice as far it
/// is 1.21, 1.06 and 0.95.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8192;

/// What an instruction set computes. The public methods of [`crate::ternary::Kernel`] check the lengths
/// before they call these; shapes are theirs.
///
/// A ternary product is given whole panels, `[panels, blocks]` lines, and one tile of 1, 4 or 12 tokens; it writes
/// `[tokens, 16 * panels]` sums.
pub(crate) trait Arch: Send + Sync {
    fn name(&self) -> &'static str;

    /// `sums[t, r] = sum_i code(r, i) * x[t, i]`, exact: codes, not trits, so the sum of `x` is yet to be taken off.
    ///
    /// - `x`: `[groups, tokens]`
    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]);

    /// What is better for [`crate::tokens::MANY`] tokens and more than tiles of them, if there is any.
    fn many(&self) -> Option<&dyn Many> {
        None
    }

    /// `sums[t, r] = sum_i trit(r, i) * x[t, i]`, one input after the other.
    ///
    /// - `x`: `[inputs, tokens]`
    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]);

    /// Whether a 2:4 matrix is faster as such than as a dense one.
    fn prefers_sparse(&self) -> bool {
        false
    }

    /// The products of four inputs with each of the 32 patterns, as little-endian 16-bit numbers: a table for each group.
    ///
    /// - `x`: `[groups]`, of one token; `tables`: `[groups]`
    fn tables(&self, x: &[[i8; GROUP]], tables: &mut [Line]) {
        assert_eq!(x.len(), tables.len(), "a table for each group");
        for (x, Line(table)) in x.iter().zip(tables) {
            for (pattern, entry) in PATTERNS.iter().zip(table.as_chunks_mut().0) {
                let products = pattern.iter().zip(x).map(|(&w, &x)| i16::from(w) * i16::from(x));
                *entry = products.sum::<i16>().to_le_bytes();
            }
        }
    }

    /// `sums[r] = sum_i trit(r, i) * x[i]`, exact, of one token and whole panels of 2:4.
    ///
    /// - `lines`: `[panels, blocks, 5]`; `tables`: `[blocks, 16]`; `sums`: `[32 * panels]`
    fn sparse_int8(&self, lines: &[Line], tables: &[Line], sums: &mut [i32]) {
        let depth = check_sparse(lines, tables, sums);
        for (r, sum) in sums.iter_mut().enumerate() {
            let row = &lines[r / ROWS * depth * LINES..][..depth * LINES];
            let product = |(g, Line(table)): (usize, &Line)| {
                let block = &row[g / GROUPS * LINES..][..LINES];
                let place = 2 * code(block, r % ROWS, g % GROUPS);
                i32::from(i16::from_le_bytes([table[place], table[place + 1]]))
            };
            *sum = tables.iter().enumerate().map(product).sum();
        }
    }

    /// One panel of 2:4 as two dense ones.
    ///
    /// - `lines`: `[blocks, 5]`; each of `dense`: as many lines as its rows have blocks of 16 inputs
    fn unpack(&self, lines: &[Line], dense: [&mut [Line]; 2]) {
        for (half, dense) in dense.into_iter().enumerate() {
            assert_eq!(lines.len(), dense.len().div_ceil(DENSE) * LINES, "whole blocks");
            for (k, Line(line)) in dense.iter_mut().enumerate() {
                let block = &lines[k / DENSE * LINES..][..LINES];
                for (r, dword) in line.as_chunks_mut().0.iter_mut().enumerate() {
                    let group = |p| code(block, half * PANEL + r, k % DENSE * GROUP + p);
                    let codes: u32 = (0..GROUP).map(|p| SPREAD[group(p)] << (2 * p)).sum();
                    *dword = codes.to_le_bytes();
                }
            }
        }
    }

    /// `sums[t, r] = sum_i byte(r, i) * x[t, i]`, exact, the bytes unsigned.
    ///
    /// - `lines`: `[panels, groups]`; `x`: `[groups, tokens]`
    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]);

    /// `y[t, r] = sum_i w[r, i] * x[t, i]`.
    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]);
}

/// The blocks of a panel of 2:4, the lengths checked.
fn check_sparse(lines: &[Line], tables: &[Line], sums: &[i32]) -> usize {
    let depth = tables.len() / GROUPS;
    assert!(
        tables.len() == depth * GROUPS
            && sums.len().is_multiple_of(ROWS)
            && lines.len() == sums.len() / ROWS * depth * LINES,
        "whole panels and blocks"
    );
    depth
}

/// Products with many tokens at once.
pub(crate) trait Many: Sync {
    /// As [`Arch::ternary_int8`], for at most [`crate::tokens::MOST`] tokens as they are.
    ///
    /// - `codes`: `[tokens, d_input]`, and the margin of [`crate::tokens::Int8Tokens::codes`]
    fn ternary_int8(
        &self,
        blocks: &[Line],
        codes: &[i8],
        d_input: usize,
        tokens: usize,
        sums: &mut [i32],
    );
}

/// The lengths of a product of whole panels with one tile, checked.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "some CPUs have the scalar kernel alone")]
struct Shape {
    panels: usize,
    /// Lines of a panel.
    depth: usize,
    /// Tokens of the tile, so many entries apart in it.
    tokens: usize,
    /// Sums of a token.
    width: usize,
}

impl Shape {
    /// The tile has `per_line` entries of each token for a line.
    fn new<X, S>(lines: &[Line], x: &[X], per_line: usize, tokens: usize, sums: &[S]) -> Self {
        assert!(TILES.contains(&tokens), "there are no other tiles");
        let width = sums.len() / tokens;
        let (panels, depth) = (width / PANEL, x.len() / (per_line * tokens));
        assert!(
            sums.len() == panels * PANEL * tokens && lines.len() == panels * depth,
            "whole panels"
        );
        assert_eq!(x.len(), depth * per_line * tokens, "whole lines of the tile");
        Self { panels, depth, tokens, width }
    }
}

/// Four codes of a token as one number, to be the same for all rows.
///
/// # Safety
///
/// `x` leads to more than `i` groups.
#[allow(dead_code, reason = "some CPUs have the scalar kernel alone")]
#[inline(always)]
unsafe fn group(x: *const [i8; GROUP], i: usize) -> i32 {
    // SAFETY: by the contract above; four codes have the size of the number.
    unsafe { x.add(i).cast::<i32>().read_unaligned() }
}
