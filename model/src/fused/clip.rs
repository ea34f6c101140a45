//! What clipping does to gradients: their squares summed, and all of them scaled.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use tern_kernels::train::clip as kernels;

use super::flex::{contiguous, fusible, owned, tensor, values};
use crate::profile::span;

/// The sum of the squares, as a tensor `[1]`, so that the device need not be waited for.
///
/// # Shapes
///
/// - `x`: `[n]`, without autodiff
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    if !fusible(&x) {
        return plain_sum_of_squares(x);
    }
    let _span = span("sum_of_squares", [], 0);
    Tensor::from_dispatch(<Dispatch as Clip>::fused_sum_of_squares(x.into_dispatch()))
}

/// [`sum_of_squares`] composed of Burn's operations.
pub fn plain_sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * x).sum()
}

/// `x * factor`, in place where nobody else holds `x`.
///
/// # Shapes
///
/// - `x`: `[n]`, without autodiff
/// - returns `[n]`
pub fn scale(x: Tensor<1>, factor: f64) -> Tensor<1> {
    if !fusible(&x) {
        return x.mul_scalar(factor);
    }
    let _span = span("scale", [], 0);
    let x = <Dispatch as Clip>::fused_scale(x.into_dispatch(), factor as f32);
    Tensor::from_dispatch(x)
}

#[backend_extension(Flex)]
trait Clip: Backend {
    fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_scale(x: FloatTensor<Self>, factor: f32) -> FloatTensor<Self>;
}

impl Clip for Flex {
    fn fused_sum_of_squares(x: FlexTensor) -> FlexTensor {
        let sum = kernels::sum_of_squares(values(&contiguous(x)));
        tensor(vec![sum as f32], [1])
    }

    fn fused_scale(x: FlexTensor, factor: f32) -> FlexTensor {
        let mut x = owned(x);
        kernels::scale(x.storage_mut::<f32>(), factor);
        x
    }
}
