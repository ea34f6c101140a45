//! One step of AdamW.

use burn::tensor::{Tensor, TensorData};
pub use tern_kernels::train::adamw::AdamW;

use super::flex::fusible;
use crate::parameters::values;
use crate::profile::span;

/// A parameter and its two moments, `[n]` each, without autodiff.
pub struct Moved {
    /// The parameter.
    pub p: Tensor<1>,
    /// Mean of the gradient.
    pub m: Tensor<1>,
    /// Mean of its square.
    pub v: Tensor<1>,
}

/// Moves a parameter along its gradient `g`, `[n]`; see [`AdamW::update`].
pub fn adamw(step: &AdamW, moved: Moved, g: Tensor<1>) -> Moved {
    if !fusible(&moved.p) || !fusible(&g) {
        return plain_adamw(step, moved, g);
    }
    let _span = span("adamw", [], 0);
    let device = g.device();
    let Moved { p, m, v } = moved;
    let [mut p, mut m, mut v, g] = [p, m, v, g].map(values);
    step.update(&mut p, &g, &mut m, &mut v);
    let [p, m, v] = [p, m, v].map(|moved| {
        let shape = [moved.len()];
        Tensor::from_data(TensorData::new(moved, shape), &device)
    });
    Moved { p, m, v }
}

/// [`adamw`] composed of Burn's operations.
pub fn plain_adamw(step: &AdamW, moved: Moved, g: Tensor<1>) -> Moved {
    let AdamW { learning_rate, weight_decay, betas: [b1, b2], eps, step } = *step;
    let correction = |beta: f64| 1.0 - beta.powf(step.max(1) as f64);
    let p = moved.p.mul_scalar(1.0 - learning_rate * weight_decay);
    let m = moved.m.mul_scalar(b1).add(g.clone().mul_scalar(1.0 - b1));
    let v = moved.v.mul_scalar(b2).add(g.clone().mul(g).mul_scalar(1.0 - b2));
    let root = v.clone().sqrt().div_scalar(correction(b2).sqrt()).add_scalar(eps);
    let p = p.sub(m.clone().div(root).mul_scalar(learning_rate / correction(b1)));
    Moved { p, m, v }
}
