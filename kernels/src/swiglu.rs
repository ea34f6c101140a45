//! The gate of the feed-forward block (SwiGLU, arXiv:2002.05202).

use crate::exp::exp;

/// `gate_i = silu(gate_i) * up_i` with `silu(x) = x / (1 + e^-x)`, in place.
///
/// # Shapes
///
/// - `gate`, `up`: `[intermediate_size]`
///
/// # Panics
///
/// If the lengths differ.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "one gate for one value");
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_formula() {
        let mut gate: Vec<f32> = (-1000..1000).map(|i| i as f32 / 10.0).collect();
        let up: Vec<f32> = gate.iter().map(|g| g.cos()).collect();
        let expected: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(&g, &u)| f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u))
            .collect();
        swiglu(&mut gate, &up);
        for (ours, expected) in gate.iter().zip(expected) {
            assert!((f64::from(*ours) - expected).abs() <= 1e-6 * expected.abs().max(1.0));
        }
    }
}
