//! Muon: momentum, orthogonalized by Newton-Schulz (<https://kellerjordan.github.io/posts/muon/>).

use burn::tensor::Tensor;
use tern_model::fused;

use crate::optimizer::{State, take};

/// What a Muon step depends on besides the matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Muon {
    /// Step size.
    pub(crate) learning_rate: f64,
    /// Share of the weights, times the learning rate, that a step takes away.
    pub(crate) weight_decay: f64,
    /// What the momentum keeps of itself.
    pub(crate) momentum: f64,
    /// Whether the momentum looks one step ahead.
    pub(crate) nesterov: bool,
    /// Iterations of Newton-Schulz.
    pub(crate) newton_schulz_steps: u32,
}

/// Root mean square of an entry of an update, as AdamW's updates have it (arXiv:2502.16982 section 2.2).
const UPDATE_RMS: f64 = 0.2;

impl Muon {
    /// Moves the matrix `name` along its gradient.
    ///
    /// `m = momentum * m + g`; `u = g + momentum * m` with Nesterov, else `m`; then
    /// `p = (1 - lr * wd) p - lr * 0.2 sqrt(max(rows, cols)) newton_schulz(u)` (arXiv:2502.16982 equation 4). An orthogonal
    /// matrix has entries of `1 / sqrt(max(rows, cols))`, so that learning rate and weight decay of AdamW carry over.
    ///
    /// The momentum is `momentum.NAME` of `state`, flattened.
    ///
    /// # Shapes
    ///
    /// - `p`: `[rows, cols]`, `g`: `[rows * cols]`, without autodiff
    /// - returns `[rows, cols]`
    pub(crate) fn update(
        &self,
        state: &mut State,
        name: &str,
        p: Tensor<2>,
        g: Tensor<1>,
    ) -> Tensor<2> {
        let [rows, cols] = p.dims();
        let key = format!("momentum.{name}");
        let m = take(state, &key, &g).mul_scalar(self.momentum).add(g.clone());
        state.insert(key, m.clone());
        let u = if self.nesterov { m.mul_scalar(self.momentum).add(g) } else { m };
        let u = fused::newton_schulz(u.reshape([rows, cols]), self.newton_schulz_steps);
        let rate = self.learning_rate * UPDATE_RMS * (rows.max(cols) as f64).sqrt();
        p.mul_scalar(1.0 - self.learning_rate * self.weight_decay).sub(u.mul_scalar(rate))
    }
}
