//! LayerNorm.

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

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias` for each row, the variance that of the row itself
/// (arXiv:1607.06450).
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`
/// - `gain`, `bias`: `[hidden]`
/// - returns `[rows, hidden]`
pub fn layer_norm(x: Tensor<2>, gain: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<2> {
    if !fusible(&x) || !fusible(&gain) || !fusible(&bias) {
        return plain_layer_norm(x, gain, bias, eps);
    }
    let _span = span("layer_norm", x.dims(), 0);
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LayerNorm>::fused_layer_norm(x, gain, bias, eps))
}

/// [`layer_norm`] composed of Burn's operations.
pub fn plain_layer_norm(x: Tensor<2>, gain: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<2> {
    let centered = x.clone() - x.mean_dim(1);
    let deviation = (centered.clone() * centered.clone()).mean_dim(1).add_scalar(eps).sqrt();
    centered / deviation * gain.unsqueeze() + bias.unsqueeze()
}

#[backend_extension(Flex, Autodiff)]
trait LayerNorm: Backend {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;
}

impl LayerNorm for Flex {
    fn fused_layer_norm(x: FlexTensor, gain: FlexTensor, bias: FlexTensor, eps: f32) -> FlexTensor {
        let [x, gain, bias] = [x, gain, bias].map(contiguous);
        let mut y = pool::take(values(&x).len());
        norm::layer_norm(values(&x), values(&gain), values(&bias), eps, &mut y);
        tensor(y, sides(&x))
    }
}

impl<C: CheckpointStrategy> LayerNorm for Autodiff<Flex, C> {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node), (bias, bias_node)) =
            (x.into_parts(), gain.into_parts(), bias.into_parts());
        let (x, gain) = (contiguous(x), contiguous(gain));
        let y = Flex::fused_layer_norm(x.clone(), gain.clone(), bias, eps);
        let prep = LayerNormBackward.prepare::<C>([x_node, gain_node, bias_node]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gain, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct LayerNormBackward;

impl Backward<Flex, 3> for LayerNormBackward {
    /// `x`, `gain` and `eps`.
    type State = (FlexTensor, FlexTensor, f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, eps) = ops.state;
        let _span = span("layer_norm", sides(&x), 0);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [rows, hidden] = sides(&x);
        let mut dx = pool::take(rows * hidden);
        let (mut dgain, mut dbias) = (vec![0.0; hidden], vec![0.0; hidden]);
        let of_parameters = [&mut dgain[..], &mut dbias[..]];
        let (x_values, gain) = (values(&x), values(&gain));
        norm::layer_norm_backward(x_values, gain, eps, values(&dy), &mut dx, of_parameters);
        let [x_node, gain_node, bias_node] = ops.parents;
        for (node, gradient) in [(gain_node, dgain), (bias_node, dbias)] {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, [hidden]));
            }
        }
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, tensor(dx, [rows, hidden]));
        }
        recycle(dy);
        recycle(x);
    }
}
