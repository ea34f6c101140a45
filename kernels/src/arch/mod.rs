//! One file for each instruction set; a value of a type here is proof that the CPU has it.

/// Calls a tile with `P` panels at a time, for each number `P` in turn as often as there are so many left; the last number
/// is 1. The tile is given where its lines and its sums begin.
#[cfg(target_arch = "x86_64")]
macro_rules! by_panels {
    ($panels:ident, $depth:ident, $blocks:ident, $sums:ident, [$($number:literal),*],
     |$p:ident, $lines:ident, $out:ident| $tile:expr) => {{
        let mut panel = 0;
        $(
            while $panels - panel >= $number {
                #[allow(dead_code, reason = "a tile of one panel does not ask")]
                const $p: usize = $number;
                let $lines = $blocks.wrapping_add(panel * $depth);
                let $out = $sums.wrapping_add(panel * PANEL);
                $tile;
                panel += $number;
            }
        )*
    }};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod scalar;
#[cfg(test)]
mod tests;

use crate::pages::Line;
use crate::tokens::GROUP;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx_vnni::AvxVnni;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512_vnni::Avx512Vnni;
pub(crate) use scalar::Scalar;

/// Bytes ahead of those at work that a product of one token asks for, where weights come from memory.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2048;

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

    /// `sums[t, r] = sum_i trit(r, i) * x[t, i]`, one input after the other.
    ///
    /// - `x`: `[inputs, tokens]`
    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]);

    /// `sums[t, r] = sum_i byte(r, i) * x[t, i]`, exact, the bytes unsigned.
    ///
    /// - `lines`: `[panels, groups]`; `x`: `[groups, tokens]`
    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]);

    /// `y[t, r] = sum_i w[r, i] * x[t, i]`.
    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]);

    /// `out[i] = sum_r weights[r] * rows[r, i]`.
    fn weighted_rows(&self, rows: &[f32], weights: &[f32], out: &mut [f32]);
}

/// Checks the lengths of a ternary product; returns panels and the blocks of each.
fn shape(lines: usize, blocks: usize, tokens: usize, sums: usize) -> (usize, usize) {
    use crate::ternary_matrix::PANEL;
    let panels = sums / (PANEL * tokens);
    assert!(sums == panels * PANEL * tokens && lines == panels * blocks, "whole panels and tiles");
    (panels, blocks)
}
