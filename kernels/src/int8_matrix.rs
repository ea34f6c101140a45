//! A matrix of eight-bit codes with a scale for each row: the head, which is as wide as the vocabulary.
//!
//! Its products with eight-bit activations stand in for those of the float rows that it was made of, and say how far off
//! they may be. Whoever wants the largest products computes a few candidates exactly and leaves the rest: see
//! [`Int8Matrix::candidates`].
//!
//! In memory a panel is 16 rows, and a line of 64 bytes four neighbouring inputs of all of them: little-endian dword `r`
//! is row `r`, and its byte `b` the code of input `4 k + b`, plus 128, which `vpdpbusd` wants unsigned.

use crate::pages::{Line, Pages};
use crate::pool::Pool;
use crate::quantize::{absmax, code_of};
use crate::simd::{LANES, max, simd};
use crate::ternary_matrix::PANEL;
use crate::tokens::{GROUP, Int8Tokens};

/// What makes a code a byte.
const OFFSET: i32 = 128;

/// Relative error of one float addition or multiplication.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// More than the relative error of a bound that is computed in `f32`.
const SLACK: f64 = 1.0 + 1e-6;

/// Rows of which the best stands for all when a threshold is looked for.
const COMPARED: usize = 64;

/// Rows of codes.
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    d_output: usize,
    d_input: usize,
    lines: Pages,
    /// `w ≈ scale * code`, `[d_output]`.
    scales: Vec<f32>,
    /// The length of each row, `[d_output]`.
    norms: Vec<f32>,
    /// The length of what the codes leave of it, `[d_output]`.
    errors: Vec<f32>,
}

impl Int8Matrix {
    /// Quantizes rows: `scale = max|w| / 127`, `code = round(w / scale)`.
    ///
    /// `row` is asked for each row once, on any thread, and writes its `d_input` values.
    ///
    /// # Panics
    ///
    /// If `d_input` is 0 or beyond 2^16, where a sum could pass 32 bits.
    pub fn quantize(
        pool: &Pool,
        d_output: usize,
        d_input: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        assert!((1..=1 << 16).contains(&d_input), "sums stay inside 32 bits");
        let depth = d_input.div_ceil(GROUP);
        let mut lines = Pages::new(d_output.div_ceil(PANEL) * depth);
        let mut rows = vec![Row::default(); d_output];
        let mut panels: Vec<_> =
            lines.lines_mut().chunks_exact_mut(depth).zip(rows.chunks_mut(PANEL)).collect();
        pool.write_chunks(&mut panels, 1, |p, panels| {
            let (mut values, mut codes) = (vec![0.0; d_input], vec![0; d_input]);
            for (panel, rows) in panels {
                for (r, facts) in rows.iter_mut().enumerate() {
                    row(p * PANEL + r, &mut values);
                    *facts = quantize_row(&values, &mut codes);
                    for (Line(line), codes) in panel.iter_mut().zip(codes.chunks(GROUP)) {
                        line[4 * r..][..codes.len()].copy_from_slice(codes);
                    }
                }
            }
        });
        Self {
            d_output,
            d_input,
            lines,
            scales: rows.iter().map(|row| row.scale).collect(),
            norms: rows.iter().map(|row| row.norm).collect(),
            errors: rows.iter().map(|row| row.error).collect(),
        }
    }

    /// Rows.
    pub fn d_output(&self) -> usize {
        self.d_output
    }

    /// Columns.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Bytes that a product reads.
    pub fn size_bytes(&self) -> usize {
        64 * self.lines.lines().len()
    }

    /// The scale of each row, `[d_output]`.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Some neighbouring panels, line by line.
    pub(crate) fn lines(&self, panels: std::ops::Range<usize>) -> &[Line] {
        let depth = self.d_input.div_ceil(GROUP);
        &self.lines.lines()[panels.start * depth..panels.end * depth]
    }

    /// What bytes add to the sum of codes and activations, of which the sum is given.
    pub(crate) fn offset(of_activations: i32) -> i32 {
        OFFSET * of_activations
    }

    /// The rows that may be among the `count` largest products with a token, in order: each row left out is certainly below
    /// `count` others, whatever rounding did. All rows where `count` is more than a 64th of them.
    ///
    /// The product of a row and the token differs from `approximate` by at most
    /// `|w| |x - x'| + |w - w'| |x'|` (Cauchy and Schwarz; the primes stand for what the codes say), and the float sums
    /// on both sides add their rounding.
    ///
    /// # Shapes
    ///
    /// - `x`: `[d_input]`, and the same token in `codes`
    /// - `approximate`: `[d_output]`, of [`crate::ternary::Kernel::int8_rows`]
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn candidates(
        &self,
        x: &[f32],
        codes: &Int8Tokens,
        approximate: &[f32],
        count: usize,
    ) -> Vec<usize> {
        assert!(codes.seq() == 1 && codes.d_input() == self.d_input, "one token");
        assert!(x.len() == self.d_input && approximate.len() == self.d_output, "the shapes");
        let coded = codes.dequantize();
        let length =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let of_x = length(&mut x.iter().map(|&x| f64::from(x)));
        let of_coded = length(&mut coded.iter().map(|&x| f64::from(x)));
        let of_rest = length(&mut x.iter().zip(&coded).map(|(&a, &b)| f64::from(a) - f64::from(b)));
        // Sums of `d_input` products round by at most that many units of `|w| |x|`; the scales by a few more, and so does
        // the bound itself.
        let rounding = (self.d_input + 8) as f64 * UNIT * of_x.max(of_coded);
        let (of_norm, of_error) = (above((of_rest + rounding) * SLACK), above(of_coded * SLACK));
        let mut extremes = vec![Extremes::default(); self.d_output.div_ceil(COMPARED)];
        if count > extremes.len() {
            return (0..self.d_output).collect();
        }
        find_extremes(approximate, &self.norms, &self.errors, of_norm, of_error, &mut extremes);
        // `count` blocks have a row that has at least this.
        let mut least: Vec<f32> = extremes.iter().map(|block| block.least).collect();
        let last = count.saturating_sub(1);
        let (_, &mut threshold, _) = least.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
        let mut candidates = Vec::new();
        for (block, _) in extremes.iter().enumerate().filter(|(_, block)| block.most >= threshold) {
            let first = block * COMPARED;
            candidates.extend((first..self.d_output.min(first + COMPARED)).filter(|&r| {
                let most = approximate[r] + bound(self.norms[r], self.errors[r], of_norm, of_error);
                most >= threshold || most.is_nan()
            }));
        }
        candidates
    }
}

/// How far an approximate product may be off.
#[inline(always)]
fn bound(norm: f32, error: f32, of_norm: f32, of_error: f32) -> f32 {
    norm * of_norm + error * of_error
}

/// What the products of a block of rows are at least and at most, each the largest of its rows; what is no number may be
/// anything.
#[derive(Clone, Copy, Default)]
struct Extremes {
    least: f32,
    most: f32,
}

simd! {
    fn find_extremes<'a>(
        approximate: &'a [f32],
        norms: &'a [f32],
        errors: &'a [f32],
        of_norm: f32,
        of_error: f32,
        extremes: &'a mut [Extremes],
    ) {
        let [(y, last_y), (norms, last_norms), (errors, last_errors)] =
            [approximate, norms, errors].map(<[f32]>::as_chunks::<COMPARED>);
        let whole = y.iter().zip(norms).zip(errors);
        for (((y, norms), errors), extremes) in whole.zip(&mut *extremes) {
            *extremes = Extremes::of(y, norms, errors, of_norm, of_error);
        }
        if let Some(extremes) = extremes.get_mut(y.len()) {
            let (mut y, mut norms, mut errors) =
                ([f32::NEG_INFINITY; COMPARED], [0.0; COMPARED], [0.0; COMPARED]);
            y[..last_y.len()].copy_from_slice(last_y);
            norms[..last_y.len()].copy_from_slice(last_norms);
            errors[..last_y.len()].copy_from_slice(last_errors);
            *extremes = Extremes::of(&y, &norms, &errors, of_norm, of_error);
        }
    }
}

impl Extremes {
    #[inline(always)]
    fn of(
        y: &[f32; COMPARED],
        norms: &[f32; COMPARED],
        errors: &[f32; COMPARED],
        of_norm: f32,
        of_error: f32,
    ) -> Self {
        let (mut least, mut most) = ([0.0; COMPARED], [0.0; COMPARED]);
        for i in 0..COMPARED {
            let bound = bound(norms[i], errors[i], of_norm, of_error);
            least[i] = y[i] - bound;
            let upper = y[i] + bound;
            most[i] = if upper.is_nan() { f32::INFINITY } else { upper };
        }
        Self { least: max(&least), most: max(&most) }
    }
}

/// What is known of a row beside its codes.
#[derive(Clone, Copy, Default)]
struct Row {
    scale: f32,
    norm: f32,
    error: f32,
}

simd! {
    /// The bytes of a row's codes.
    fn quantize_row<'a>(values: &'a [f32], bytes: &'a mut [u8]) -> Row {
        let most = absmax(values);
        let scale = if most > 0.0 { most / 127.0 } else { 1.0 };
        for (byte, &value) in bytes.iter_mut().zip(values) {
            *byte = (i32::from(code_of(value / scale)) + OFFSET) as u8;
        }
        let (mut norm, mut error) = ([0.0; LANES], [0.0; LANES]);
        for (values, bytes) in values.chunks(LANES).zip(bytes.chunks(LANES)) {
            let lanes = norm.iter_mut().zip(&mut error);
            for ((norm, error), (&value, &byte)) in lanes.zip(values.iter().zip(bytes)) {
                let (value, code) = (f64::from(value), f64::from(i32::from(byte) - OFFSET));
                let rest = value - code * f64::from(scale);
                *norm += value * value;
                *error += rest * rest;
            }
        }
        let length = |lanes: [f64; LANES]| above(lanes.iter().sum::<f64>().sqrt());
        Row { scale, norm: length(norm), error: length(error) }
    }
}

/// The least `f32` that is certainly not below.
#[inline(always)]
fn above(value: f64) -> f32 {
    (value as f32).next_up()
}
