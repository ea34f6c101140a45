//! A bias added to every row.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::bias as kernels;

use super::flex::{contiguous, fusible, owned, recycle, sides, tensor, values};
use crate::profile::span;

/// `x + bias` for each row. Backward: `dx = dy`, `dbias` = the sum of the rows of `dy`.
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`
/// - `bias`: `[hidden]`
/// - returns `[rows, hidden]`
pub fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    if !fusible(&x) || !fusible(&bias) {
        return plain_add_bias(x, bias);
    }
    let _span = span("add_bias", x.dims(), 0);
    let (x, bias) = (x.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as AddBias>::fused_add_bias(x, bias))
}

/// [`add_bias`] composed of Burn's operations.
pub fn plain_add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    x + bias.unsqueeze()
}

#[backend_extension(Flex, Autodiff)]
trait AddBias: Backend {
    fn fused_add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl AddBias for Flex {
    fn fused_add_bias(x: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (mut x, bias) = (owned(x), contiguous(bias));
        kernels::add_bias(x.storage_mut::<f32>(), values(&bias));
        x
    }
}

impl<C: CheckpointStrategy> AddBias for Autodiff<Flex, C> {
    fn fused_add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, x_node), (bias, bias_node)) = (x.into_parts(), bias.into_parts());
        let y = Flex::fused_add_bias(x, bias);
        match AddBiasBackward.prepare::<C>([x_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct AddBiasBackward;

impl Backward<Flex, 2> for AddBiasBackward {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let _span = span("add_bias", sides(&dy), 0);
        let [x_node, bias_node] = ops.parents;
        if let Some(node) = bias_node {
            let mut dbias = vec![0.0; sides(&dy)[1]];
            kernels::bias_backward(values(&dy), &mut dbias);
            let shape = [dbias.len()];
            grads.register::<Flex>(node.id, tensor(dbias, shape));
        }
        match x_node {
            Some(node) => grads.register::<Flex>(node.id, dy),
            None => recycle(dy),
        }
    }
}
