//! The ternary product of MiniLM, whose gradients flow through the scales.

use burn::tensor::Tensor;

use super::fake_quantize::straight_through;
use super::linear::linear;
use crate::precision::Precision;

/// Added to the mean and the maximum that divide.
const EPS: f64 = 1e-8;

/// `y = (codes * trits^T) * s * a / 127` with `s = mean(|w|)`, `trits = clamp(round(w / (s + 1e-8)), -1, 1)` and for each row
/// `a = max(|x|)`, `codes = clamp(round(x * 127 / (a + 1e-8)), -128, 127)`; without `int8`, `y = (x * trits^T) * s`
/// (github.com/0sparsh2/MiniLM). Halves round to even.
///
/// Backward: straight through the rounding alone, so also into `s` and `a`, and not through a clamp that holds a value at its
/// bound: the latents of the trits -1 and 1 learn through `s` alone, the inputs of the code 127 through `a`. But for the product it is
/// composed of Burn's operations on every device.
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - `w`: `[d_output, d_input]`
/// - returns `[rows, d_output]`
pub fn minilm_linear(x: Tensor<2>, w: Tensor<2>, int8: bool, precision: Precision) -> Tensor<2> {
    let s = w.clone().abs().mean().unsqueeze::<2>(); // [1, 1]
    let trits = round_and_clamp(w / s.clone().add_scalar(EPS), -1.0, 1.0);
    if !int8 {
        return linear(x, trits, precision) * s;
    }
    let a = x.clone().abs().max_dim(1); // [rows, 1]
    let k = a.clone().add_scalar(EPS).recip().mul_scalar(127.0);
    let codes = round_and_clamp(x * k, -128.0, 127.0);
    linear(codes, trits, precision) * (s * a).div_scalar(127.0)
}

/// The nearest whole number between the bounds, with the gradient of `x` where it is strictly between them.
fn round_and_clamp(x: Tensor<2>, min: f32, max: f32) -> Tensor<2> {
    let rounded = x.clone().detach().round().clamp(min, max);
    let is_held =
        rounded.clone().greater_equal_elem(max).bool_or(rounded.clone().lower_equal_elem(min));
    straight_through(x.mask_fill(is_held, 0.0), rounded)
}
