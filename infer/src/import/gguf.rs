//! GGUF files, of llama.cpp and bitnet.cpp.

use std::collections::{BTreeMap, BTreeSet};

use tern_format::config::{ModelConfig, Quantizer};
use tern_format::gguf::model::{Config, Rows, Source};
use tern_format::gguf::tokenizer::TokenizerParts;
use tern_format::gguf::{BlockType, Gguf, View};
use tern_format::packed::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor};
use tern_format::{Error, Result};

use super::{Imported, has_one_magnitude};

/// A tensor that some writers add: one factor for each rotary frequency.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Reads the bytes of a file.
///
/// Trits stay the trits that they are where all blocks of a matrix have one scale, and become floats where they have not: a
/// note says so. Floats lose nothing: `F32`, `F16` and `BF16` stay what they are, and blocks of fewer bits become `F16` where
/// each of their values is one, else `F32`. The model is ternary (has a quantizer) if a layer of a block is stored as trits,
/// or all of them hold floats of one magnitude and zeros.
///
/// # Errors
///
/// The key or tensor that breaks a rule.
pub fn gguf(bytes: &[u8]) -> Result<Imported> {
    let file = Gguf::parse(bytes)?;
    let config = Config::new(&file)?;
    let parts = TokenizerParts::new(&file)?;
    let mut model = config.model;
    // The names of the tensors are made up from the number of blocks, which the file must be able to answer for.
    if model.num_hidden_layers > file.tensors.len() {
        let rule = format!(
            "says {}, but there are only {} tensors",
            model.num_hidden_layers,
            file.tensors.len()
        );
        return Err(Error::Metadata { key: "block_count".into(), rule });
    }
    let mut reader =
        Reader { file: &file, used: BTreeSet::new(), notes: Vec::new(), widened: Vec::new() };
    let mut tensors = BTreeMap::new();
    for (name, shape) in model.tensors() {
        let tensor = reader.tensor(&name, &shape, &model)?;
        tensors.insert(name, tensor);
    }
    let (notes, widened) = reader.finish()?;
    let layers = || tensors.iter().filter(|(name, _)| model.is_block_linear(name));
    let any_trits = layers().any(|(_, tensor)| tensor.is_ternary());
    if any_trits || layers().all(|(_, tensor)| has_one_magnitude(tensor)) {
        model.quantizer = Quantizer::B158;
        model.activation_quantizer = config.activation_quantizer;
    }
    let TokenizerParts { tokenizer, bos, add_bos, eos, chat_template } = parts;
    let metadata = Metadata { bos, add_bos, eos, chat_template, ..Metadata::new(model, tokenizer) };
    // The tokenizer is of our making, so whether it is one shows here and not at the first text.
    metadata.read_tokenizer()?;
    let model = PackedModel { metadata, tensors };
    model.validate()?;
    Ok(Imported { model, notes, widened })
}

/// Takes tensors out of a file, and knows which are left.
struct Reader<'f, 'a> {
    file: &'f Gguf<'a>,
    used: BTreeSet<String>,
    notes: Vec<String>,
    /// Our names of those that F32 alone holds.
    widened: Vec<String>,
}

impl<'a> Reader<'_, 'a> {
    /// The tensor that this program has under a name.
    fn tensor(&mut self, name: &str, shape: &[usize], model: &ModelConfig) -> Result<Tensor> {
        let source = Source::of(name, model).ok_or_else(|| Error::Missing.in_tensor(name))?;
        let Some(view) = self.take(&source.name) else {
            // A bias that only some layers have is zero in the others; but GPT-2's all have theirs.
            if name.ends_with(".bias") && model.mlp_gate {
                let zeros = FloatTensor::new(shape.to_vec(), FloatType::F32, &vec![0.0; shape[0]]);
                return Ok(Tensor::Float(zeros));
            }
            return Err(Error::Missing.in_tensor(&source.name));
        };
        let scale = self.scale(&source.name)?;
        let stays_ternary = model.is_block_linear(name) && view.block_type.is_ternary();
        let converted = if stays_ternary {
            self.ternary(&view, &source, shape, scale)
        } else {
            float(&view, &source, shape, scale)
        };
        let converted = converted.map_err(|error| error.in_tensor(&source.name))?;
        if let Tensor::Float(float) = &converted
            && float.dtype == FloatType::F32
            && !matches!(view.block_type, BlockType::F32 | BlockType::F16 | BlockType::BF16)
        {
            self.widened.push(name.to_owned());
        }
        Ok(converted)
    }

    fn take(&mut self, name: &str) -> Option<View<'a>> {
        let view = self.file.tensors.get(name)?.clone();
        self.used.insert(name.to_owned());
        Some(view)
    }

    /// The factor that a file may have for all of a matrix: `blk.0.attn_q.scale` for `blk.0.attn_q.weight`.
    fn scale(&mut self, name: &str) -> Result<Option<f32>> {
        let Some(name) = name.strip_suffix(".weight").map(|name| format!("{name}.scale")) else {
            return Ok(None);
        };
        let Some(view) = self.take(&name) else { return Ok(None) };
        let read = || match (view.block_type, &view.shape[..]) {
            (BlockType::F32, [1]) => Ok(view.floats()?.first().copied()),
            (BlockType::F32, _) => {
                Err(Error::Shape { expected: vec![1], found: view.shape.clone() })
            }
            (other, _) => Err(Error::Rule { rule: format!("must hold F32, holds {other:?}") }),
        };
        read().map_err(|error| error.in_tensor(&name))
    }

    /// Trits, or floats where the blocks have scales of their own.
    fn ternary(
        &mut self,
        view: &View<'a>,
        source: &Source,
        shape: &[usize],
        scale: Option<f32>,
    ) -> Result<Tensor> {
        let rows = rows(view, source, shape)?;
        let Some(trits) = view.trits()? else { return float(view, source, shape, scale) };
        let trits = trits.rows(shape[1], &rows);
        match trits.common_scale() {
            Some(common) => {
                let scale = common * scale.unwrap_or(1.0);
                Ok(Tensor::Ternary(TernaryTensor::from_trits(&trits.trits, shape[1], scale)))
            }
            None => {
                self.notes.push(format!(
                    "{}: its blocks have scales of their own, so its trits became floats",
                    source.name
                ));
                Ok(lossless(view.block_type, shape, trits.floats(), scale))
            }
        }
    }

    /// Refuses what nobody has asked for; else the notes, and what was widened.
    fn finish(mut self) -> Result<(Vec<String>, Vec<String>)> {
        if let Some(factors) = self.take(ROPE_FACTORS)
            && factors.floats()?.iter().any(|&factor| factor != 1.0)
        {
            let rule = "stretches the rotary frequencies, which is not to be had here".into();
            return Err(Error::Rule { rule }.in_tensor(ROPE_FACTORS));
        }
        match self.file.tensors.keys().find(|name| !self.used.contains(**name)) {
            Some(name) => Err(Error::Extra.in_tensor(name)),
            None => Ok((self.notes, self.widened)),
        }
    }
}

/// The row of the file for each row of ours, once the shape is that of the file.
fn rows(view: &View<'_>, source: &Source, shape: &[usize]) -> Result<Vec<usize>> {
    let mut expected = shape.to_vec();
    expected[0] = source.file_rows(shape[0]);
    if view.shape != expected {
        return Err(Error::Shape { expected, found: view.shape.clone() });
    }
    Ok(source.rows(shape[0]))
}

/// A float tensor in the order that this program has.
fn float(view: &View<'_>, source: &Source, shape: &[usize], scale: Option<f32>) -> Result<Tensor> {
    let rows = rows(view, source, shape)?;
    let width: usize = shape.iter().skip(1).product();
    let values = view.floats()?;
    let values = match source.rows {
        Rows::All => values,
        _ => rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect(),
    };
    Ok(lossless(view.block_type, shape, values, scale))
}

/// Values in the smallest type that holds all of them.
fn lossless(
    block_type: BlockType,
    shape: &[usize],
    mut values: Vec<f32>,
    scale: Option<f32>,
) -> Tensor {
    if let Some(scale) = scale {
        values.iter_mut().for_each(|value| *value *= scale);
    }
    let is_half = |value: &f32| FloatType::F16.round(*value).to_bits() == value.to_bits();
    let float_type = match block_type {
        BlockType::F32 => FloatType::F32,
        BlockType::BF16 if scale.is_none() => FloatType::BF16,
        _ if values.iter().all(is_half) => FloatType::F16,
        _ => FloatType::F32,
    };
    Tensor::Float(FloatTensor::new(shape.to_vec(), float_type, &values))
}

#[cfg(test)]
mod tests;
