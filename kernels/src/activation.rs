//! The non-linearities of the feed-forward block, alone and as gates.

use crate::exp::sigmoid;
use crate::simd::simd;

/// A non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `max(x, 0)^2` (arXiv:2109.08668).
    Relu2,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (arXiv:1606.08415).
    Gelu,
}

/// `y = f(x)`.
///
/// # Panics
///
/// If the lengths differ.
pub fn activate(activation: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "one output for one value");
    match activation {
        Activation::Silu => silu_alone(x, y),
        Activation::Relu2 => relu2_alone(x, y),
        Activation::Gelu => gelu_alone(x, y),
    }
}

/// `y = f(gate) * up` (arXiv:2002.05202); all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn gate(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "one gate for one value");
    match activation {
        Activation::Silu => silu_gate(gate, up, y),
        Activation::Relu2 => relu2_gate(gate, up, y),
        Activation::Gelu => gelu_gate(gate, up, y),
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn relu2(x: f32) -> f32 {
    // What is no number stays so.
    let positive = if x < 0.0 { 0.0 } else { x };
    positive * positive
}

/// `2 sqrt(2 / pi)`.
pub(crate) const TWO_ROOTS: f32 = 1.595_769;

/// `(1 + tanh(u)) / 2` is the sigmoid of `2 u`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * sigmoid(TWO_ROOTS * (x + 0.044_715 * x * x * x))
}

macro_rules! passes {
    ($($function:ident: $alone:ident, $gate:ident;)*) => {$(
        simd! {
            fn $alone<'a>(x: &'a [f32], y: &'a mut [f32]) {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = $function(*x);
                }
            }
        }

        simd! {
            fn $gate<'a>(gate: &'a [f32], up: &'a [f32], y: &'a mut [f32]) {
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = $function(*gate) * up;
                }
            }
        }
    )*};
}

passes! {
    silu: silu_alone, silu_gate;
    relu2: relu2_alone, relu2_gate;
    gelu: gelu_alone, gelu_gate;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_its_formula() {
        let x: Vec<f32> = (-1000..1000).map(|i| i as f32 / 100.0).collect();
        let up: Vec<f32> = x.iter().map(|x| x.cos()).collect();
        for (activation, formula) in [
            (Activation::Silu, (|x| x / (1.0 + (-x).exp())) as fn(f64) -> f64),
            (Activation::Relu2, |x| x.max(0.0).powi(2)),
            (Activation::Gelu, |x| {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                x / 2.0 * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh())
            }),
        ] {
            let (mut alone, mut gated) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            activate(activation, &x, &mut alone);
            gate(activation, &x, &up, &mut gated);
            for i in 0..x.len() {
                let expected = formula(f64::from(x[i]));
                let close = |found: f32, expected: f64| {
                    (f64::from(found) - expected).abs() <= 2e-6 * expected.abs().max(1.0)
                };
                assert!(close(alone[i], expected), "{activation:?}({}) is {}", x[i], alone[i]);
                assert!(close(gated[i], expected * f64::from(up[i])), "{activation:?} {}", x[i]);
            }
        }
        let mut y = [0.0; 1];
        activate(Activation::Relu2, &[f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }
}
