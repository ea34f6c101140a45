//! Products with floats on registers of four of them, once for every instruction set that has such.
//!
//! All of them are on at compile time wherever this is compiled, so functions that are generic over a register are
//! inlined like any other.

use super::Shape;
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL};

/// A register of four floats.
pub(super) trait Quad: Copy {
    /// The same value four times.
    fn splat(value: f32) -> Self;

    /// # Safety
    ///
    /// `x` leads to four floats.
    unsafe fn load(x: *const f32) -> Self;

    /// # Safety
    ///
    /// `y` leads to four floats.
    unsafe fn store(self, y: *mut f32);

    fn add(self, other: Self) -> Self;

    /// `self + a * b`, rounded once or twice.
    fn add_product(self, a: Self, b: Self) -> Self;

    /// The trits of four rows: each dword, shifted right, has a code in its lowest two bits.
    ///
    /// # Safety
    ///
    /// `rows` leads to four dwords.
    unsafe fn trits<const SHIFT: u32>(rows: *const u32) -> Self;
}

/// The four floats, in order.
#[inline(always)]
fn floats<Q: Quad>(quad: Q) -> [f32; 4] {
    let mut floats = [0.0; 4];
    // SAFETY: four floats.
    unsafe { quad.store(floats.as_mut_ptr()) };
    floats
}

/// Quads that a step of a float tile takes from each row.
const QUADS: usize = 4;
/// Weights of such a step.
const STEP: usize = 4 * QUADS;

#[inline(always)]
fn load<Q: Quad>(x: &[f32; STEP]) -> [Q; QUADS] {
    let mut quads = [Q::splat(0.0); QUADS];
    for (quad, x) in quads.iter_mut().zip(x.as_chunks::<4>().0) {
        // SAFETY: four floats.
        *quad = unsafe { Q::load(x.as_ptr()) };
    }
    quads
}

/// [`super::Arch::dense`].
#[inline(always)]
pub(super) fn dense<Q: Quad>(w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
    let row = |r: usize| &w[r * d_input..][..d_input];
    let vector = |t: usize| &x[t * d_input..][..d_input];
    tiles!(dense_tile::<Q, _, _>, d_output, x.len() / d_input, row, vector, y);
}

/// Each pair of row and vector has sums of its own, in one order, whatever the tile.
#[inline(always)]
fn dense_tile<Q: Quad, const R: usize, const T: usize>(
    rows: [&[f32]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let steps = x[0].len() / STEP;
    let whole_rows = rows.map(|row| &row.as_chunks::<STEP>().0[..steps]);
    let whole = x.map(|x| &x.as_chunks::<STEP>().0[..steps]);
    let mut sums = [[[Q::splat(0.0); QUADS]; T]; R];
    for step in 0..steps {
        let x = whole.map(|whole| load::<Q>(&whole[step]));
        for (row, sums) in whole_rows.iter().zip(&mut sums) {
            let w = load::<Q>(&row[step]);
            for (x, sums) in x.iter().zip(sums) {
                for ((sum, &w), &x) in sums.iter_mut().zip(&w).zip(x) {
                    *sum = sum.add_product(w, x);
                }
            }
        }
    }
    let mut out = [[0.0; T]; R];
    for (r, sums) in sums.into_iter().enumerate() {
        for (t, [a, b, c, d]) in sums.into_iter().enumerate() {
            let [a, b, c, d] = floats(a.add(b).add(c.add(d)));
            let tail = rows[r][STEP * steps..].iter().zip(&x[t][STEP * steps..]);
            out[r][t] = tail.fold((a + b) + (c + d), |sum, (w, x)| sum + w * x);
        }
    }
    out
}

/// [`super::Arch::ternary_f32`].
#[inline(always)]
pub(super) fn ternary_f32<Q: Quad>(blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
    let shape = Shape::new(blocks, x, BLOCK, tokens, sums);
    // SAFETY: each part gets the lines of its panels, the entries of its tokens and its sums, of lengths that `Shape` has
    // checked.
    unsafe {
        match tokens {
            1 => {
                walk!(shape, [2, 1], 1, |P, blocks, x, sums| f32_tile::<Q, 1, P>(
                    blocks, x, sums, shape
                ))
            }
            _ => {
                walk!(shape, [1], 4, |P, blocks, x, sums| f32_tile::<Q, 4, P>(
                    blocks, x, sums, shape
                ))
            }
        }
    }
}

/// `T` tokens of a tile of `tokens`, and `P` panels of four quads of rows. `trit * x` is exact, so one rounding or two make
/// the same sum.
///
/// # Safety
///
/// `blocks` leads to `P * depth` lines, `x` to the first of `T` floats for each input, `tokens` apart, `sums` to `T` rows of
/// `16 P` sums, `width` apart.
#[inline(always)]
unsafe fn f32_tile<Q: Quad, const T: usize, const P: usize>(
    blocks: *const Line,
    x: *const f32,
    sums: *mut f32,
    shape: Shape,
) {
    let Shape { depth, tokens, width, .. } = shape;
    let mut acc = [[[Q::splat(0.0); 4]; P]; T];
    for k in 0..depth {
        // Input `4 p + b` of the block is bit pair `p` of byte `b`: 8 b + 2 p bits up.
        macro_rules! inputs {
            ($($input:literal: $shift:literal),*) => {$(
                let mut inputs = [Q::splat(0.0); T];
                for (t, input) in inputs.iter_mut().enumerate() {
                    // SAFETY: input `16 k + input` of token `t`.
                    *input = Q::splat(unsafe { *x.add((BLOCK * k + $input) * tokens + t) });
                }
                for p in 0..P {
                    for quarter in 0..4 {
                        // SAFETY: four rows of line `p * depth + k` of `P * depth`.
                        let w = unsafe {
                            let rows = blocks.add(p * depth + k).cast::<u32>();
                            Q::trits::<$shift>(rows.add(4 * quarter))
                        };
                        for (acc, &x) in acc.iter_mut().zip(&inputs) {
                            acc[p][quarter] = acc[p][quarter].add_product(w, x);
                        }
                    }
                }
            )*};
        }
        inputs!(0: 0, 1: 8, 2: 16, 3: 24, 4: 2, 5: 10, 6: 18, 7: 26);
        inputs!(8: 4, 9: 12, 10: 20, 11: 28, 12: 6, 13: 14, 14: 22, 15: 30);
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (p, acc) in acc.into_iter().enumerate() {
            for (quarter, acc) in acc.into_iter().enumerate() {
                // SAFETY: four of the `16 P` sums of row `t`.
                unsafe { acc.store(sums.add(t * width + PANEL * p + 4 * quarter)) };
            }
        }
    }
}
