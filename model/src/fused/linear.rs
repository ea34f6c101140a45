//! A product with a weight matrix.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::gemm::Matrix;
use tern_kernels::train::pool;

use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use crate::precision::Precision;
use crate::profile::{Span, span};

/// `y = x * w^T`. Backward: `dx = dy * w`, `dw = dy^T * x`, each only where its input is tracked. `precision` is that of
/// all three products on the CPU; other devices have their own.
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - `w`: `[d_output, d_input]`
/// - returns `[rows, d_output]`
pub fn linear(x: Tensor<2>, w: Tensor<2>, precision: Precision) -> Tensor<2> {
    if !fusible(&x) || !fusible(&w) {
        return plain_linear(x, w);
    }
    let _span = product_span("linear", x.dims(), w.dims(), 1);
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Linear>::fused_linear(x, w, precision))
}

/// [`linear`] composed of Burn's operations.
pub fn plain_linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    x.matmul(w.transpose())
}

/// A span of so many products as large as that of `[rows, d_input]` and `[d_output, d_input]`.
pub(super) fn product_span(
    name: &'static str,
    [rows, d_input]: [usize; 2],
    [d_output, _]: [usize; 2],
    products: usize,
) -> Span {
    let multiplications = products * rows * d_input * d_output;
    span(name, [rows, d_input, d_output], 2 * multiplications as u64)
}

#[backend_extension(Flex, Autodiff)]
trait Linear: Backend {
    fn fused_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

pub(super) fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let [rows, cols] = sides(tensor);
    Matrix::new(values(tensor), rows, cols)
}

/// `a * b` in a buffer of the pool: as many rows as `a`, as many columns as `b`.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>, precision: Precision) -> Vec<f32> {
    let mut out = pool::take(a.shape()[0] * b.shape()[1]);
    precision.matmul(a, b, &mut out);
    out
}

impl Linear for Flex {
    fn fused_linear(x: FlexTensor, w: FlexTensor, precision: Precision) -> FlexTensor {
        let (x, w) = (contiguous(x), contiguous(w));
        let y = product(matrix(&x), matrix(&w).transposed(), precision);
        tensor(y, [sides(&x)[0], sides(&w)[0]])
    }
}

impl<C: CheckpointStrategy> Linear for Autodiff<Flex, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (w, w_node)) = (x.into_parts(), w.into_parts());
        let (x, w) = (contiguous(x), contiguous(w));
        let y = Flex::fused_linear(x.clone(), w.clone(), precision);
        match LinearBackward.prepare::<C>([x_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w, precision), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    /// `x`, `w` and the precision of their product.
    type State = (FlexTensor, FlexTensor, Precision);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, w, precision) = ops.state;
        let products = ops.parents.iter().flatten().count();
        let _span = product_span("linear", sides(&x), sides(&w), products);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x_node, w_node] = ops.parents;
        if let Some(node) = w_node {
            let dw = product(matrix(&dy).transposed(), matrix(&x), precision);
            grads.register::<Flex>(node.id, tensor(dw, sides(&w)));
        }
        if let Some(node) = x_node {
            let dx = product(matrix(&dy), matrix(&w), precision);
            grads.register::<Flex>(node.id, tensor(dx, sides(&x)));
        }
        recycle(dy);
        recycle(x);
    }
}
