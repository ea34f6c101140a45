//! AdamW: Adam with decoupled weight decay (arXiv:1711.05101).

use burn::tensor::Tensor;
use tern_model::fused::{self, Moved};

use crate::optimizer::{State, take};

/// Moves the parameter `name` along its gradient; see [`fused::AdamW::update`] for the formula.
///
/// Its moments are `first.NAME` and `second.NAME` of `state`.
///
/// # Shapes
///
/// - `p`, `g`: `[n]`, without autodiff
/// - returns `[n]`
pub(crate) fn update(
    step: &fused::AdamW,
    state: &mut State,
    name: &str,
    p: Tensor<1>,
    g: Tensor<1>,
) -> Tensor<1> {
    let [first, second] = ["first", "second"].map(|moment| format!("{moment}.{name}"));
    let (m, v) = (take(state, &first, &g), take(state, &second, &g));
    let Moved { p, m, v } = fused::adamw(step, Moved { p, m, v }, g);
    state.insert(first, m);
    state.insert(second, v);
    p
}
