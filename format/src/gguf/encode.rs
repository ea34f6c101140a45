//! Elements into blocks: the other way of [`super::blocks`], byte for byte as ggml and bitnet.cpp write them.

use half::{bf16, f16};

use super::BlockType::{self, BF16, F16, F32, I2_S, Q8_0, TQ1_0, TQ2_0};
use super::blocks::I2_S_TAIL;
use crate::error::{Error, Result};

impl BlockType {
    /// The blocks of floats; `I2_S` and the other ternary types have [`Self::encode_trits`].
    ///
    /// # Errors
    ///
    /// A type that is not written, a number of values that is no whole number of blocks, a value that is not finite in the
    /// type.
    pub fn encode(self, values: &[f32]) -> Result<Vec<u8>> {
        self.whole_blocks(values.len())?;
        let bad =
            |value: f32| !value.is_finite() || (self == F16 && f16::from_f32(value).is_infinite());
        if let Some(index) = values.iter().position(|&value| bad(value)) {
            let dtype = if self == F16 { "f16" } else { "float" };
            return Err(Error::NotFinite { index, dtype, value: values[index] });
        }
        Ok(match self {
            F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            Q8_0 => {
                let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
                values.as_chunks().0.iter().try_for_each(|block| q8_0(block, &mut bytes))?;
                bytes
            }
            _ => return Err(Error::Rule { rule: format!("{self:?} is not written from floats") }),
        })
    }

    /// The blocks of a matrix of trits, `w = scale * trit`. `F32` and `I2_S` hold the scale as it is; the others
    /// round it to the 11 significant bits of `f16`.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`], and a scale that `f16` holds with fewer bits or not at all: the weights would collapse.
    pub fn encode_trits(self, trits: &[i8], scale: f32) -> Result<Vec<u8>> {
        self.whole_blocks(trits.len())?;
        if !scale.is_finite() {
            return Err(Error::NotFinite { index: 0, dtype: "scale", value: scale });
        }
        let d = f16::from_f32(scale);
        if !matches!(self, F32 | I2_S) && !d.is_normal() && scale != 0.0 {
            let least = f16::MIN_POSITIVE.to_f32();
            let rule =
                format!("{self:?} holds scales of {least:e} to {}, this is {scale:e}", f16::MAX);
            return Err(Error::Rule { rule });
        }
        let d = d.to_le_bytes();
        let each = |value: fn(i8, f32) -> Vec<u8>| {
            trits.iter().flat_map(|&trit| value(trit, scale)).collect::<Vec<u8>>()
        };
        Ok(match self {
            F32 => each(|trit, scale| (f32::from(trit) * scale).to_le_bytes().into()),
            F16 => each(|trit, scale| f16::from_f32(f32::from(trit) * scale).to_le_bytes().into()),
            Q8_0 => {
                let blocks = trits.as_chunks::<32>().0.iter();
                blocks.flat_map(|block| d.into_iter().chain(block.map(|trit| trit as u8))).collect()
            }
            TQ1_0 | TQ2_0 => {
                let mut bytes = Vec::with_capacity(trits.len() / 256 * self.block().1);
                for block in trits.as_chunks::<256>().0 {
                    if self == TQ1_0 {
                        tq1_0(block, &mut bytes);
                    } else {
                        block.chunks(128).for_each(|half| pairs(half, [0, 2, 4, 6], &mut bytes));
                    }
                    bytes.extend(d);
                }
                bytes
            }
            I2_S => {
                let mut bytes = Vec::with_capacity(trits.len() / 4 + I2_S_TAIL);
                trits.chunks(128).for_each(|block| pairs(block, [6, 4, 2, 0], &mut bytes));
                bytes.extend(scale.to_le_bytes());
                bytes.resize(trits.len() / 4 + I2_S_TAIL, 0);
                bytes
            }
            _ => return Err(Error::Rule { rule: format!("{self:?} is not written from trits") }),
        })
    }

    fn whole_blocks(self, elements: usize) -> Result<()> {
        let (block, _) = self.block();
        if elements.is_multiple_of(block) {
            return Ok(());
        }
        let rule =
            format!("{self:?} has blocks of {block}, and {elements} elements are no whole number");
        Err(Error::Rule { rule })
    }
}

/// ggml's `quantize_row_q8_0_ref`, which rounds halves away from zero.
fn q8_0(block: &[f32; 32], bytes: &mut Vec<u8>) -> Result<()> {
    let most = block.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let d = most / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let stored = f16::from_f32(d);
    if stored.is_infinite() {
        return Err(Error::NotFinite { index: 0, dtype: "Q8_0", value: most });
    }
    bytes.extend(stored.to_le_bytes());
    bytes.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    Ok(())
}

/// Digits of base three, the first most significant, as a fraction of 256 rounded up: multiplied by a power of three it
/// has the digit wanted as its whole part.
fn fraction(digits: impl Iterator<Item = i8>) -> u8 {
    let value = digits.fold(0u16, |value, trit| value * 3 + (trit + 1) as u16);
    (value * 256).div_ceil(243) as u8
}

fn tq1_0(block: &[i8; 256], bytes: &mut Vec<u8>) {
    bytes.extend((0..32).map(|m| fraction((0..5).map(|n| block[m + 32 * n]))));
    bytes.extend((0..16).map(|m| fraction((0..5).map(|n| block[160 + m + 16 * n]))));
    // Four digits, and a last one that is not read: code 0.
    bytes.extend((0..4).map(|j| fraction((0..4).map(|n| block[240 + j + 4 * n]).chain([-1]))));
}

/// Bytes of four codes, one of each quarter of the run at its shift.
fn pairs(run: &[i8], shifts: [u8; 4], bytes: &mut Vec<u8>) {
    let quarter = run.len() / 4;
    let code = |n: usize, m: usize| ((run[n * quarter + m] + 1) as u8) << shifts[n];
    bytes.extend((0..quarter).map(|m| code(0, m) | code(1, m) | code(2, m) | code(3, m)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Gguf;
    use super::*;
    use crate::safetensors::Contents;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/gguf_units/tiny.gguf"
    ));
    const SOURCES: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/gguf_units/io.safetensors"
    ));

    #[test]
    fn the_goldens_blocks_are_written_byte_for_byte() {
        let file = Gguf::parse(GOLDEN).unwrap();
        let sources = Contents::parse(SOURCES).unwrap();
        let mut seen = Vec::new();
        for (name, view) in &file.tensors {
            let values = sources.tensors[name.split_once('_').unwrap().0].floats().unwrap();
            let block_type = view.block_type;
            let bytes = match block_type {
                F32 | F16 | Q8_0 => block_type.encode(&values).unwrap(),
                TQ1_0 | TQ2_0 if name.starts_with("tern") => {
                    // Each block of the golden has a scale of its own, and one of zeros has zero.
                    let trits = view.trits().unwrap().unwrap();
                    let blocks = trits.trits.chunks(256).zip(&trits.scales);
                    blocks.flat_map(|(t, &s)| block_type.encode_trits(t, s).unwrap()).collect()
                }
                _ => continue,
            };
            assert!(bytes == view.bytes, "{name}");
            seen.push(block_type);
        }
        for block_type in [F32, F16, Q8_0, TQ1_0, TQ2_0] {
            assert!(seen.contains(&block_type), "{block_type:?} has no golden");
        }
    }

    /// Every code at every place of a block.
    fn trits() -> Vec<i8> {
        (0..2048u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as i8 % 3)
            .map(|t| t % 2)
            .collect()
    }

    #[test]
    fn trits_come_back_with_their_scale() {
        for (block_type, scale) in
            [(TQ1_0, 1.0), (TQ2_0, 1.0), (TQ2_0, 0.03125), (I2_S, 0.037_1), (I2_S, 1e-30)]
        {
            let bytes = block_type.encode_trits(&trits(), scale).unwrap();
            let expected = block_type.size_bytes(&[8, 256]).unwrap();
            assert_eq!(bytes.len() as u64, expected, "{block_type:?}");
            let read = block_type.trits(&bytes).unwrap().unwrap();
            assert_eq!(read.trits, trits(), "{block_type:?}");
            assert_eq!(read.common_scale(), Some(scale), "{block_type:?}");
        }
        for block_type in [F32, F16, Q8_0] {
            let bytes = block_type.encode_trits(&trits(), 0.25).unwrap();
            let expected: Vec<f32> = trits().iter().map(|&t| 0.25 * f32::from(t)).collect();
            assert_eq!(block_type.floats(&bytes).unwrap(), expected, "{block_type:?}");
        }
    }

    #[test]
    fn worked_examples() {
        let mut block = [0; 256];
        [block[0], block[32], block[64], block[96], block[128]] = [1, -1, 0, 1, 0];
        assert_eq!(TQ2_0.encode_trits(&block, 1.0).unwrap()[0], 0x92);
        assert_eq!(TQ1_0.encode_trits(&block, 1.0).unwrap()[0], 0xbc);
        let mut block = [0; 128];
        [block[5], block[37], block[69], block[101]] = [1, -1, 0, 1];
        let bytes = I2_S.encode_trits(&block, 0.25).unwrap();
        assert_eq!(bytes[5], 2 << 6 | 1 << 2 | 2);
        assert_eq!((&bytes[32..36], bytes.len()), (&0.25f32.to_le_bytes()[..], 64));
    }

    #[test]
    fn what_would_not_come_back_is_refused() {
        let message = |error: Result<Vec<u8>>| error.unwrap_err().to_string();
        for block_type in [F16, Q8_0, TQ1_0, TQ2_0] {
            for scale in [1e-5, 7e4] {
                let refused = message(block_type.encode_trits(&[1; 256], scale));
                assert!(refused.contains("holds scales of"), "{refused}");
            }
            assert!(block_type.encode_trits(&[0; 256], 0.0).is_ok());
        }
        assert!(I2_S.encode_trits(&[1; 256], f32::NAN).is_err());
        assert!(message(TQ2_0.encode_trits(&[1; 128], 1.0)).contains("no whole number"));
        assert!(message(Q8_0.encode(&[1.0; 33])).contains("no whole number"));
        assert!(message(F16.encode(&[7e4])).contains("must be a finite f16"));
        assert!(message(F32.encode(&[f32::INFINITY])).contains("must be a finite float"));
        assert!(message(TQ2_0.encode(&[1.0; 256])).contains("not written from floats"));
        assert!(message(BlockType::Q6_K.encode_trits(&[1; 256], 1.0)).contains("not written"));
    }
}
