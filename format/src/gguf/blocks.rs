//! How the elements of a tensor are stored: one by one, or in blocks that share a scale.
//!
//! The layouts are ggml's (`ggml-common.h`, `ggml-quants.c`), but for `I2_S`, which is bitnet.cpp's. All numbers are
//! little-endian, `d` is an `f16`.
//!
//! ```text
//! Q4_0   18 bytes for 32     d, then 16 bytes: low nibbles are elements 0 to 15, high ones 16 to 31; w = d (q - 8)
//! Q8_0   34 bytes for 32     d, then 32 signed bytes; w = d q
//! Q6_K  210 bytes for 256    low four bits, high two bits, 16 signed scales, d; w = d scale (q - 32)
//! TQ1_0  54 bytes for 256    five trits a byte in base 3, as fractions of 256; the last 16 four to a byte; d
//! TQ2_0  66 bytes for 256    two halves of 32 bytes: bit pair n of byte m of half g is element 128 g + 32 n + m; d
//! I2_S   32 bytes for 128    bit pair 3 - n of byte m is element 32 n + m; after all blocks 32 bytes, an f32 scale first
//! ```

use half::{bf16, f16};

use crate::decode::{each, finite};
use crate::error::{Error, Result};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum BlockType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// Four bits.
    Q4_0,
    /// Eight bits.
    Q8_0,
    /// Six bits in a two-level scheme.
    Q6_K,
    /// Trits, 1.69 bits each.
    TQ1_0,
    /// Trits, 2.06 bits each.
    TQ2_0,
    /// Trits, 2 bits each, one scale.
    I2_S,
}

use BlockType::{BF16, F16, F32, I2_S, Q4_0, Q6_K, Q8_0, TQ1_0, TQ2_0};

/// Type, number in the file, elements of a block, bytes of a block.
const TYPES: [(BlockType, u32, usize, usize); 9] = [
    (F32, 0, 1, 4),
    (F16, 1, 1, 2),
    (Q4_0, 2, 32, 18),
    (Q8_0, 8, 32, 34),
    (Q6_K, 14, 256, 210),
    (BF16, 30, 1, 2),
    (TQ1_0, 34, 256, 54),
    (TQ2_0, 35, 256, 66),
    (I2_S, 36, 128, 32),
];

/// Bytes behind the blocks of an `I2_S` tensor: the scale, and what fills a line up.
pub(super) const I2_S_TAIL: usize = 32;

/// Trits as a file stores them: `w = scale * trit`.
#[derive(Clone, Debug, PartialEq)]
pub struct Trits {
    /// Row-major.
    pub trits: Vec<i8>,
    /// One for each run of `per_scale` trits.
    pub scales: Vec<f32>,
    /// Trits that share a scale; all of them where there is one.
    pub per_scale: usize,
}

impl Trits {
    /// The scale of all trits that are not zero, if they have one in common; a run of zeros may say what it likes. Zero
    /// if there are none.
    pub fn common_scale(&self) -> Option<f32> {
        let runs = self.trits.chunks(self.per_scale.max(1)).zip(&self.scales);
        let mut scales =
            runs.filter(|(trits, _)| trits.iter().any(|&trit| trit != 0)).map(|(_, &scale)| scale);
        let Some(first) = scales.next() else { return Some(0.0) };
        scales.all(|scale| scale.to_bits() == first.to_bits()).then_some(first)
    }

    /// The trits of some rows of `d_input`, in the order asked for, with their scales.
    ///
    /// # Panics
    ///
    /// If there is no such row, or scales change inside a row and not at its start (no type of ours has that).
    pub fn rows(&self, d_input: usize, rows: &[usize]) -> Self {
        let cut = |row: usize| &self.trits[row * d_input..][..d_input];
        let trits = rows.iter().flat_map(|&row| cut(row)).copied().collect();
        if let &[scale] = &self.scales[..] {
            return Self { trits, scales: vec![scale], per_scale: rows.len() * d_input };
        }
        assert!(d_input.is_multiple_of(self.per_scale), "scales of {} trits", self.per_scale);
        let per_row = d_input / self.per_scale;
        let scales = rows.iter().flat_map(|&row| &self.scales[row * per_row..][..per_row]);
        Self { trits, scales: scales.copied().collect(), per_scale: self.per_scale }
    }

    /// `scale * trit` for each.
    pub fn floats(&self) -> Vec<f32> {
        let runs = self.trits.chunks(self.per_scale.max(1)).zip(&self.scales);
        runs.flat_map(|(trits, scale)| trits.iter().map(move |&trit| f32::from(trit) * scale))
            .collect()
    }
}

impl BlockType {
    /// The type of this number in the file, or the rule that it breaks.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        let found = TYPES.iter().find(|(_, other, ..)| *other == number);
        found.map(|(found, ..)| *found).ok_or_else(|| {
            let names: Vec<_> = TYPES.iter().map(|(name, ..)| format!("{name:?}")).collect();
            format!("type {number} is not read; those that are: {}", names.join(", "))
        })
    }

    /// The number in the file.
    pub fn number(self) -> u32 {
        self.layout().1
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        let (_, _, elements, bytes) = self.layout();
        (elements, bytes)
    }

    /// Whether its elements are trits.
    pub fn is_ternary(self) -> bool {
        matches!(self, TQ1_0 | TQ2_0 | I2_S)
    }

    fn layout(self) -> (Self, u32, usize, usize) {
        // Every type has its line; the first stands for a type that had none.
        TYPES.into_iter().find(|(found, ..)| *found == self).unwrap_or(TYPES[0])
    }

    /// Bytes of a tensor of these sides, outermost first.
    ///
    /// # Errors
    ///
    /// A side of zero, a row that is no whole number of blocks, a product past 64 bits.
    pub fn size_bytes(self, shape: &[u64]) -> Result<u64> {
        let (elements, bytes) = self.block();
        if shape.contains(&0) {
            return Err(Error::Rule { rule: format!("no side may be 0, the sides are {shape:?}") });
        }
        let overflow = || Error::ShapeOverflow { found: shape.to_vec() };
        let count = shape.iter().try_fold(1u64, |count, &side| count.checked_mul(side));
        let count = count.ok_or_else(overflow)?;
        let row = shape.last().copied().unwrap_or(1);
        // I2_S runs over the rows.
        let run = if self == I2_S { count } else { row };
        if !run.is_multiple_of(elements as u64) {
            let rule = format!("{self:?} needs rows of a multiple of {elements}, a row has {row}");
            return Err(Error::Rule { rule });
        }
        let tail = if self == I2_S { I2_S_TAIL as u64 } else { 0 };
        let blocks = count / elements as u64;
        blocks.checked_mul(bytes as u64).and_then(|n| n.checked_add(tail)).ok_or_else(overflow)
    }

    /// The values of whole blocks.
    pub(super) fn floats(self, bytes: &[u8]) -> Result<Vec<f32>> {
        let values = match self {
            F32 => each(bytes, f32::from_le_bytes),
            F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Q4_0 => blocks(bytes, q4_0),
            Q8_0 => blocks(bytes, q8_0),
            Q6_K => blocks(bytes, q6_k),
            TQ1_0 | TQ2_0 | I2_S => {
                self.trits(bytes)?.map(|trits| trits.floats()).unwrap_or_default()
            }
        };
        finite(values, "float")
    }

    /// The trits of whole blocks; none if this type has no trits.
    pub(super) fn trits(self, bytes: &[u8]) -> Result<Option<Trits>> {
        let mut trits = Vec::new();
        let (mut scales, per_scale);
        match self {
            TQ1_0 | TQ2_0 => {
                let (elements, size) = self.block();
                per_scale = elements;
                scales = Vec::new();
                for block in bytes.chunks_exact(size) {
                    let (codes, d) = block.split_at(size - 2);
                    scales.push(scale([d[0], d[1]]));
                    if self == TQ1_0 {
                        tq1_0(codes, &mut trits);
                    } else {
                        codes
                            .chunks_exact(32)
                            .for_each(|half| pairs(half, [0, 2, 4, 6], &mut trits));
                    }
                }
            }
            I2_S => {
                let (blocks, tail) = bytes.split_at(bytes.len().saturating_sub(I2_S_TAIL));
                let scale = tail.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
                blocks.chunks_exact(32).for_each(|block| pairs(block, [6, 4, 2, 0], &mut trits));
                per_scale = trits.len();
                scales = vec![scale];
            }
            _ => return Ok(None),
        }
        if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(Error::NotFinite { index, dtype: "scale", value: scales[index] });
        }
        if let Some(index) = trits.iter().position(|&trit| trit > 1) {
            return Err(Error::Rule { rule: format!("element {index}: code 3 is no trit") });
        }
        Ok(Some(Trits { trits, scales, per_scale }))
    }
}

fn blocks<const N: usize>(bytes: &[u8], unpack: impl Fn(&[u8; N], &mut Vec<f32>)) -> Vec<f32> {
    let mut values = Vec::new();
    bytes.as_chunks().0.iter().for_each(|block| unpack(block, &mut values));
    values
}

fn scale(d: [u8; 2]) -> f32 {
    f16::from_le_bytes(d).to_f32()
}

fn q4_0(block: &[u8; 18], values: &mut Vec<f32>) {
    let d = scale([block[0], block[1]]);
    for shift in [0, 4] {
        values.extend(block[2..].iter().map(|byte| f32::from((byte >> shift & 15) as i8 - 8) * d));
    }
}

fn q8_0(block: &[u8; 34], values: &mut Vec<f32>) {
    let d = scale([block[0], block[1]]);
    values.extend(block[2..].iter().map(|&byte| f32::from(byte as i8) * d));
}

/// Elements come in two halves of 128, each in four quarters of 32, which take the low and the high nibbles of two runs of
/// 32 bytes, and one bit pair each of 32 bytes more.
fn q6_k(block: &[u8; 210], values: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = scale([d[0], d[1]]);
    for half in 0..2 {
        for quarter in 0..4 {
            for i in 0..32 {
                let low = low[64 * half + 32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
                let high = high[32 * half + i] >> (2 * quarter) & 3;
                let q = (low | high << 4) as i8 - 32;
                let scale = scales[8 * half + 2 * quarter + i / 16] as i8;
                values.push(d * f32::from(scale) * f32::from(q));
            }
        }
    }
}

/// Multiplied by a power of three, a byte's fraction of 256 has the trit wanted as its whole part of three.
fn tq1_0(codes: &[u8], trits: &mut Vec<i8>) {
    let digit = |byte: u8, power: u8| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
    for (run, powers) in [
        (&codes[..32], &[1, 3, 9, 27, 81][..]),
        (&codes[32..48], &[1, 3, 9, 27, 81]),
        (&codes[48..52], &[1, 3, 9, 27]),
    ] {
        for &power in powers {
            trits.extend(run.iter().map(|&byte| digit(byte, power)));
        }
    }
}

/// Four runs, each the codes at one shift of all bytes; code 3 becomes 2, which is no trit.
fn pairs(bytes: &[u8], shifts: [u8; 4], trits: &mut Vec<i8>) {
    for shift in shifts {
        trits.extend(bytes.iter().map(|byte| (byte >> shift & 3) as i8 - 1));
    }
}
