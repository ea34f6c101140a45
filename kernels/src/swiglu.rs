//! The gate of the feed-forward block (SwiGLU, arXiv:2002.05202).

use crate::exp::sigmoid;
use crate::simd::simd;

/// `y = silu(gate) * up` with `silu(g) = g * sigmoid(g)`; all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "one gate for one value");
    forward(gate, up, y);
}

simd! {
    fn forward<'a>(gate: &'a [f32], up: &'a [f32], y: &'a mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(*gate) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_formula() {
        let gate: Vec<f32> = (-1000..1000).map(|i| i as f32 / 10.0).collect();
        let up: Vec<f32> = gate.iter().map(|g| g.cos()).collect();
        let mut y = vec![0.0; gate.len()];
        swiglu(&gate, &up, &mut y);
        for ((&g, &u), &y) in gate.iter().zip(&up).zip(&y) {
            let expected = f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u);
            assert!((f64::from(y) - expected).abs() <= 1e-6 * expected.abs().max(1.0));
        }
    }
}
