//! A product of int8 activations with ternary weights.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::fake_quantize::{int8_codes, scale_rows, trits};
use tern_kernels::train::gemm::{Matrix, matmul};
use tern_kernels::train::pool;

use super::fake_quantize::{plain_int8_codes, plain_trits, straight_through};
use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use super::linear::{plain_linear, product_span};

/// `y = (codes(x) * trits(w)^T) * scale_x * scale_w`, with the quantizers of [`super::fake_quantize_int8`] and
/// [`super::fake_ternarize`]: the product is a sum of integers, exact in f32 up to a `d_input` of 132,104, and scaled
/// after. Backward: straight through both quantizers, `dx = dy * trits(w) * scale_w`,
/// `dw = dy^T * codes(x) * scale_x`.
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - `w`: `[d_output, d_input]`
/// - returns `[rows, d_output]`
pub fn quantized_linear(x: Tensor<2>, w: Tensor<2>, extra_eps: f64) -> Tensor<2> {
    if !fusible(&x) || !fusible(&w) {
        return plain_quantized_linear(x, w, extra_eps);
    }
    let _span = product_span("quantized_linear", x.dims(), w.dims(), 1);
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(<Dispatch as QuantizedLinear>::fused_quantized_linear(x, w, extra_eps))
}

/// [`quantized_linear`] composed of Burn's operations.
pub fn plain_quantized_linear(x: Tensor<2>, w: Tensor<2>, extra_eps: f64) -> Tensor<2> {
    let (codes, scale_x) = plain_int8_codes(x.clone().detach());
    let (trits, scale_w) = plain_trits(w.clone().detach(), extra_eps);
    // The identity gradient of `scale * code` is a gradient of 1 / scale at the code.
    let codes = straight_through(x / scale_x.clone(), codes);
    let trits = straight_through(w / scale_w.clone(), trits);
    plain_linear(codes, trits) * scale_x * scale_w
}

#[backend_extension(Flex, Autodiff)]
trait QuantizedLinear: Backend {
    fn fused_quantized_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        extra_eps: f64,
    ) -> FloatTensor<Self>;
}

/// Codes and scales of both sides.
#[derive(Debug, Clone)]
struct Quantized {
    /// `[rows, d_input]`
    codes: Vec<f32>,
    /// `[rows]`
    scales: Vec<f32>,
    /// `[d_output, d_input]`
    trits: Vec<f32>,
    scale: f32,
    rows: usize,
    d_input: usize,
    d_output: usize,
}

impl Quantized {
    fn new(x: &FlexTensor, w: &FlexTensor, extra_eps: f64) -> Self {
        let ([rows, d_input], [d_output, _]) = (sides(x), sides(w));
        let mut codes = pool::take(rows * d_input);
        let mut scales = pool::take(rows);
        int8_codes(values(x), d_input, &mut codes, &mut scales);
        let mut ternary = pool::take(d_output * d_input);
        let scale = trits(values(w), extra_eps, &mut ternary);
        Self { codes, scales, trits: ternary, scale, rows, d_input, d_output }
    }

    fn codes(&self) -> Matrix<'_> {
        Matrix::new(&self.codes, self.rows, self.d_input)
    }

    fn trits(&self) -> Matrix<'_> {
        Matrix::new(&self.trits, self.d_output, self.d_input)
    }

    /// `[rows, d_output]`
    fn product(&self) -> FlexTensor {
        let mut y = pool::take(self.rows * self.d_output);
        matmul(self.codes(), self.trits().transposed(), &mut y);
        scale_rows(&mut y, self.d_output, &self.scales, self.scale);
        tensor(y, [self.rows, self.d_output])
    }

    fn recycle(self) {
        pool::give(self.codes);
        pool::give(self.scales);
        pool::give(self.trits);
    }
}

impl QuantizedLinear for Flex {
    fn fused_quantized_linear(x: FlexTensor, w: FlexTensor, extra_eps: f64) -> FlexTensor {
        let quantized = Quantized::new(&contiguous(x), &contiguous(w), extra_eps);
        let y = quantized.product();
        quantized.recycle();
        y
    }
}

impl<C: CheckpointStrategy> QuantizedLinear for Autodiff<Flex, C> {
    fn fused_quantized_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        extra_eps: f64,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (w, w_node)) = (x.into_parts(), w.into_parts());
        let quantized = Quantized::new(&contiguous(x), &contiguous(w), extra_eps);
        let y = quantized.product();
        match QuantizedLinearBackward.prepare::<C>([x_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(quantized, y),
            OpsKind::UnTracked(prep) => {
                quantized.recycle();
                prep.finish(y)
            }
        }
    }
}

#[derive(Debug)]
struct QuantizedLinearBackward;

impl Backward<Flex, 2> for QuantizedLinearBackward {
    type State = Quantized;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let quantized = ops.state;
        let Quantized { rows, d_input, d_output, scale, .. } = quantized;
        let products = ops.parents.iter().flatten().count();
        let (x_sides, w_sides) = ([rows, d_input], [d_output, d_input]);
        let _span = product_span("quantized_linear", x_sides, w_sides, products);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x_node, w_node] = ops.parents;
        if let Some(node) = x_node {
            let (mut dx, mut weights) =
                (pool::take(rows * d_input), pool::take(d_output * d_input));
            for (weight, trit) in weights.iter_mut().zip(&quantized.trits) {
                *weight = trit * scale;
            }
            let weights_matrix = Matrix::new(&weights, d_output, d_input);
            matmul(Matrix::new(values(&dy), rows, d_output), weights_matrix, &mut dx);
            pool::give(weights);
            grads.register::<Flex>(node.id, tensor(dx, [rows, d_input]));
        }
        if let Some(node) = w_node {
            let mut scaled = pool::take(rows * d_output);
            scaled.copy_from_slice(values(&dy));
            scale_rows(&mut scaled, d_output, &quantized.scales, 1.0);
            let mut dw = pool::take(d_output * d_input);
            let left = Matrix::new(&scaled, rows, d_output).transposed();
            matmul(left, quantized.codes(), &mut dw);
            pool::give(scaled);
            grads.register::<Flex>(node.id, tensor(dw, [d_output, d_input]));
        }
        quantized.recycle();
        recycle(dy);
    }
}
