//! Causal attention, with rotary positions where the model has them.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor, TensorData, activation};
use burn_flex::FlexTensor;
use tern_kernels::rope::rope_tables;
pub use tern_kernels::train::attention::AttentionShape;
use tern_kernels::train::attention::{Rope, Saved, attention, attention_backward};
use tern_kernels::train::pool;

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use crate::profile::{Span, span};

/// Cosines and sines of the rotation by position, each `[positions, head_dim / 2]`; cheap to clone.
#[derive(Debug, Clone)]
pub struct RopeTables {
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
}

impl RopeTables {
    /// Tables for sequences of up to `positions` tokens, computed in f64.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let (cos, sin) = rope_tables(positions, head_dim, theta);
        Self { cos: cos.into(), sin: sin.into() }
    }

    fn rope(&self, shape: AttentionShape) -> Rope<'_> {
        let len = shape.seq * shape.head_dim / 2;
        Rope { cos: &self.cos[..len], sin: &self.sin[..len] }
    }
}

/// `softmax(rope(q) rope(k)^T / sqrt(head_dim)) v`, each query over the keys up to its own position; rotation half-split
/// (pairs `i` and `i + head_dim / 2`, arXiv:2104.09864), or none without `rope`. Each key/value head serves `heads / key_value_heads` query heads in a row.
///
/// # Shapes
///
/// - `q`: `[batch * seq, heads * head_dim]`
/// - `k`, `v`: `[batch * seq, key_value_heads * head_dim]`
/// - `rope`: tables of at least `seq` positions
/// - returns `[batch * seq, heads * head_dim]`
///
/// # Panics
///
/// If the tensors or tables do not fit `shape`.
pub fn causal_attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    shape: AttentionShape,
    rope: Option<&RopeTables>,
) -> Tensor<2> {
    if !fusible(&q) || !fusible(&k) || !fusible(&v) {
        return plain_causal_attention(q, k, v, shape, rope);
    }
    let _span = attention_span(shape, FORWARD_PRODUCTS);
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Attention>::fused_attention(q, k, v, shape, rope.cloned()))
}

/// [`causal_attention`] composed of Burn's operations.
///
/// The query heads that share a key head are rows of one product, so that no gradient has to be summed over them: on
/// wgpu, Burn 0.22 sums over a transposed tensor wrongly (as in its issue 4815), and the gradient of the keys is one.
pub fn plain_causal_attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    shape: AttentionShape,
    rope: Option<&RopeTables>,
) -> Tensor<2> {
    let AttentionShape { batch, seq, heads, key_value_heads, head_dim } = shape;
    let device = q.device();
    let split = |x: Tensor<2>, heads| x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
    let rows = heads / key_value_heads * seq;
    let q = rotate(split(q, heads), shape, rope, &device);
    let q = q.reshape([batch, key_value_heads, rows, head_dim]);
    let k = rotate(split(k, key_value_heads), shape, rope, &device);
    let v = split(v, key_value_heads);
    let scores = q.matmul(k.transpose()).div_scalar((head_dim as f32).sqrt());
    let scores = scores.reshape([batch, heads, seq, seq]);
    let future = Tensor::<2>::ones([seq, seq], &device).triu(1).greater_elem(0.5);
    let scores = scores.mask_fill(future.unsqueeze::<4>(), f32::NEG_INFINITY);
    activation::softmax(scores, 3)
        .reshape([batch, key_value_heads, rows, seq])
        .matmul(v)
        .reshape([batch, heads, seq, head_dim])
        .swap_dims(1, 2)
        .reshape([batch * seq, heads * head_dim])
}

/// `x`: `[batch, heads, seq, head_dim]`.
fn rotate(
    x: Tensor<4>,
    shape: AttentionShape,
    rope: Option<&RopeTables>,
    device: &Device,
) -> Tensor<4> {
    let Some(rope) = rope else { return x };
    let half = shape.head_dim / 2;
    let Rope { cos, sin } = rope.rope(shape);
    let table = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [1, 1, shape.seq, half]);
        Tensor::<4>::from_data(data, device)
    };
    let (cos, sin) = (table(cos), table(sin));
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let left = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![left, b * cos + a * sin], 3)
}

/// Scores, and the sum of the values.
const FORWARD_PRODUCTS: usize = 2;

/// The scores again, and the gradients of weights, queries, keys and values.
const BACKWARD_PRODUCTS: usize = 5;

/// A span of products over the pairs of a query and a key that it sees.
fn attention_span(shape: AttentionShape, products: usize) -> Span {
    let AttentionShape { batch, seq, heads, key_value_heads, head_dim } = shape;
    let pairs = batch * heads * seq * (seq + 1) / 2;
    let sides = [batch, seq, heads, key_value_heads, head_dim];
    span("attention", sides, 2 * (products * pairs * head_dim) as u64)
}

#[backend_extension(Flex, Autodiff)]
trait Attention: Backend {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
        rope: Option<RopeTables>,
    ) -> FloatTensor<Self>;
}

/// The result and the log-sum-exps that the backward pass needs.
fn forward(
    [q, k, v]: [&FlexTensor; 3],
    shape: AttentionShape,
    rope: Option<&RopeTables>,
) -> (FlexTensor, Vec<f32>) {
    let (mut out, mut lse) = (pool::take(shape.q_len()), pool::take(shape.lse_len()));
    let rope = rope.map(|tables| tables.rope(shape));
    attention(shape, [q, k, v].map(values), rope, &mut out, &mut lse);
    (tensor(out, sides(q)), lse)
}

impl Attention for Flex {
    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        shape: AttentionShape,
        rope: Option<RopeTables>,
    ) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(contiguous);
        let (out, lse) = forward([&q, &k, &v], shape, rope.as_ref());
        pool::give(lse);
        out
    }
}

impl<C: CheckpointStrategy> Attention for Autodiff<Flex, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
        rope: Option<RopeTables>,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) =
            (q.into_parts(), k.into_parts(), v.into_parts());
        let inputs = [q, k, v].map(contiguous);
        let (out, lse) = forward(inputs.each_ref(), shape, rope.as_ref());
        let prep = AttentionBackward.prepare::<C>([q_node, k_node, v_node]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out_kept = out.clone();
                prep.finish(AttentionState { inputs, out: out_kept, lse, shape, rope }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Debug, Clone)]
struct AttentionState {
    /// `q`, `k` and `v`.
    inputs: [FlexTensor; 3],
    out: FlexTensor,
    lse: Vec<f32>,
    shape: AttentionShape,
    rope: Option<RopeTables>,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let AttentionState { inputs, out, lse, shape, rope } = ops.state;
        let _span = attention_span(shape, BACKWARD_PRODUCTS);
        let dout = contiguous(grads.consume::<Flex>(&ops.node));
        let mut gradients = inputs.each_ref().map(|x| pool::take(values(x).len()));
        attention_backward(
            shape,
            inputs.each_ref().map(values),
            rope.as_ref().map(|tables| tables.rope(shape)),
            Saved { out: values(&out), lse: &lse },
            values(&dout),
            gradients.each_mut().map(Vec::as_mut_slice),
        );
        for ((node, gradient), input) in ops.parents.into_iter().zip(gradients).zip(inputs) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, sides(&input)));
            }
            recycle(input);
        }
        recycle(dout);
        recycle(out);
        pool::give(lse);
    }
}
