//! The gate of a SwiGLU feed-forward layer over a whole batch, and its gradients.

use rayon::prelude::*;

use crate::activation::{self, Activation};
use crate::exp::sigmoid;
use crate::simd::simd;

/// Entries in one task.
const CHUNK: usize = 1 << 14;

/// `y = silu(gate) * up` with `silu(g) = g * sigmoid(g)` (arXiv:2002.05202); all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len());
    gate.par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(y.par_chunks_mut(CHUNK))
        .for_each(|((gate, up), y)| activation::gate(Activation::Silu, gate, up, y));
}

/// The gradients of [`swiglu`]: with `s = sigmoid(gate)`,
/// `dgate = dy * up * s * (1 + gate * (1 - s))` and `dup = dy * gate * s`; all slices have one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let len = gate.len();
    assert!(up.len() == len && dy.len() == len && dgate.len() == len && dup.len() == len);
    gate.par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK))
        .zip(dgate.par_chunks_mut(CHUNK))
        .zip(dup.par_chunks_mut(CHUNK))
        .for_each(|((((gate, up), dy), dgate), dup)| backward(gate, up, dy, dgate, dup));
}

simd! {
    fn backward<'a>(
        gate: &'a [f32],
        up: &'a [f32],
        dy: &'a [f32],
        dgate: &'a mut [f32],
        dup: &'a mut [f32],
    ) {
        let len = gate.len();
        // Equal lengths in sight of the compiler, so that the loop has no bounds to check.
        let (up, dy, dgate, dup) = (&up[..len], &dy[..len], &mut dgate[..len], &mut dup[..len]);
        for i in 0..len {
            let s = sigmoid(gate[i]);
            dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            dup[i] = dy[i] * gate[i] * s;
        }
    }
}
