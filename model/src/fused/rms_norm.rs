//! RMSNorm.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::{norm, pool};

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use crate::profile::span;

/// `y = x / sqrt(mean(x^2) + eps) * gain` for each row (arXiv:1910.07467).
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`
/// - `gain`: `[hidden]`
/// - returns `[rows, hidden]`
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f32) -> Tensor<2> {
    if !fusible(&x) || !fusible(&gain) {
        return plain_rms_norm(x, gain, eps);
    }
    let _span = span("rms_norm", x.dims(), 0);
    let (x, gain) = (x.into_dispatch(), gain.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RmsNorm>::fused_rms_norm(x, gain, eps))
}

/// [`rms_norm`] composed of Burn's operations.
pub fn plain_rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f32) -> Tensor<2> {
    let rms = (x.clone() * x.clone()).mean_dim(1).add_scalar(eps).sqrt();
    x / rms * gain.unsqueeze()
}

#[backend_extension(Flex, Autodiff)]
trait RmsNorm: Backend {
    fn fused_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32)
    -> FloatTensor<Self>;
}

impl RmsNorm for Flex {
    fn fused_rms_norm(x: FlexTensor, gain: FlexTensor, eps: f32) -> FlexTensor {
        let (x, gain) = (contiguous(x), contiguous(gain));
        let mut y = pool::take(values(&x).len());
        norm::rms_norm(values(&x), values(&gain), eps, &mut y);
        tensor(y, sides(&x))
    }
}

impl<C: CheckpointStrategy> RmsNorm for Autodiff<Flex, C> {
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node)) = (x.into_parts(), gain.into_parts());
        let (x, gain) = (contiguous(x), contiguous(gain));
        let y = Flex::fused_rms_norm(x.clone(), gain.clone(), eps);
        match RmsNormBackward.prepare::<C>([x_node, gain_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gain, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    /// `x`, `gain` and `eps`.
    type State = (FlexTensor, FlexTensor, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, eps) = ops.state;
        let _span = span("rms_norm", sides(&x), 0);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [rows, hidden] = sides(&x);
        let (mut dx, mut dgain) = (pool::take(rows * hidden), vec![0.0; hidden]);
        let (x_values, gain) = (values(&x), values(&gain));
        norm::rms_norm_backward(x_values, gain, eps, values(&dy), &mut dx, &mut dgain);
        let [x_node, gain_node] = ops.parents;
        if let Some(node) = gain_node {
            grads.register::<Flex>(node.id, tensor(dgain, [hidden]));
        }
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, tensor(dx, [rows, hidden]));
        }
        recycle(dy);
        recycle(x);
    }
}
