//! The non-linearity of the feed-forward block, alone and as a gate.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
pub use tern_kernels::train::activation::Activation;
use tern_kernels::train::{activation as kernels, pool};

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use crate::profile::span;

/// `f(x)`.
///
/// # Shapes
///
/// - `x`: `[rows, intermediate]`
/// - returns the same
pub fn activate(f: Activation, x: Tensor<2>) -> Tensor<2> {
    if !fusible(&x) {
        return plain_activate(f, x);
    }
    let _span = span("activate", x.dims(), 0);
    Tensor::from_dispatch(<Dispatch as Activate>::fused_activate(x.into_dispatch(), f))
}

/// [`activate`] composed of Burn's operations.
pub fn plain_activate(f: Activation, x: Tensor<2>) -> Tensor<2> {
    match f {
        Activation::Silu => activation::silu(x),
        Activation::Relu2 => {
            let positive = activation::relu(x);
            positive.clone() * positive
        }
        Activation::Gelu => activation::gelu_approximate(x),
    }
}

/// `f(gate) * up` (arXiv:2002.05202).
///
/// # Shapes
///
/// - `gate`, `up`: `[rows, intermediate]`
/// - returns the same
pub fn gate(f: Activation, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !fusible(&gate) || !fusible(&up) {
        return plain_gate(f, gate, up);
    }
    let _span = span("gate", gate.dims(), 0);
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Activate>::fused_gate(gate, up, f))
}

/// [`gate`] composed of Burn's operations.
pub fn plain_gate(f: Activation, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    plain_activate(f, gate) * up
}

#[backend_extension(Flex, Autodiff)]
trait Activate: Backend {
    fn fused_activate(x: FloatTensor<Self>, f: Activation) -> FloatTensor<Self>;
    fn fused_gate(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        f: Activation,
    ) -> FloatTensor<Self>;
}

impl Activate for Flex {
    fn fused_activate(x: FlexTensor, f: Activation) -> FlexTensor {
        let x = contiguous(x);
        let mut y = pool::take(values(&x).len());
        kernels::activate(f, values(&x), &mut y);
        tensor(y, sides(&x))
    }

    fn fused_gate(gate: FlexTensor, up: FlexTensor, f: Activation) -> FlexTensor {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let mut y = pool::take(values(&gate).len());
        kernels::gate(f, values(&gate), values(&up), &mut y);
        tensor(y, sides(&gate))
    }
}

impl<C: CheckpointStrategy> Activate for Autodiff<Flex, C> {
    fn fused_activate(x: FloatTensor<Self>, f: Activation) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let x = contiguous(x);
        let y = Flex::fused_activate(x.clone(), f);
        match ActivateBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, f), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_gate(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        f: Activation,
    ) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (contiguous(gate), contiguous(up));
        let y = Flex::fused_gate(gate.clone(), up.clone(), f);
        match GateBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up, f), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct ActivateBackward;

impl Backward<Flex, 1> for ActivateBackward {
    /// `x` and what is done to it.
    type State = (FlexTensor, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, f) = ops.state;
        let _span = span("activate", sides(&x), 0);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        if let [Some(node)] = ops.parents {
            let mut dx = pool::take(values(&x).len());
            kernels::activate_backward(f, values(&x), values(&dy), &mut dx);
            grads.register::<Flex>(node.id, tensor(dx, sides(&x)));
        }
        recycle(dy);
        recycle(x);
    }
}

#[derive(Debug)]
struct GateBackward;

impl Backward<Flex, 2> for GateBackward {
    /// `gate`, `up` and what is done to the first.
    type State = (FlexTensor, FlexTensor, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up, f) = ops.state;
        let _span = span("gate", sides(&gate), 0);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = sides(&gate);
        let len = values(&gate).len();
        let (mut dgate, mut dup) = (pool::take(len), pool::take(len));
        kernels::gate_backward(f, values(&gate), values(&up), values(&dy), &mut dgate, &mut dup);
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
