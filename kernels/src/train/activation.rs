//! The non-linearities of the feed-forward block over a whole batch, alone and as gates, and their gradients.

use rayon::prelude::*;

pub use crate::activation::Activation;
use crate::activation::{self, TWO_ROOTS};
use crate::exp::sigmoid;
use crate::simd::simd;

/// Entries in one task.
const CHUNK: usize = 1 << 14;

/// `y = f(x)`; both slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn activate(f: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    x.par_chunks(CHUNK)
        .zip(y.par_chunks_mut(CHUNK))
        .for_each(|(x, y)| activation::activate(f, x, y));
}

/// The gradient of [`activate`]: `dx = dy * f'(x)`; all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn activate_backward(f: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dy.len() && x.len() == dx.len());
    let pass = match f {
        Activation::Silu => silu_alone,
        Activation::Relu2 => relu2_alone,
        Activation::Gelu => gelu_alone,
    };
    x.par_chunks(CHUNK)
        .zip(dy.par_chunks(CHUNK))
        .zip(dx.par_chunks_mut(CHUNK))
        .for_each(|((x, dy), dx)| pass(x, dy, dx));
}

/// `y = f(gate) * up` (arXiv:2002.05202); all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn gate(f: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len());
    gate.par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(y.par_chunks_mut(CHUNK))
        .for_each(|((gate, up), y)| activation::gate(f, gate, up, y));
}

/// The gradients of [`gate`]: `dgate = dy * up * f'(gate)` and `dup = dy * f(gate)`; all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn gate_backward(
    f: Activation,
    gate: &[f32],
    up: &[f32],
    dy: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let len = gate.len();
    assert!(up.len() == len && dy.len() == len && dgate.len() == len && dup.len() == len);
    let pass = match f {
        Activation::Silu => silu_gate,
        Activation::Relu2 => relu2_gate,
        Activation::Gelu => gelu_gate,
    };
    gate.par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK))
        .zip(dgate.par_chunks_mut(CHUNK))
        .zip(dup.par_chunks_mut(CHUNK))
        .for_each(|((((gate, up), dy), dgate), dup)| pass(gate, up, dy, dgate, dup));
}

/// `f(x)` and `f'(x)`: with `s = sigmoid(x)`, `x s` and `s (1 + x (1 - s))`.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// `f(x)` and `f'(x)`: `max(x, 0)^2` and `2 max(x, 0)`.
#[inline(always)]
fn relu2(x: f32) -> (f32, f32) {
    // What is no number stays so.
    let positive = if x < 0.0 { 0.0 } else { x };
    (positive * positive, 2.0 * positive)
}

/// `f(x)` and `f'(x)`: with `u = 2 sqrt(2 / pi) (x + 0.044715 x^3)` and `s = sigmoid(u)`, `x s` and `s + x s (1 - s) u'`.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let s = sigmoid(TWO_ROOTS * (x + 0.044_715 * x * x * x));
    let slope = TWO_ROOTS * (1.0 + 3.0 * 0.044_715 * x * x);
    (x * s, s + x * s * (1.0 - s) * slope)
}

macro_rules! passes {
    ($($function:ident: $alone:ident, $gate:ident;)*) => {$(
        simd! {
            fn $alone<'a>(x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32]) {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = dy * $function(*x).1;
                }
            }
        }

        simd! {
            fn $gate<'a>(
                gate: &'a [f32],
                up: &'a [f32],
                dy: &'a [f32],
                dgate: &'a mut [f32],
                dup: &'a mut [f32],
            ) {
                let len = gate.len();
                // Equal lengths in sight of the compiler, so that the loop has no bounds to check.
                let (up, dy) = (&up[..len], &dy[..len]);
                let (dgate, dup) = (&mut dgate[..len], &mut dup[..len]);
                for i in 0..len {
                    let (value, slope) = $function(gate[i]);
                    dgate[i] = dy[i] * up[i] * slope;
                    dup[i] = dy[i] * value;
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
