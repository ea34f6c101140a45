//! Ternary weights and eight-bit activations in the forward pass, straight through in the backward pass.

use burn::tensor::Tensor;
use tern_format::config::Quantizer;

/// Below this mean a matrix counts as zero, and below this maximum a token does.
const EPS: f32 = 1e-5;

/// Splits latent weights into trits and one positive scale.
///
/// `k = 1 / max(mean(|w|), EPS)`, `trits = clamp(round(w * k), -1, 1)`, `scale = 1 / k`, so `w ~ scale * trits`
/// (absmean, arXiv:2402.17764 section 2). Rounds halves to even, as torch does. [`Quantizer::Seed1`] adds another
/// 1e-5 to the divisor.
///
/// # Shapes
///
/// - `w`: `[d_output, d_input]`
/// - returns trits `[d_output, d_input]`, every entry -1, 0 or 1; scale `[1, 1]`
pub fn ternarize(w: Tensor<2>, quantizer: Quantizer) -> (Tensor<2>, Tensor<2>) {
    let mean = w.clone().abs().mean().clamp_min(EPS).unsqueeze::<2>();
    let k = mean.add_scalar(quantizer.extra_eps()).recip();
    let trits = w.mul(k.clone()).round().clamp(-1.0, 1.0);
    (trits, k.recip())
}

/// Splits activations into int8 codes and one positive scale a token.
///
/// `k = 127 / max(max(|x|), EPS)`, `codes = clamp(round(x * k), -128, 127)`, `scale = 1 / k` (absmax,
/// arXiv:2402.17764 section 2).
///
/// # Shapes
///
/// - `x`: `[rows, d_input]`
/// - returns codes `[rows, d_input]`, whole numbers; scale `[rows, 1]`
pub fn quantize_int8(x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let k = x.clone().abs().max_dim(1).clamp_min(EPS).recip().mul_scalar(127.0);
    let codes = x.mul(k.clone()).round().clamp(-128.0, 127.0);
    (codes, k.recip())
}

/// The value of `quantized`, the gradient of `latent`: the straight-through estimator (arXiv:1308.3432).
///
/// `quantized + (latent - latent)` keeps the quantized value to the bit, which `latent + (quantized - latent)`
/// would round.
pub fn straight_through(latent: Tensor<2>, quantized: Tensor<2>) -> Tensor<2> {
    quantized.detach() + (latent.clone() - latent.detach())
}
