//! Quantization inside the forward pass, with straight-through gradients.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::fake_quantize as kernels;
use tern_kernels::train::pool;
use tern_kernels::{quantize, ternarize};

use super::flex::{contiguous, fusible, sides, tensor, values};
use crate::profile::span;

/// `scale * trits` with `k = 1 / (max(mean(|w|), 1e-5) + extra_eps)` over the whole tensor,
/// `trits = clamp(round(w * k), -1, 1)`, halves to even, and `scale = 1 / k` (absmean, arXiv:2402.17764 section 2).
/// Backward: the identity.
///
/// # Shapes
///
/// - `w`: `[d_output, d_input]`, and so the result
pub fn fake_ternarize(w: Tensor<2>, extra_eps: f64) -> Tensor<2> {
    if !fusible(&w) {
        return plain_fake_ternarize(w, extra_eps);
    }
    let _span = span("fake_ternarize", w.dims(), 0);
    let w = w.into_dispatch();
    Tensor::from_dispatch(<Dispatch as FakeQuantize>::fused_fake_ternarize(w, extra_eps))
}

/// [`fake_ternarize`] composed of Burn's operations.
pub fn plain_fake_ternarize(w: Tensor<2>, extra_eps: f64) -> Tensor<2> {
    let (trits, scale) = plain_trits(w.clone().detach(), extra_eps);
    straight_through(w, trits * scale)
}

/// Trits, and the scale `[1, 1]`.
pub(super) fn plain_trits(w: Tensor<2>, extra_eps: f64) -> (Tensor<2>, Tensor<2>) {
    let mean = w.clone().abs().mean().clamp_min(ternarize::EPS).unsqueeze::<2>();
    let k = mean.add_scalar(extra_eps).recip();
    (w.mul(k.clone()).round().clamp(-1.0, 1.0), k.recip())
}

/// `scale * codes` with `k = 127 / max(max(|x|), 1e-5)` for each row, `codes = clamp(round(x * k), -128, 127)`, halves to
/// even, and `scale = 1 / k` (absmax, arXiv:2402.17764 section 2). Backward: the identity.
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`, and so the result
pub fn fake_quantize_int8(x: Tensor<2>) -> Tensor<2> {
    if !fusible(&x) {
        return plain_fake_quantize_int8(x);
    }
    let _span = span("fake_quantize_int8", x.dims(), 0);
    Tensor::from_dispatch(<Dispatch as FakeQuantize>::fused_fake_quantize_int8(x.into_dispatch()))
}

/// [`fake_quantize_int8`] composed of Burn's operations.
pub fn plain_fake_quantize_int8(x: Tensor<2>) -> Tensor<2> {
    let (codes, scale) = plain_int8_codes(x.clone().detach());
    straight_through(x, codes * scale)
}

/// Codes, and the scale of each row, `[rows, 1]`.
pub(super) fn plain_int8_codes(x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let k = x.clone().abs().max_dim(1).clamp_min(quantize::EPS).recip().mul_scalar(127.0);
    (x.mul(k.clone()).round().clamp(-128.0, 127.0), k.recip())
}

/// The value of `quantized` with the gradient of `x`. `x - x` is an exact zero, so no bit of the value is lost.
pub(super) fn straight_through(x: Tensor<2>, quantized: Tensor<2>) -> Tensor<2> {
    quantized + (x.clone() - x.detach())
}

#[backend_extension(Flex, Autodiff)]
trait FakeQuantize: Backend {
    fn fused_fake_ternarize(w: FloatTensor<Self>, extra_eps: f64) -> FloatTensor<Self>;
    fn fused_fake_quantize_int8(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FakeQuantize for Flex {
    fn fused_fake_ternarize(w: FlexTensor, extra_eps: f64) -> FlexTensor {
        let w = contiguous(w);
        let mut out = pool::take(values(&w).len());
        kernels::ternarize_dequantize(values(&w), extra_eps, &mut out);
        tensor(out, sides(&w))
    }

    fn fused_fake_quantize_int8(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        let [rows, hidden] = sides(&x);
        let mut out = pool::take(rows * hidden);
        kernels::quantize_dequantize_int8(values(&x), hidden, &mut out);
        tensor(out, [rows, hidden])
    }
}

impl<C: CheckpointStrategy> FakeQuantize for Autodiff<Flex, C> {
    fn fused_fake_ternarize(w: FloatTensor<Self>, extra_eps: f64) -> FloatTensor<Self> {
        let (w, node) = w.into_parts();
        let out = Flex::fused_fake_ternarize(w, extra_eps);
        StraightThrough.prepare::<C>([node]).compute_bound().stateless(out)
    }

    fn fused_fake_quantize_int8(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let out = Flex::fused_fake_quantize_int8(x);
        StraightThrough.prepare::<C>([node]).compute_bound().stateless(out)
    }
}

#[derive(Debug)]
struct StraightThrough;

impl Backward<Flex, 1> for StraightThrough {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |dy| dy);
    }
}
