//! A product with ternary weights, of floats or of int8 codes.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::clip::scale;
use tern_kernels::train::fake_quantize::{int8_codes, scale_rows, trits};
use tern_kernels::train::gemm::Matrix;
use tern_kernels::train::pool;

use super::fake_quantize::{plain_fake_ternarize, plain_int8_codes, plain_trits, straight_through};
use super::flex::{contiguous, fusible, recycle, sides, tensor, values};
use super::linear::{matrix, plain_linear, product, product_span};
use crate::precision::Precision;

/// `y = (x * trits(w)^T) * scale_w` with the quantizer of [`super::fake_ternarize`]: trits are exact in every precision, and
/// the sum is scaled after. Backward: straight through the quantizer, `dx = (dy * trits(w)) * scale_w`, `dw = dy^T * x`.
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - `w`: `[d_output, d_input]`
/// - returns `[rows, d_output]`
pub fn ternary_linear(
    x: Tensor<2>,
    w: Tensor<2>,
    extra_eps: f64,
    precision: Precision,
) -> Tensor<2> {
    if !fusible(&x) || !fusible(&w) {
        return plain_ternary_linear(x, w, extra_eps);
    }
    fused(x, w, Quantizer { extra_eps, int8: false, precision })
}

/// [`ternary_linear`] composed of Burn's operations, which scales before the sum.
pub fn plain_ternary_linear(x: Tensor<2>, w: Tensor<2>, extra_eps: f64) -> Tensor<2> {
    plain_linear(x, plain_fake_ternarize(w, extra_eps))
}

/// `y = (codes(x) * trits(w)^T) * scale_x * scale_w`, with the quantizers of [`super::fake_quantize_int8`] and
/// [`super::fake_ternarize`]: the product is a sum of integers, exact up to a `d_input` of 132,104 (bf16 holds codes and trits,
/// f32 their sums), and scaled after. Backward: straight through both quantizers, `dx = (dy * trits(w)) * scale_w`,
/// `dw = dy^T * (codes(x) * scale_x)`.
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - `w`: `[d_output, d_input]`
/// - returns `[rows, d_output]`
pub fn quantized_linear(
    x: Tensor<2>,
    w: Tensor<2>,
    extra_eps: f64,
    precision: Precision,
) -> Tensor<2> {
    if !fusible(&x) || !fusible(&w) {
        return plain_quantized_linear(x, w, extra_eps);
    }
    fused(x, w, Quantizer { extra_eps, int8: true, precision })
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

fn fused(x: Tensor<2>, w: Tensor<2>, quantizer: Quantizer) -> Tensor<2> {
    let _span = product_span(quantizer.name(), x.dims(), w.dims(), 1);
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(<Dispatch as TernaryLinear>::fused_ternary_linear(x, w, quantizer))
}

/// How both sides are quantized and multiplied.
#[derive(Debug, Clone, Copy)]
struct Quantizer {
    extra_eps: f64,
    /// Whether the inputs become codes.
    int8: bool,
    precision: Precision,
}

impl Quantizer {
    fn name(self) -> &'static str {
        if self.int8 { "quantized_linear" } else { "ternary_linear" }
    }
}

#[backend_extension(Flex, Autodiff)]
trait TernaryLinear: Backend {
    fn fused_ternary_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        quantizer: Quantizer,
    ) -> FloatTensor<Self>;
}

/// The left side of the product, `[rows, d_input]`.
#[derive(Debug, Clone)]
enum Inputs {
    Floats(FlexTensor),
    /// Codes, and a scale for each row.
    Codes(FlexTensor, Vec<f32>),
}

/// Both sides of a product.
#[derive(Debug, Clone)]
struct Sides {
    inputs: Inputs,
    /// `[d_output, d_input]`
    trits: FlexTensor,
    scale: f32,
    quantizer: Quantizer,
}

impl Sides {
    fn new(x: FlexTensor, w: &FlexTensor, quantizer: Quantizer) -> Self {
        let Quantizer { extra_eps, int8, .. } = quantizer;
        let mut ternary = pool::take(values(w).len());
        let scale = trits(values(w), extra_eps, &mut ternary);
        let inputs = if int8 {
            let [rows, d_input] = sides(&x);
            let (mut codes, mut scales) = (pool::take(rows * d_input), pool::take(rows));
            int8_codes(values(&x), d_input, &mut codes, &mut scales);
            recycle(x);
            Inputs::Codes(tensor(codes, [rows, d_input]), scales)
        } else {
            Inputs::Floats(x)
        };
        Self { inputs, trits: tensor(ternary, sides(w)), scale, quantizer }
    }

    fn inputs(&self) -> Matrix<'_> {
        let (Inputs::Floats(inputs) | Inputs::Codes(inputs, _)) = &self.inputs;
        matrix(inputs)
    }

    /// `[rows, d_output]`
    fn product(&self) -> FlexTensor {
        let (inputs, trits) = (self.inputs(), matrix(&self.trits));
        let shape = [inputs.shape()[0], trits.shape()[0]];
        let y = match &self.inputs {
            Inputs::Floats(_) => {
                let mut y = product(inputs, trits.transposed(), self.quantizer.precision);
                scale(&mut y, self.scale);
                y
            }
            Inputs::Codes(_, scales) => {
                // Whole numbers that bf16 holds: the same sums in either precision.
                let mut y = product(inputs, trits.transposed(), Precision::bf16_or_f32());
                scale_rows(&mut y, shape[1], scales, self.scale);
                y
            }
        };
        tensor(y, shape)
    }

    fn recycle(self) {
        recycle(self.trits);
        match self.inputs {
            Inputs::Floats(x) => recycle(x),
            Inputs::Codes(codes, scales) => {
                recycle(codes);
                pool::give(scales);
            }
        }
    }
}

impl TernaryLinear for Flex {
    fn fused_ternary_linear(x: FlexTensor, w: FlexTensor, quantizer: Quantizer) -> FlexTensor {
        let both = Sides::new(contiguous(x), &contiguous(w), quantizer);
        let y = both.product();
        both.recycle();
        y
    }
}

impl<C: CheckpointStrategy> TernaryLinear for Autodiff<Flex, C> {
    fn fused_ternary_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        quantizer: Quantizer,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (w, w_node)) = (x.into_parts(), w.into_parts());
        let both = Sides::new(contiguous(x), &contiguous(w), quantizer);
        let y = both.product();
        match TernaryLinearBackward.prepare::<C>([x_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(both, y),
            OpsKind::UnTracked(prep) => {
                both.recycle();
                prep.finish(y)
            }
        }
    }
}

#[derive(Debug)]
struct TernaryLinearBackward;

impl Backward<Flex, 2> for TernaryLinearBackward {
    type State = Sides;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let both = ops.state;
        let products = ops.parents.iter().flatten().count();
        let shape = both.inputs().shape();
        let _span = product_span(both.quantizer.name(), shape, sides(&both.trits), products);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x_node, w_node] = ops.parents;
        if let Some(node) = x_node {
            let mut dx = product(matrix(&dy), matrix(&both.trits), both.quantizer.precision);
            scale(&mut dx, both.scale);
            let shape = [sides(&dy)[0], sides(&both.trits)[1]];
            grads.register::<Flex>(node.id, tensor(dx, shape));
        }
        if let Some(node) = w_node {
            let dw = match &both.inputs {
                Inputs::Floats(x) => {
                    product(matrix(&dy).transposed(), matrix(x), both.quantizer.precision)
                }
                Inputs::Codes(codes, scales) => {
                    // The inputs again, as the product saw them.
                    let [rows, d_input] = sides(codes);
                    let mut inputs = pool::take(rows * d_input);
                    inputs.copy_from_slice(values(codes));
                    scale_rows(&mut inputs, d_input, scales, 1.0);
                    let right = Matrix::new(&inputs, rows, d_input);
                    let dw = product(matrix(&dy).transposed(), right, both.quantizer.precision);
                    pool::give(inputs);
                    dw
                }
            };
            grads.register::<Flex>(node.id, tensor(dw, sides(&both.trits)));
        }
        both.recycle();
        recycle(dy);
    }
}
