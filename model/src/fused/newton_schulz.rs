//! Newton-Schulz iteration: a matrix with the same singular vectors and singular values near 1.

use burn::tensor::{Tensor, TensorData};
use tern_kernels::train::newton_schulz::{self as kernel, COEFFICIENTS, EPS};

use super::flex::fusible;
use crate::parameters::values;
use crate::profile::span;

/// Orthogonalizes a matrix without autodiff, in f32; see [`kernel::newton_schulz`].
///
/// # Shapes
///
/// - `x`: `[rows, cols]`
/// - returns `[rows, cols]`
pub fn newton_schulz(x: Tensor<2>, steps: u32) -> Tensor<2> {
    if !fusible(&x) {
        return plain_newton_schulz(x, steps);
    }
    let (shape, device) = (x.dims(), x.device());
    // In each iteration two products of [short, short] with [short, long] and one of [short, short] with itself.
    let (short, long) = (shape[0].min(shape[1]), shape[0].max(shape[1]));
    let multiplications = 2 * short * short * long + short * short * short;
    let _span = span("newton_schulz", shape, 2 * multiplications as u64 * u64::from(steps));
    let x = kernel::newton_schulz(values(x), shape, steps);
    Tensor::from_data(TensorData::new(x, shape), &device)
}

/// [`newton_schulz`] composed of Burn's operations.
pub fn plain_newton_schulz(x: Tensor<2>, steps: u32) -> Tensor<2> {
    let [a, b, c] = COEFFICIENTS;
    let [rows, cols] = x.dims();
    let norm = x.clone().mul(x.clone()).sum().sqrt().add_scalar(EPS);
    let mut x = x.div(norm.unsqueeze());
    for _ in 0..steps {
        let transposed = x.clone().transpose();
        let wide = rows <= cols;
        let g = if wide { x.clone().matmul(transposed) } else { transposed.matmul(x.clone()) };
        let g = g.clone().mul_scalar(b).add(g.clone().matmul(g).mul_scalar(c));
        let product = if wide { g.matmul(x.clone()) } else { x.clone().matmul(g) };
        x = x.mul_scalar(a).add(product);
    }
    x
}
