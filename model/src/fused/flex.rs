//! Between Burn's Flex tensors and slices.

use burn::backend::{DispatchTensorKind, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};
use tern_kernels::train::pool;

/// Whether the fused path may take this tensor: f32 on the Flex backend, with autodiff or without.
pub(super) fn fusible<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(_) => tensor.dtype() == DType::F32,
        DispatchTensorKind::Autodiff(inner) => {
            matches!(*inner, DispatchTensorKind::Flex(_)) && tensor.dtype() == DType::F32
        }
        #[allow(unreachable_patterns, reason = "other backends exist with other features of Burn")]
        _ => false,
    }
}

/// The two sides of a matrix.
pub(super) fn sides(tensor: &FlexTensor) -> [usize; 2] {
    tensor.shape().dims()
}

/// The tensor in row-major order, copied only if it is not already.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The values of a [`contiguous`] f32 tensor.
///
/// # Panics
///
/// If the tensor is neither.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// The tensor in row-major order, to be written to: itself where nobody else holds it, else a copy.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    if tensor.is_unique() && tensor.bytes().len() == 4 * tensor.layout().num_elements() {
        return tensor;
    }
    let mut copy = pool::take(values(&tensor).len());
    copy.copy_from_slice(values(&tensor));
    self::tensor(copy, tensor.shape())
}

/// Gives a tensor's buffer back to the pool if nobody else holds it.
pub(super) fn recycle(tensor: FlexTensor) {
    if tensor.is_unique()
        && tensor.dtype() == DType::F32
        && tensor.bytes().len() == 4 * tensor.layout().num_elements()
        && let Ok(values) = tensor.into_data().try_into_vec::<f32>()
    {
        pool::give(values);
    }
}

/// The ids in an integer tensor of any width; negative ones become `u32::MAX`, which no table holds.
pub(super) fn ids(tensor: &FlexTensor) -> Vec<u32> {
    let tensor = contiguous(tensor.clone());
    let id = |id: i64| u32::try_from(id).unwrap_or(u32::MAX);
    if let Some(ids) = tensor.as_slice::<i32>() {
        return ids.iter().map(|&i| id(i.into())).collect();
    }
    if let Some(ids) = tensor.as_slice::<i64>() {
        return ids.iter().map(|&i| id(i)).collect();
    }
    tensor.into_data().iter::<i64>().map(id).collect()
}
