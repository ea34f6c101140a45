//! The two kinds of tensor in a packed model.

use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Encoding;
use crate::error::{Error, Result};
use crate::safetensors::Dtype;

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
    /// How the rows are packed.
    pub encoding: Encoding,
    /// Rows.
    pub d_output: usize,
    /// Trits in a row.
    pub d_input: usize,
    /// The rows, packed.
    pub bytes: Bytes,
    /// That of the whole matrix.
    pub scale: f32,
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
    /// The values, row-major and little-endian: what the file has, and perhaps the file itself.
    pub bytes: Bytes,
}

impl TernaryTensor {
    /// Packs trits as [`Encoding::T2`], which holds all there are.
    ///
    /// # Shapes
    ///
    /// - `trits`: `[d_output, d_input]`, flat
    ///
    /// # Panics
    ///
    /// As [`Encoding::pack`].
    pub fn from_trits(trits: &[i8], d_input: usize, scale: f32) -> Self {
        let bytes = crate::t2::pack(trits, d_input).into();
        let d_output = trits.len() / d_input;
        Self { encoding: Encoding::T2, d_output, d_input, bytes, scale }
    }

    /// The same trits in another encoding.
    ///
    /// # Errors
    ///
    /// Those of [`Self::trits`] and of [`Encoding::pack`].
    pub fn encode_as(&self, encoding: Encoding) -> Result<Self> {
        let bytes = match self.encoding == encoding {
            true => self.bytes.clone(),
            false => encoding.pack(&self.trits()?, self.d_input)?.into(),
        };
        Ok(Self { encoding, bytes, ..*self })
    }

    /// The trits, `[d_output, d_input]`, flat.
    ///
    /// # Errors
    ///
    /// Those of [`Encoding::check`]; none after [`super::PackedModel::validate`].
    pub fn trits(&self) -> Result<Vec<i8>> {
        self.encoding.unpack(&self.bytes, self.d_output, self.d_input)
    }

    fn check(&self) -> Result<()> {
        self.encoding.check(&self.bytes, self.d_output, self.d_input)?;
        if self.scale.is_finite() {
            return Ok(());
        }
        Err(Error::NotFinite { index: 0, dtype: "scale", value: self.scale })
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

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The nearest value of this type, halves to even; infinite past the largest.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The nearest values of this type, as [`Self::round`] has them.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        }
    }

    /// The values of some bytes.
    ///
    /// # Panics
    ///
    /// If there are not as many bytes as `values` take.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        assert_eq!(bytes.len(), values.len() * self.bytes(), "as many bytes as the values take");
        match self {
            Self::F32 => {
                let elements = bytes.as_chunks().0;
                values.iter_mut().zip(elements).for_each(|(v, &b)| *v = f32::from_le_bytes(b));
            }
            Self::BF16 => {
                let elements = bytes.as_chunks().0;
                let value = |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
                values.iter_mut().zip(elements).for_each(|(v, &b)| *v = value(b));
            }
            Self::F16 => {
                // The processor converts many at a time.
                let mut halves = [f16::ZERO; 64];
                for (values, bytes) in values.chunks_mut(64).zip(bytes.chunks(128)) {
                    let halves = &mut halves[..values.len()];
                    let elements = bytes.as_chunks().0;
                    halves.iter_mut().zip(elements).for_each(|(h, &b)| *h = f16::from_le_bytes(b));
                    halves.convert_to_f32_slice(values);
                }
            }
        }
    }

    /// The place of the first value that is infinite or none.
    fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        fn find<const N: usize>(
            bytes: &[u8],
            is_finite: impl Fn([u8; N]) -> bool,
        ) -> Option<usize> {
            let elements: &[[u8; N]] = bytes.as_chunks().0;
            // Blocks without one are passed quickly.
            let mut blocks = elements.chunks(1024).enumerate();
            let (block, elements) = blocks.find(|(_, block)| {
                !block.iter().fold(true, |all, &element| all & is_finite(element))
            })?;
            let inside = elements.iter().position(|&element| !is_finite(element))?;
            Some(1024 * block + inside)
        }
        // All bits of the exponent set.
        match self {
            Self::F32 => find(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000),
            Self::F16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            Self::BF16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        }
    }

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

impl FloatTensor {
    /// Rounds values to the type that stores them.
    ///
    /// A value past the largest of the type becomes infinite, which the writer refuses by name.
    pub fn new(shape: Vec<usize>, dtype: FloatType, values: &[f32]) -> Self {
        Self { shape, dtype, bytes: dtype.encode(values).into() }
    }

    /// How many values it has.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// The values, row-major.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.count()];
        self.dtype.decode(&self.bytes, &mut values);
        values
    }

    /// Checks that the values fill the shape and are finite.
    fn check(&self) -> Result<()> {
        let overflow =
            || Error::ShapeOverflow { found: self.shape.iter().map(|&n| n as u64).collect() };
        let count = self.shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        let expected = count.ok_or_else(overflow)?;
        if expected.checked_mul(self.dtype.bytes()) != Some(self.bytes.len()) {
            let (expected, found) = (expected as u64, self.count() as u64);
            return Err(Error::Count { unit: "values", expected, found });
        }
        let Some(index) = self.dtype.first_not_finite(&self.bytes) else { return Ok(()) };
        let mut value = [0.0];
        let size = self.dtype.bytes();
        self.dtype.decode(&self.bytes[index * size..][..size], &mut value);
        Err(Error::NotFinite { index, dtype: self.dtype.name(), value: value[0] })
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
            Self::Float(float) => float.count() as u64,
        }
    }

    /// Bytes of its data in the file, its scale included.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Ternary(ternary) => {
                ternary.bytes.len() as u64 + size_of_val(&ternary.scale) as u64
            }
            Self::Float(float) => float.bytes.len() as u64,
        }
    }

    /// Checks kind, shape and contents; `encoding` is that of the file if the tensor may be ternary.
    pub(super) fn check(&self, expected: &[usize], encoding: Option<Encoding>) -> Result<()> {
        if let Self::Ternary(ternary) = self {
            let dtype = Error::Dtype { expected: "F32, F16 or BF16", found: Dtype::U8 };
            let of_file = encoding.ok_or(dtype)?;
            if ternary.encoding != of_file {
                let (found, of_file) = (ternary.encoding.name(), of_file.name());
                let rule = format!("must be packed as the file is, {of_file}, is {found}");
                return Err(Error::Rule { rule });
            }
        }
        let found = self.shape();
        if found != expected {
            return Err(Error::Shape { expected: expected.to_vec(), found });
        }
        match self {
            Self::Ternary(ternary) => ternary.check(),
            Self::Float(float) => float.check(),
        }
    }
}
