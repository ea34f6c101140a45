//! Rows of the embedding table.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;
use tern_kernels::train::{embedding as kernels, pool};

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use crate::profile::span;

/// `y[row] = table[ids[row]]`.
///
/// # Shapes
///
/// - `table`: `[vocab, hidden]`
/// - `ids`: `[rows]`
/// - returns `[rows, hidden]`
///
/// # Panics
///
/// If an id is outside the table (on the CPU; other devices may read nonsense).
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    if !fusible(&table) {
        return plain_embedding(table, ids);
    }
    let _span = span("embedding", [ids.dims()[0], table.dims()[1]], 0);
    let (table, ids) = (table.into_dispatch(), ids.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Embedding>::fused_embedding(table, ids))
}

/// [`embedding`] composed of Burn's operations.
pub fn plain_embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    table.select(0, ids)
}

#[backend_extension(Flex, Autodiff)]
trait Embedding: Backend {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

fn gather(table: &FlexTensor, ids: &[u32]) -> FlexTensor {
    let [_, hidden] = sides(table);
    let mut y = pool::take(ids.len() * hidden);
    kernels::embedding(values(table), ids, hidden, &mut y);
    tensor(y, [ids.len(), hidden])
}

impl Embedding for Flex {
    fn fused_embedding(table: FlexTensor, ids: FlexTensor) -> FlexTensor {
        gather(&contiguous(table), &super::flex::ids(&ids))
    }
}

impl<C: CheckpointStrategy> Embedding for Autodiff<Flex, C> {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let (table, node) = table.into_parts();
        let (table, ids) = (contiguous(table), super::flex::ids(&ids));
        let y = gather(&table, &ids);
        match EmbeddingBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((ids, sides(&table)), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    /// The ids and the shape of the table.
    type State = (Vec<u32>, [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (ids, [vocab, hidden]) = ops.state;
        let _span = span("embedding", [ids.len(), hidden], 0);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        if let [Some(node)] = ops.parents {
            let mut dtable = pool::take(vocab * hidden);
            kernels::embedding_backward(&ids, values(&dy), hidden, &mut dtable);
            grads.register::<Flex>(node.id, tensor(dtable, [vocab, hidden]));
        }
        recycle(dy);
    }
}
