//! Softmax.

use crate::exp::exp;
use crate::simd::{max, simd, sum};

/// `x_i = e^(x_i - max x) / sum e^(x_j - max x)`, in place. Nothing happens to an empty slice.
///
/// # Shapes
///
/// - `x`: `[n]`; entries of minus infinity get the weight 0, but if all are, each gets `1 / n`
pub fn softmax(x: &mut [f32]) {
    if x.iter().all(|&value| value == f32::NEG_INFINITY) {
        // All are minus infinity (or there are none): no entry is likelier than another.
        let share = 1.0 / x.len() as f32;
        return x.fill(share);
    }
    normalize(x);
}

simd! {
    fn normalize<'a>(x: &'a mut [f32]) {
        let most = max(x);
        for value in x.iter_mut() {
            *value = exp(*value - most);
        }
        let scale = 1.0 / sum([x], |[weight]| weight);
        for value in x {
            *value *= scale;
        }
    }
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
