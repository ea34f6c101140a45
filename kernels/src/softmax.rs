//! Softmax.

use crate::exp::exp;

/// Independent partial maxima and sums: a fixed number, so that the sum does not depend on the CPU.
const LANES: usize = 8;

/// `x_i = e^(x_i - max x) / sum e^(x_j - max x)`, in place. Nothing happens to an empty slice.
///
/// # Shapes
///
/// - `x`: `[n]`; entries of minus infinity get the weight 0
pub fn softmax(x: &mut [f32]) {
    let most = largest(x);
    if most == f32::NEG_INFINITY && x.iter().all(|v| *v == most) {
        // All are minus infinity (or there are none): no entry is likelier than another.
        let share = 1.0 / x.len() as f32;
        x.fill(share);
        return;
    }
    let mut lanes = [0.0f32; LANES];
    let mut blocks = x.chunks_exact_mut(LANES);
    for block in &mut blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *value = exp(*value - most);
            *lane += *value;
        }
    }
    let mut total = 0.0;
    for value in blocks.into_remainder() {
        *value = exp(*value - most);
        total += *value;
    }
    let scale = 1.0 / (lanes.iter().sum::<f32>() + total);
    for value in x {
        *value *= scale;
    }
}

/// The largest entry; minus infinity if there is none.
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let blocks = x.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &value| most.max(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_formula_at_every_length() {
        for length in 1..40 {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 1.7).sin() * 30.0).collect();
            let mut ours = x.clone();
            softmax(&mut ours);
            let total: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
            for (&value, &ours) in x.iter().zip(&ours) {
                assert!((f64::from(value).exp() / total - f64::from(ours)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn infinities_are_weights_of_zero() {
        let mut x = [f32::NEG_INFINITY, 2.0];
        softmax(&mut x);
        assert_eq!(x, [0.0, 1.0]);
        let mut x = [f32::NEG_INFINITY; 2];
        softmax(&mut x);
        assert_eq!(x, [0.5, 0.5]);
        softmax(&mut []);
    }
}
