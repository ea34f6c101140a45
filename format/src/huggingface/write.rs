//! A packed model as a directory that stock `transformers` loads.
//!
//! ```text
//! llama    RoPE, RMSNorm, gate: BitLM and LLaMA
//! bitnet   the same with sub-norms
//! gpt2     learned positions, LayerNorm, GELU; matrices transposed, Q, K and V one of them
//! ```
//!
//! Models with eight-bit activations go as packed trits with `linear_class: autobitlinear` in mode `offline`, whose scale
//! multiplies; `transformers` then quantizes activations as Tern does. Others go as floats, trit times scale.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{card, source, tokenizer};
use crate::atomic::write_atomically;
use crate::config::{ActivationQuantizer, Architecture, HiddenAct, ModelConfig, Norm, Position};
use crate::error::{Error, Result};
use crate::interchange::{floats, lacks};
use crate::packed::{FloatTensor, FloatType, GenerationDefaults, PackedModel, Tensor};
use crate::safetensors::{Data, Dtype, Entry, Layout};

/// How the linear layers of the blocks are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Trits, four to a byte, and a scale.
    Packed,
    /// Floats, as every other tensor.
    Float(FloatType),
}

/// A directory whose every byte is decided, and not yet written.
pub struct Directory {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// How the linear layers are stored.
    pub storage: Storage,
    tensors: Vec<Stored>,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// A tensor with its data.
struct Stored {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

/// Makes the directory. Without a storage it is the one that computes what the model computes.
///
/// # Errors
///
/// A part of the architecture or a storage that `transformers` would read as another model, with what can hold it.
pub fn export(model: &PackedModel, storage: Option<Storage>) -> Result<Directory> {
    model.validate()?;
    let config = model.config();
    let architecture = architecture(config)?;
    let eight_bits = config.activation_quantizer == ActivationQuantizer::Int8;
    let storage = storage.unwrap_or(match eight_bits {
        true => Storage::Packed,
        false => Storage::Float(FloatType::F32),
    });
    check_storage(model, architecture, storage)?;
    let mut tensors = Vec::new();
    for (name, shape) in config.tensors() {
        let stored = store(model, &name, shape, architecture, storage);
        tensors.extend(stored.map_err(|error| error.in_tensor(&name))?);
    }
    let model_type = match architecture {
        Architecture::Gpt2 => "gpt2",
        Architecture::Bitnet => "bitnet",
        _ => "llama",
    };
    let mut files = vec![
        ("config.json", pretty(&config_json(model, architecture, storage))),
        ("generation_config.json", pretty(&generation_json(model))),
    ];
    files.extend(tokenizer::files(&model.metadata)?);
    if let Some(training) = training_json(model) {
        files.push(("training.json", pretty(&training)));
    }
    files.push(("README.md", card::card(model, model_type, storage).into_bytes()));
    Ok(Directory { model_type, storage, tensors, files })
}

impl Directory {
    /// Writes the files, each atomically, `config.json` last: a directory without it is no model.
    ///
    /// # Errors
    ///
    /// [`Error::In`] with the path, around a value that its type cannot hold, or what the file system reports.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(|error| Error::Io(error).in_file(directory))?;
        let path = directory.join("model.safetensors");
        let layout = self.layout().map_err(|error| error.in_file(&path))?;
        write_atomically(&path, |out| layout.write(out))?;
        for (name, bytes) in self.files.iter().rev() {
            write_atomically(&directory.join(name), |out| out.write_all(bytes))?;
        }
        Ok(())
    }

    fn layout(&self) -> Result<Layout<'_>> {
        let entries = self.tensors.iter().map(|stored| Entry {
            name: stored.name.clone(),
            shape: stored.shape.clone(),
            data: Data::Bytes(stored.dtype, &stored.bytes),
        });
        // What `transformers` asks of a file: that it says whose tensors they are.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        Layout::new(&metadata, entries.collect())
    }
}

/// The kind of model in `transformers` that computes what this one computes.
fn architecture(config: &ModelConfig) -> Result<Architecture> {
    let nowhere = "no model of transformers here has that; the packed file itself runs in tern";
    if config.ternary_head {
        return Err(lacks("ternary_head", format!("is true: {nowhere}")));
    }
    if config.qk_norm {
        return Err(lacks("qk_norm", format!("is true beside these parts: {nowhere}")));
    }
    if config.position == Position::Rope {
        let rules = [
            ((config.norm, config.final_norm) == (Norm::Rms, Norm::Rms), "norm", "must be rms"),
            (config.mlp_gate, "mlp_gate", "must be true"),
            (!config.sub_norm || !config.mlp_bias, "mlp_bias", "must be false with sub-norms"),
        ];
        return match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, rule)) => Err(lacks(key, format!("{rule} beside RoPE: {nowhere}"))),
            None if config.sub_norm => Ok(Architecture::Bitnet),
            None => Ok(Architecture::Llama),
        };
    }
    let heads = config.num_attention_heads;
    for (holds, key, rule) in [
        ((config.norm, config.final_norm) == (Norm::Layer, Norm::Layer), "norm", "must be layer"),
        (!config.mlp_gate, "mlp_gate", "must be false"),
        (config.hidden_act == HiddenAct::Gelu, "hidden_act", "must be gelu"),
        (!config.sub_norm, "sub_norm", "must be false"),
        (heads == config.num_key_value_heads, "num_key_value_heads", "must be all heads"),
        (heads * config.head_dim == config.hidden_size, "head_dim", "must be hidden_size / heads"),
    ] {
        if !holds {
            return Err(lacks(key, format!("{rule} beside learned positions: {nowhere}")));
        }
    }
    Ok(Architecture::Gpt2)
}

fn check_storage(model: &PackedModel, architecture: Architecture, storage: Storage) -> Result<()> {
    let config = model.config();
    let eight_bits = config.activation_quantizer == ActivationQuantizer::Int8;
    let refuse = |rule: &str| Err(Error::Rule { rule: rule.into() });
    match storage {
        Storage::Float(_) if eight_bits => {
            refuse("floats would drop the model's eight-bit activations: --type packed keeps them")
        }
        Storage::Packed if architecture == Architecture::Gpt2 && eight_bits => refuse(
            "transformers packs no layers of gpt2, and floats would drop the model's eight-bit activations: --to gguf holds it",
        ),
        Storage::Packed if !config.is_ternary() => {
            refuse("this model is float: --type f32 or bf16 can hold it")
        }
        Storage::Packed if !eight_bits => refuse(
            "transformers quantizes the activations of packed layers, and this model's are float: --type f32 can hold it",
        ),
        // It multiplies by the scale after it has added the bias.
        Storage::Packed if config.attention_bias || config.mlp_bias => {
            refuse("transformers scales the biases of packed layers: no storage holds this model")
        }
        _ => Ok(()),
    }
}

/// The tensors in the file that one of the model becomes; none for the second and third of a fused matrix.
fn store(
    model: &PackedModel,
    name: &str,
    shape: Vec<usize>,
    architecture: Architecture,
    storage: Storage,
) -> Result<Vec<Stored>> {
    let tensor = model.tensors.get(name).ok_or(Error::Missing)?;
    if architecture == Architecture::Gpt2 {
        return gpt2(model, name, shape, storage);
    }
    match (tensor, storage) {
        (Tensor::Ternary(ternary), Storage::Packed) => {
            let trits = ternary.trits()?;
            let bytes = pack(&trits, ternary.d_output, ternary.d_input)?;
            let shape = vec![ternary.d_output / 4, ternary.d_input];
            let scale = float(&format!("{name}_scale"), vec![1], FloatType::F32, &[ternary.scale])?;
            Ok(vec![Stored { name: name.into(), shape, dtype: Dtype::U8, bytes }, scale])
        }
        (Tensor::Float(_), Storage::Packed) if model.config().is_block_linear(name) => {
            let rule = "is float, and packed layers are trits: project the model first";
            Err(Error::Rule { rule: rule.into() })
        }
        // Beside packed layers transformers leaves a tensor the type of the file, and computes with one type alone.
        (_, Storage::Packed) => Ok(vec![float(name, shape, FloatType::F32, &floats(tensor)?)?]),
        (_, Storage::Float(dtype)) => Ok(vec![float(name, shape, dtype, &floats(tensor)?)?]),
    }
}

/// A tensor of floats, each the nearest of the type.
fn float(name: &str, shape: Vec<usize>, dtype: FloatType, values: &[f32]) -> Result<Stored> {
    let rounded = FloatTensor::new(shape, dtype, values);
    if let Some(index) = rounded.values().iter().position(|value| !value.is_finite()) {
        let dtype = if dtype == FloatType::F16 { "f16" } else { "float" };
        return Err(Error::NotFinite { index, dtype, value: values[index] });
    }
    let FloatTensor { shape, bytes, .. } = rounded;
    Ok(Stored { name: name.into(), shape, dtype: dtype.dtype(), bytes: bytes.to_vec() })
}

/// A tensor of `gpt2`, under its name there; linear layers as `[d_input, d_output]`, with a bias of zeros where there is
/// none.
fn gpt2(
    model: &PackedModel,
    name: &str,
    shape: Vec<usize>,
    storage: Storage,
) -> Result<Vec<Stored>> {
    let dtype = match storage {
        Storage::Float(dtype) => dtype,
        Storage::Packed => FloatType::F32,
    };
    let place = source(name, Architecture::Gpt2);
    let prefix = if name == crate::config::HEAD { "" } else { "transformer." };
    let new_name = format!("{prefix}{}", place.name);
    let values = |name: &str| floats(model.tensors.get(name).ok_or(Error::Missing)?);
    if !place.transposed {
        // A bias comes with its matrix.
        if model.config().is_block_linear(&name.replace(".bias", ".weight")) {
            return Ok(Vec::new());
        }
        return Ok(vec![float(&new_name, shape, dtype, &values(name)?)?]);
    }
    let parts: Vec<String> = match place.third {
        Some(0) => ["q", "k", "v"]
            .map(|letter| name.replace(".q_proj.", &format!(".{letter}_proj.")))
            .into(),
        Some(_) => return Ok(Vec::new()),
        None => vec![name.into()],
    };
    let (d_output, d_input) = (shape[0], shape[1]);
    let width = parts.len() * d_output;
    let mut matrix = vec![0.0; width * d_input];
    let mut bias = vec![0.0; width];
    for (part, name) in parts.iter().enumerate() {
        for (row, inputs) in values(name)?.chunks_exact(d_input).enumerate() {
            for (column, &value) in inputs.iter().enumerate() {
                matrix[column * width + part * d_output + row] = value;
            }
        }
        let name = name.replace(".weight", ".bias");
        if model.tensors.contains_key(&name) {
            bias[part * d_output..][..d_output].copy_from_slice(&values(&name)?);
        }
    }
    let bias_name = new_name.replace(".weight", ".bias");
    Ok(vec![
        float(&new_name, vec![d_input, width], dtype, &matrix)?,
        float(&bias_name, vec![width], dtype, &bias)?,
    ])
}

/// The bytes of a matrix of trits; [`super::unpack`] is the way back.
///
/// # Shapes
///
/// - `trits`: `[d_output, d_input]`; returns `[d_output / 4, d_input]`
///
/// # Errors
///
/// A number of outputs that is no multiple of four.
pub fn pack(trits: &[i8], d_output: usize, d_input: usize) -> Result<Vec<u8>> {
    if !d_output.is_multiple_of(4) {
        let rule = format!("packed layers need a multiple of 4 outputs, this has {d_output}");
        return Err(Error::Rule { rule });
    }
    let quarter = d_output / 4 * d_input;
    let code = |i: usize, at: usize| ((trits[i * quarter + at] + 1) as u8) << (2 * i);
    Ok((0..quarter).map(|at| code(0, at) | code(1, at) | code(2, at) | code(3, at)).collect())
}

fn config_json(model: &PackedModel, architecture: Architecture, storage: Storage) -> Value {
    let config = model.config();
    let dtype = match storage {
        Storage::Packed | Storage::Float(FloatType::F32) => "float32",
        Storage::Float(FloatType::F16) => "float16",
        Storage::Float(FloatType::BF16) => "bfloat16",
    };
    let act = match config.hidden_act {
        HiddenAct::Silu => "silu",
        HiddenAct::Relu2 => "relu2",
        HiddenAct::Gelu => "gelu_new",
    };
    let mut json = if architecture == Architecture::Gpt2 {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": config.hidden_size,
            "n_inner": config.intermediate_size,
            "n_layer": config.num_hidden_layers,
            "n_head": config.num_attention_heads,
            "n_positions": config.max_position_embeddings,
            "layer_norm_epsilon": config.layer_norm_eps,
            "activation_function": act,
            // Dropout is for those who train on.
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        })
    } else {
        let (class, kind) = match architecture {
            Architecture::Bitnet => ("BitNetForCausalLM", "bitnet"),
            _ => ("LlamaForCausalLM", "llama"),
        };
        let mut json = json!({
            "architectures": [class],
            "model_type": kind,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "hidden_act": act,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            // Older versions read the one, newer ones the other.
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "attention_bias": config.attention_bias,
        });
        if architecture == Architecture::Llama {
            json["mlp_bias"] = config.mlp_bias.into();
        }
        json
    };
    json["vocab_size"] = config.vocab_size.into();
    json["tie_word_embeddings"] = config.tie_word_embeddings.into();
    json["initializer_range"] = config.initializer_range.into();
    json["bos_token_id"] = model.metadata.bos.into();
    json["eos_token_id"] = model.metadata.eos.into();
    json["dtype"] = dtype.into();
    json["torch_dtype"] = dtype.into();
    json["use_cache"] = true.into();
    if storage == Storage::Packed {
        json["quantization_config"] = json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
            "modules_to_not_convert": null,
        });
    }
    json
}

fn generation_json(model: &PackedModel) -> Value {
    let GenerationDefaults {
        temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, ..
    } = model.metadata.generation;
    // Through text: 0.8 as f32 is 0.800000011920929 as f64.
    let number = |value: f32| value.to_string().parse::<f64>().map_or(Value::Null, Value::from);
    let mut json = Map::new();
    json.insert("do_sample".into(), (temperature > 0.0).into());
    if temperature > 0.0 {
        json.insert("temperature".into(), number(temperature));
        json.insert("top_k".into(), top_k.into());
        json.insert("top_p".into(), number(top_p));
    }
    if temperature > 0.0 && min_p > 0.0 {
        json.insert("min_p".into(), number(min_p));
    }
    json.insert("repetition_penalty".into(), number(repetition_penalty));
    json.insert("max_new_tokens".into(), max_tokens.into());
    for (key, id) in [("bos_token_id", model.metadata.bos), ("eos_token_id", model.metadata.eos)] {
        if let Some(id) = id {
            json.insert(key.into(), id.into());
        }
    }
    Value::Object(json)
}

/// Where the weights come from, as the packed file has it.
fn training_json(model: &PackedModel) -> Option<Value> {
    let provenance = model.metadata.provenance.as_ref()?;
    let mut json = serde_json::to_value(provenance).ok()?;
    if let Some(check) = &model.metadata.check {
        json["check_loss"] = check.loss.into();
        json["check_tokens"] = check.predictions().into();
    }
    Some(json)
}

pub(super) fn pretty(json: &Value) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(json).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::unpack;
    use super::*;

    #[test]
    fn packing_is_the_published_example_and_unpacks() {
        assert_eq!(pack(&[1, 0, -1, 0, -1, 1, 0, 1], 8, 1).unwrap(), [0x42, 0xa5]);
        let trits: Vec<i8> = (0..12 * 5).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect();
        assert_eq!(unpack(&pack(&trits, 12, 5).unwrap(), 12, 5).unwrap(), trits);
        assert!(pack(&trits, 15, 4).unwrap_err().to_string().contains("has 15"));
    }
}
