//! The two kinds of tensor in a packed model.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::safetensors::{Data, Dtype};
use crate::t2;

/// A tensor, ternary or float.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Trits and a scale.
    Ternary(TernaryTensor),
    /// Floats.
    Float(FloatTensor),
}

/// A matrix of trits: `w = scale * trit`.
#[derive(Clone, Debug, PartialEq)]
pub struct TernaryTensor {
    /// Rows.
    pub d_output: usize,
    /// Trits in a row.
    pub d_input: usize,
    /// The rows in the encoding [`t2`].
    pub bytes: Vec<u8>,
    /// One scale for the whole matrix; a list, because finer granularities come.
    pub scales: Vec<f32>,
}

/// How a float tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them precision; the largest is 65,504.
    F16,
    /// 16 bits, 8 of them precision; the range of `f32`.
    BF16,
}

/// A tensor of floats.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatTensor {
    /// The sides, outermost first.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub dtype: FloatType,
    /// The values, rounded to `dtype` already: memory and file hold the same model.
    pub values: Vec<f32>,
}

impl TernaryTensor {
    /// Packs trits.
    ///
    /// # Shapes
    ///
    /// - `trits`: `[d_output, d_input]`, flat
    ///
    /// # Panics
    ///
    /// As [`t2::pack`].
    pub fn from_trits(trits: &[i8], d_input: usize, scale: f32) -> Self {
        let bytes = t2::pack(trits, d_input);
        Self { d_output: trits.len() / d_input, d_input, bytes, scales: vec![scale] }
    }

    /// The trits, `[d_output, d_input]`, flat.
    ///
    /// # Errors
    ///
    /// Those of [`t2::check`]; none after [`super::PackedModel::validate`].
    pub fn trits(&self) -> Result<Vec<i8>> {
        t2::unpack(&self.bytes, self.d_output, self.d_input)
    }

    fn check(&self) -> Result<()> {
        t2::check(&self.bytes, self.d_output, self.d_input)?;
        if self.scales.len() != 1 {
            let found = self.scales.len() as u64;
            return Err(Error::Count { unit: "scales", expected: 1, found });
        }
        match self.scales.iter().position(|scale| !scale.is_finite()) {
            Some(index) => {
                Err(Error::NotFinite { index, dtype: "scale", value: self.scales[index] })
            }
            None => Ok(()),
        }
    }
}

impl FloatType {
    /// Name and size in the container.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    /// The type that the container names, if a packed model may hold it.
    pub(super) fn from_dtype(dtype: Dtype) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().find(|float| float.dtype() == dtype)
    }

    /// The nearest value of this type, halves to even; infinite past the largest.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }
}

impl FloatTensor {
    /// Rounds values to the type that stores them.
    ///
    /// A value past the largest of the type becomes infinite, which the writer refuses by name.
    pub fn new(shape: Vec<usize>, dtype: FloatType, mut values: Vec<f32>) -> Self {
        values.iter_mut().for_each(|value| *value = dtype.round(*value));
        Self { shape, dtype, values }
    }

    /// The values as the container takes them.
    pub(super) fn data(&self) -> Data<'_> {
        match self.dtype {
            FloatType::F32 => Data::F32(&self.values),
            FloatType::F16 => Data::F16(&self.values),
            FloatType::BF16 => Data::Bf16(&self.values),
        }
    }
}

impl Tensor {
    /// The sides of the tensor, not of its packed bytes.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Ternary(ternary) => vec![ternary.d_output, ternary.d_input],
            Self::Float(float) => float.shape.clone(),
        }
    }

    /// Whether it is stored as trits.
    pub fn is_ternary(&self) -> bool {
        matches!(self, Self::Ternary(_))
    }

    /// Parameters; a scale is none.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Ternary(ternary) => ternary.d_output as u64 * ternary.d_input as u64,
            Self::Float(float) => float.values.len() as u64,
        }
    }

    /// Bytes of its data in the file, scales included.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Ternary(ternary) => {
                ternary.bytes.len() as u64 + size_of_val(ternary.scales.as_slice()) as u64
            }
            Self::Float(float) => {
                float.values.len() as u64 * (float.dtype.dtype().bitsize() / 8) as u64
            }
        }
    }

    /// Checks kind, shape and contents.
    pub(super) fn check(&self, expected: &[usize], may_be_ternary: bool) -> Result<()> {
        if self.is_ternary() && !may_be_ternary {
            return Err(Error::Dtype { expected: "F32, F16 or BF16", found: Dtype::U8 });
        }
        let found = self.shape();
        if found != expected {
            return Err(Error::Shape { expected: expected.to_vec(), found });
        }
        match self {
            Self::Ternary(ternary) => ternary.check(),
            Self::Float(float) => float.data().check(&float.shape),
        }
    }
}
