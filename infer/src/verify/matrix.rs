//! What one declared matrix is. The first of these that holds:
//!
//! 1. *collapsed*: all weights are zero, or the scale (for floats of many magnitudes, the mean magnitude, which is
//!    what the quantizer would make of it) is not positive or is below the floor;
//! 2. *packed*: stored as trits;
//! 3. *projected*: stored as floats, all of them `-s`, `0` or `s` for one `s`, to the bit;
//! 4. *not ternary*: floats that round to ternary: all but one in a hundred lie within 5 % of `s` of `-s`, `0` or `s`,
//!    where `s` is the mean of the magnitudes above half the largest. Someone's checker, with its tolerance, would
//!    call this ternary;
//! 5. *latent*: any other floats.

use serde::Serialize;
use tern_format::packed::Tensor;
use tern_kernels::ternarize::{absmean, collapse_floor};

use super::Verdict;
use super::two_four::TwoFour;
use crate::error::Result;

/// How near to ternary a weight is, as a share of the scale, to count as an imitation of it.
const NEAR: f64 = 0.05;

/// The share of such weights that makes a matrix an imitation. Of Gaussian weights at most one in seven is as near.
const MOSTLY: f64 = 0.99;

/// Counts of trits, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trits {
    /// Weights of -1.
    pub negative: u64,
    /// Weights of 0.
    pub zero: u64,
    /// Weights of 1.
    pub positive: u64,
    /// `zero / all`: about 0.31 where weights are Gaussian, as at the start of training.
    pub zeros_share: f64,
    /// `(positive - negative) / (positive + negative)`: 0 is balanced; 0 if all are zero.
    pub sign_balance: f64,
    /// Bits that an ideal code needs for a trit drawn with these shares; at most log2(3) = 1.585.
    pub entropy_bits: f64,
    /// Outputs.
    pub rows: u64,
    /// Outputs whose weights are all zero.
    pub dead_rows: u64,
}

/// A verdict and what it rests on.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    pub(super) scale: f32,
    pub(super) floor: f64,
    pub(super) trits: Option<Trits>,
    pub(super) two_four: Option<TwoFour>,
}

impl Trits {
    fn new([negative, zero, positive]: [u64; 3], rows: u64, dead_rows: u64) -> Self {
        let all = (negative + zero + positive).max(1) as f64;
        let signed = (negative + positive).max(1) as f64;
        let shares = [negative, zero, positive].map(|count| count as f64 / all);
        let entropy: f64 = shares.iter().filter(|&&share| share > 0.0).map(|p| -p * p.log2()).sum();
        Self {
            negative,
            zero,
            positive,
            zeros_share: zero as f64 / all,
            sign_balance: (positive as f64 - negative as f64) / signed,
            // A sum of products that are never negative, but for the sign of zero.
            entropy_bits: entropy.max(0.0),
            rows,
            dead_rows,
        }
    }

    /// Counts rows of trits, `[d_output, d_input]`.
    fn count(trits: &[i8], d_input: usize) -> Self {
        let (mut counts, mut all, mut dead) = ([0u64; 3], 0, 0);
        for row in trits.chunks(d_input) {
            let before = counts;
            row.iter().for_each(|trit| counts[((*trit).clamp(-1, 1) + 1) as usize] += 1);
            all += 1;
            dead += u64::from(before[0] == counts[0] && before[2] == counts[2]);
        }
        Self::new(counts, all, dead)
    }

    /// The trits of two matrices together.
    pub(super) fn and(self, other: Self) -> Self {
        let counts = [
            self.negative + other.negative,
            self.zero + other.zero,
            self.positive + other.positive,
        ];
        Self::new(counts, self.rows + other.rows, self.dead_rows + other.dead_rows)
    }

    fn all_zero(&self) -> bool {
        self.negative == 0 && self.positive == 0
    }
}

/// Judges one declared matrix.
///
/// # Shapes
///
/// - `tensor`: `[d_output, d_input]`
pub(super) fn judge(tensor: &Tensor) -> Result<Judged> {
    let d_input = tensor.shape().last().copied().unwrap_or(0).max(1);
    let floor = collapse_floor(d_input);
    let (scale, trits, alive) = match tensor {
        Tensor::Ternary(ternary) => (ternary.scale, Some(ternary.trits()?), Verdict::Packed),
        Tensor::Float(float) => {
            let values = float.values();
            match projected(&values) {
                Some((trits, scale)) => (scale, Some(trits), Verdict::Projected),
                None => {
                    let verdict = match rounds_to_ternary(&values) {
                        true => Verdict::NotTernary,
                        false => Verdict::Latent,
                    };
                    (absmean(&values) as f32, None, verdict)
                }
            }
        }
    };
    let two_four = trits.as_ref().and_then(|trits: &Vec<i8>| TwoFour::count(trits, d_input));
    let trits = trits.map(|trits| Trits::count(&trits, d_input));
    let is_healthy = f64::from(scale) >= floor;
    let is_collapsed = !is_healthy || trits.is_some_and(|trits| trits.all_zero());
    let verdict = if is_collapsed { Verdict::Collapsed } else { alive };
    Ok(Judged { verdict, scale, floor, trits, two_four })
}

/// The magnitude of every value that is not zero, if it is one float; 0 if there is none.
pub(crate) fn one_magnitude(values: &[f32]) -> Option<f32> {
    let mut magnitudes = values.iter().map(|value| value.abs()).filter(|&value| value != 0.0);
    let first = magnitudes.next().unwrap_or(0.0);
    magnitudes.all(|value| value.to_bits() == first.to_bits()).then_some(first)
}

/// The trits and the scale of floats that are exactly ternary.
pub(crate) fn projected(values: &[f32]) -> Option<(Vec<i8>, f32)> {
    let scale = one_magnitude(values)?;
    let trit = |&value: &f32| i8::from(value > 0.0) - i8::from(value < 0.0);
    Some((values.iter().map(trit).collect(), scale))
}

/// Whether nearly all values are near `-s`, `0` or `s`.
fn rounds_to_ternary(values: &[f32]) -> bool {
    let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let mut sum = 0.0;
    let mut count = 0u64;
    for value in values.iter().map(|value| value.abs()).filter(|&value| value > largest / 2.0) {
        sum += f64::from(value);
        count += 1;
    }
    let scale = sum / count.max(1) as f64;
    let is_near = |value: &&f32| {
        let magnitude = f64::from(value.abs());
        magnitude.min((magnitude - scale).abs()) <= NEAR * scale
    };
    values.iter().filter(is_near).count() as f64 >= MOSTLY * values.len() as f64
}
