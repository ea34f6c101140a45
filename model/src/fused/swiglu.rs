//! The gate of a SwiGLU feed-forward layer.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use tern_kernels::train::{pool, swiglu as kernels};

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};

/// `silu(gate) * up` (arXiv:2002.05202).
///
/// # Shapes
///
/// - `gate`, `up`: `[rows, intermediate]`
/// - returns `[rows, intermediate]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !fusible(&gate) || !fusible(&up) {
        return plain_swiglu(gate, up);
    }
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as SwiGlu>::fused_swiglu(gate, up))
}

/// [`swiglu`] composed of Burn's operations.
pub fn plain_swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

#[backend_extension(Flex, Autodiff)]
trait SwiGlu: Backend {
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SwiGlu for Flex {
    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let mut y = pool::take(values(&gate).len());
        kernels::swiglu(values(&gate), values(&up), &mut y);
        tensor(y, sides(&gate))
    }
}

impl<C: CheckpointStrategy> SwiGlu for Autodiff<Flex, C> {
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (contiguous(gate), contiguous(up));
        let y = Flex::fused_swiglu(gate.clone(), up.clone());
        match SwiGluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct SwiGluBackward;

impl Backward<Flex, 2> for SwiGluBackward {
    /// `gate` and `up`.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up) = ops.state;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = sides(&gate);
        let len = values(&gate).len();
        let (mut dgate, mut dup) = (pool::take(len), pool::take(len));
        kernels::swiglu_backward(values(&gate), values(&up), values(&dy), &mut dgate, &mut dup);
        let [gate_node, up_node] = ops.parents;
        if let Some(node) = gate_node {
            grads.register::<Flex>(node.id, tensor(dgate, shape));
        }
        if let Some(node) = up_node {
            grads.register::<Flex>(node.id, tensor(dup, shape));
        }
        recycle(dy);
        recycle(gate);
        recycle(up);
    }
}
