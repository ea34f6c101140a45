//! The loss of next-token prediction.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, activation};
use burn_flex::FlexTensor;
use tern_kernels::train::cross_entropy as kernels;

use super::flex::{contiguous, fusible, ids, owned, recycle, sides, tensor, values};
use crate::profile::span;

/// Mean over the rows of `-ln softmax(logits)[target]`, in nats.
///
/// # Shapes
///
/// - `logits`: `[rows, vocab]`
/// - `targets`: `[rows]`
/// - returns `[1]`
///
/// # Panics
///
/// If a target is outside the vocabulary (on the CPU; other devices may read nonsense).
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    if !fusible(&logits) {
        return plain_cross_entropy(logits, targets);
    }
    let _span = span("cross_entropy", logits.dims(), 0);
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(<Dispatch as CrossEntropy>::fused_cross_entropy(logits, targets))
}

/// [`cross_entropy`] composed of Burn's operations.
pub fn plain_cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean().neg()
}

#[backend_extension(Flex, Autodiff)]
trait CrossEntropy: Backend {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl CrossEntropy for Flex {
    fn fused_cross_entropy(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let logits = contiguous(logits);
        let [_, vocab] = sides(&logits);
        let loss = kernels::cross_entropy(values(&logits), &ids(&targets), vocab);
        recycle(logits);
        tensor(vec![loss], [1])
    }
}

impl<C: CheckpointStrategy> CrossEntropy for Autodiff<Flex, C> {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        match CrossEntropyBackward.prepare::<C>([node]).compute_bound().stateful() {
            // The exponentials of the forward pass are the gradient's: one pass makes both, where the logits were.
            OpsKind::Tracked(prep) => {
                let mut gradient = owned(logits);
                let vocab = sides(&gradient)[1];
                let logits = gradient.storage_mut::<f32>();
                let loss = kernels::cross_entropy_gradient(logits, &ids(&targets), vocab);
                prep.finish(gradient, tensor(vec![loss], [1]))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_cross_entropy(logits, targets)),
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 1> for CrossEntropyBackward {
    /// The gradient of the mean.
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let factor = values(&dy)[0];
        let mut gradient = ops.state;
        let _span = span("cross_entropy", sides(&gradient), 0);
        if factor != 1.0 {
            gradient.storage_mut::<f32>().iter_mut().for_each(|g| *g *= factor);
        }
        if let [Some(node)] = ops.parents {
            grads.register::<Flex>(node.id, gradient);
        }
    }
}
