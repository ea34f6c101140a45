//! A packed model as a GGUF file that stock llama.cpp, or bitnet.cpp, loads.
//!
//! ```text
//! llama          RoPE, RMSNorm, SwiGLU: BitLM and LLaMA. Rotates adjacent pairs, so rows of Q and K change places
//! gpt2           learned positions, LayerNorm, GELU. Q, K and V are one matrix; every bias is there, if only as zeros
//! bitnet         RoPE, RMSNorm, sub-norms, SwiGLU, tied head
//! bitnet-b1.58   the same with squared ReLU: bitnet.cpp alone
//! ```
//!
//! A ternary matrix in `TQ1_0` or `TQ2_0` has the scale 1 in its blocks, whose own have but 11 bits, and the exact one in an
//! `F32` tensor `NAME.scale`. llama.cpp 0.3.36 applies that in `llama` and `bitnet`; of `gpt2` it loads all and applies
//! some, so there the blocks have the scale. Whatever else is in the model keeps the type that it has.

use super::write::{Entry, Layout, NewTensor};
use super::{BlockType, vocabulary};
use crate::config::{EMBEDDING, HEAD, HiddenAct, ModelConfig, Norm, POSITIONS, Position};
use crate::error::{Error, Result};
use crate::interchange::{floats, lacks};
use crate::packed::{FloatType, PackedModel, Tensor};

/// The types that the linear layers of the blocks can have.
pub const TYPES: [BlockType; 6] = [
    BlockType::TQ2_0,
    BlockType::TQ1_0,
    BlockType::I2_S,
    BlockType::F16,
    BlockType::Q8_0,
    BlockType::F32,
];

/// An architecture of llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arch {
    Llama,
    Gpt2,
    Bitnet,
    BitnetB158,
}

/// A model as a file that is decided, and not yet written.
pub struct Export<'a> {
    /// Its bytes.
    pub layout: Layout<'a>,
    /// llama.cpp's name for what it computes.
    pub architecture: &'static str,
    /// The type of the linear layers of the blocks.
    pub linear: BlockType,
}

/// Makes the file. `linear` is the type of the linear layers of the blocks; without one trits go as `TQ2_0`, or as `I2_S`
/// where bitnet.cpp alone runs the model, and what these cannot hold as `F16`.
///
/// # Errors
///
/// A part of the architecture, a tokenizer or a type that llama.cpp would read as another model, with what can hold it. A
/// value or a scale that the type cannot hold shows when the file is written.
pub fn export(model: &PackedModel, linear: Option<BlockType>) -> Result<Export<'_>> {
    model.validate()?;
    let config = model.config();
    let arch = Arch::of(config)?;
    let linear = linear.unwrap_or_else(|| arch.smallest(model));
    arch.check_type(model, linear)?;
    let mut entries = arch.entries(model, linear);
    entries.extend(vocabulary::entries(&model.metadata)?);
    let tensors = arch.tensors(model, linear)?;
    let layout = Layout::new(&entries, tensors)?;
    Ok(Export { layout, architecture: arch.name(), linear })
}

impl Arch {
    /// The architecture that computes what the model computes.
    fn of(config: &ModelConfig) -> Result<Self> {
        let nowhere = "no GGUF architecture has that; the packed file itself runs in tern";
        if config.ternary_head {
            return Err(lacks("ternary_head", format!("is true: {nowhere}")));
        }
        if config.qk_norm {
            return Err(lacks("qk_norm", format!("is true beside these parts: {nowhere}")));
        }
        if config.position == Position::Learned {
            return Self::gpt2(config).map(|()| Self::Gpt2);
        }
        if (config.norm, config.final_norm) != (Norm::Rms, Norm::Rms) {
            return Err(lacks("norm", format!("must be rms beside RoPE: {nowhere}")));
        }
        if !config.mlp_gate {
            return Err(lacks("mlp_gate", format!("must be true beside RoPE: {nowhere}")));
        }
        if !config.sub_norm {
            return match config.hidden_act {
                HiddenAct::Silu => Ok(Self::Llama),
                act => Err(lacks(
                    "hidden_act",
                    format!("must be silu without sub-norms, is {act:?}: {nowhere}"),
                )),
            };
        }
        if !config.tie_word_embeddings {
            return Err(lacks(
                "tie_word_embeddings",
                format!("must be true beside sub-norms: {nowhere}"),
            ));
        }
        if config.attention_bias || config.mlp_bias {
            return Err(lacks(
                "attention_bias",
                format!("must be false beside sub-norms: {nowhere}"),
            ));
        }
        square_attention(config)?;
        match config.hidden_act {
            HiddenAct::Silu => Ok(Self::Bitnet),
            HiddenAct::Relu2 => Ok(Self::BitnetB158),
            HiddenAct::Gelu => {
                Err(lacks("hidden_act", format!("is gelu beside sub-norms: {nowhere}")))
            }
        }
    }

    fn gpt2(config: &ModelConfig) -> Result<()> {
        let must = "for learned positions, which GGUF has in the architecture gpt2 alone; the packed file itself runs in \
                    tern";
        let layer = (config.norm, config.final_norm) == (Norm::Layer, Norm::Layer);
        for (holds, key, rule) in [
            (layer, "norm", "must be layer"),
            (!config.mlp_gate, "mlp_gate", "must be false"),
            (config.hidden_act == HiddenAct::Gelu, "hidden_act", "must be gelu"),
            (!config.sub_norm, "sub_norm", "must be false"),
        ] {
            if !holds {
                return Err(lacks(key, format!("{rule} {must}")));
            }
        }
        square_attention(config)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Gpt2 => "gpt2",
            Self::Bitnet => "bitnet",
            Self::BitnetB158 => "bitnet-b1.58",
        }
    }

    /// Whether llama.cpp multiplies by `NAME.scale`.
    fn has_scales(self) -> bool {
        matches!(self, Self::Llama | Self::Bitnet)
    }

    /// The smallest of the usual types that holds the linear layers.
    fn smallest(self, model: &PackedModel) -> BlockType {
        let types: &[BlockType] = match self {
            Self::BitnetB158 => &[BlockType::I2_S, BlockType::F16],
            Self::Llama | Self::Gpt2 | Self::Bitnet => &[BlockType::TQ2_0, BlockType::F16],
        };
        let fits = |linear: &BlockType| self.check_type(model, *linear).is_ok();
        types.iter().copied().find(fits).unwrap_or(BlockType::F32)
    }

    /// Refuses a type that cannot hold the linear layers, or that the program that knows the architecture does not read.
    fn check_type(self, model: &PackedModel, linear: BlockType) -> Result<()> {
        let refuse = |rule: String| Err(Error::Rule { rule });
        if !TYPES.contains(&linear) {
            return refuse(format!("{linear:?} is not written; the types are {TYPES:?}"));
        }
        let config = model.config();
        if linear.is_ternary() && !config.is_ternary() {
            return refuse(format!(
                "{linear:?} holds trits, and this model is float: --type f16 or q8_0 can hold it"
            ));
        }
        if self == Self::BitnetB158 && matches!(linear, BlockType::TQ1_0 | BlockType::TQ2_0) {
            return refuse(format!(
                "squared ReLU beside sub-norms runs in bitnet.cpp alone, which has no exact scales in {linear:?}: --type i2_s \
                 can hold it"
            ));
        }
        if self == Self::Gpt2 && linear == BlockType::I2_S {
            return refuse(
                "I2_S has one scale a tensor, and the architecture gpt2 has queries, keys and values in one, with three: \
                 --type tq2_0, f16 or q8_0 can hold them"
                    .into(),
            );
        }
        for name in config.tensors().into_iter().map(|(name, _)| name) {
            if !config.is_block_linear(&name) {
                continue;
            }
            let Some(tensor) = model.tensors.get(&name) else { continue };
            let check = || {
                let width = tensor.shape().last().copied().unwrap_or(1);
                let (block, _) = linear.block();
                if !width.is_multiple_of(block) {
                    let nearest =
                        if width.is_multiple_of(32) { "f16 or q8_0" } else { "f16 or f32" };
                    let rule = format!(
                        "{linear:?} needs rows of a multiple of {block}, these have {width}: --type {nearest} can hold them"
                    );
                    return Err(Error::Rule { rule });
                }
                match tensor {
                    Tensor::Ternary(_) => Ok(()),
                    Tensor::Float(_) if linear.is_ternary() => {
                        let rule = format!(
                            "{linear:?} holds trits, and this is float: --type f16 can hold it"
                        );
                        Err(Error::Rule { rule })
                    }
                    Tensor::Float(_) => Ok(()),
                }
            };
            check().map_err(|error| error.in_tensor(&name))?;
        }
        Ok(())
    }

    fn entries(self, model: &PackedModel, linear: BlockType) -> Vec<(String, Entry)> {
        let config = model.config();
        let arch = self.name();
        let size = |value: usize| Entry::U32(u32::try_from(value).unwrap_or(u32::MAX));
        let provenance = model.metadata.provenance.as_ref();
        let name = provenance.map_or("tern", |provenance| &provenance.run);
        let mut entries: Vec<(String, Entry)> = vec![
            ("general.architecture".into(), arch.into()),
            ("general.name".into(), name.into()),
            ("general.file_type".into(), file_type(linear).into()),
            ("general.quantization_version".into(), 2u32.into()),
        ];
        let mut put = |key: &str, entry| entries.push((format!("{arch}.{key}"), entry));
        put("vocab_size", size(config.vocab_size));
        put("context_length", size(config.max_position_embeddings));
        put("embedding_length", size(config.hidden_size));
        put("feed_forward_length", size(config.intermediate_size));
        put("block_count", size(config.num_hidden_layers));
        put("attention.head_count", size(config.num_attention_heads));
        put("attention.head_count_kv", size(config.num_key_value_heads));
        if self == Self::Gpt2 {
            put("attention.layer_norm_epsilon", Entry::F32(config.layer_norm_eps as f32));
        } else {
            put("attention.layer_norm_rms_epsilon", Entry::F32(config.rms_norm_eps as f32));
            put("attention.key_length", size(config.head_dim));
            put("attention.value_length", size(config.head_dim));
            put("rope.dimension_count", size(config.head_dim));
            put("rope.freq_base", Entry::F32(config.rope_theta as f32));
        }
        // For people: llama.cpp passes over keys that it does not know, and an import goes by the others.
        let json = |value| serde_json::to_string(value).unwrap_or_default();
        entries.push(("tern.config".into(), Entry::String(json(config))));
        if let Some(provenance) = provenance {
            let text = serde_json::to_string(provenance).unwrap_or_default();
            entries.push(("tern.provenance".into(), Entry::String(text)));
        }
        entries
    }

    fn tensors(self, model: &PackedModel, linear: BlockType) -> Result<Vec<NewTensor<'_>>> {
        let config = model.config();
        let mut tensors = Vec::new();
        for (name, shape) in config.tensors() {
            let tensor = model.tensors.get(&name).ok_or_else(|| Error::Missing.in_tensor(&name))?;
            let Some(new_name) = self.tensor_name(&name) else {
                return Err(Error::Extra.in_tensor(&name));
            };
            if self == Self::Gpt2 && name.contains(".self_attn.") && !name.contains("o_proj") {
                // The first of the three brings the others, and the biases that may be absent.
                if name.ends_with("q_proj.weight") {
                    tensors.extend(fused(model, &name, linear)?);
                }
                continue;
            }
            let head_dim = match self.permutes(&name) {
                true => Some(config.head_dim),
                false => None,
            };
            if config.is_block_linear(&name) {
                tensors.extend(self.linear(tensor, new_name, linear, head_dim)?);
                if self == Self::Gpt2 && !model.tensors.contains_key(&bias(&name)) {
                    tensors
                        .extend(self.tensor_name(&bias(&name)).map(|name| zeros(name, shape[0])));
                }
            } else {
                tensors.push(plain(tensor, new_name, shape, head_dim));
            }
        }
        Ok(tensors)
    }

    /// Whether a tensor's rows change places: the halves of each head's rotated pairs become neighbours.
    fn permutes(self, name: &str) -> bool {
        self == Self::Llama && (name.contains(".q_proj.") || name.contains(".k_proj."))
    }

    /// A linear layer, and its scale where that is a tensor of its own.
    fn linear<'a>(
        self,
        tensor: &'a Tensor,
        name: String,
        linear: BlockType,
        head_dim: Option<usize>,
    ) -> Result<Vec<NewTensor<'a>>> {
        let shape = tensor.shape();
        let ternary = match tensor {
            Tensor::Float(_) => {
                let encode = move || linear.encode(&adjacent(&floats(tensor)?, tensor, head_dim));
                return Ok(vec![NewTensor {
                    name,
                    block_type: linear,
                    shape,
                    encode: Box::new(encode),
                }]);
            }
            Tensor::Ternary(ternary) => ternary,
        };
        let scale = ternary.scale;
        let apart = self.has_scales() && matches!(linear, BlockType::TQ1_0 | BlockType::TQ2_0);
        let inside = if apart { 1.0 } else { scale };
        let scale_name = name.strip_suffix("weight").map(|stem| format!("{stem}scale"));
        let encode =
            move || linear.encode_trits(&adjacent(&ternary.trits()?, tensor, head_dim), inside);
        let mut tensors =
            vec![NewTensor { name, block_type: linear, shape, encode: Box::new(encode) }];
        if let (true, Some(name)) = (apart, scale_name) {
            let encode = Box::new(move || BlockType::F32.encode(&[scale]));
            tensors.push(NewTensor { name, block_type: BlockType::F32, shape: vec![1], encode });
        }
        Ok(tensors)
    }

    /// llama.cpp's name of a tensor.
    fn tensor_name(self, name: &str) -> Option<String> {
        for (ours, theirs) in [
            (EMBEDDING, "token_embd.weight"),
            (POSITIONS, "position_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("model.norm.bias", "output_norm.bias"),
            (HEAD, "output.weight"),
        ] {
            if name == ours {
                return Some(theirs.into());
            }
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, end) = part.rsplit_once('.')?;
        let part = match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.attn_sub_norm" => "attn_sub_norm",
            "post_attention_layernorm" => "ffn_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            "mlp.ffn_sub_norm" => "ffn_sub_norm",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}.{end}"))
    }
}

/// The architectures with a square output projection of attention.
fn square_attention(config: &ModelConfig) -> Result<()> {
    let width = config.num_attention_heads * config.head_dim;
    if width == config.hidden_size {
        return Ok(());
    }
    let rule = format!(
        "times num_attention_heads must be hidden_size ({}) in this GGUF architecture, is {width}",
        config.hidden_size
    );
    Err(lacks("head_dim", rule))
}

/// llama.cpp's number for what most tensors are.
fn file_type(linear: BlockType) -> u32 {
    match linear {
        BlockType::F16 => 1,
        BlockType::Q8_0 => 7,
        BlockType::TQ1_0 => 36,
        BlockType::TQ2_0 => 37,
        BlockType::I2_S => 40,
        _ => 0,
    }
}

fn bias(weight: &str) -> String {
    weight.strip_suffix("weight").map_or_else(|| weight.to_owned(), |stem| format!("{stem}bias"))
}

/// A tensor that is no linear layer. Matrices keep their type; vectors are `F32`, as llama.cpp asks.
fn plain(
    tensor: &Tensor,
    name: String,
    shape: Vec<usize>,
    head_dim: Option<usize>,
) -> NewTensor<'_> {
    let stored = match tensor {
        Tensor::Float(float) if shape.len() > 1 => match float.dtype {
            FloatType::F32 => BlockType::F32,
            FloatType::F16 => BlockType::F16,
            FloatType::BF16 => BlockType::BF16,
        },
        _ => BlockType::F32,
    };
    let encode = move || stored.encode(&adjacent(&floats(tensor)?, tensor, head_dim));
    NewTensor { name, block_type: stored, shape, encode: Box::new(encode) }
}

fn zeros<'a>(name: String, width: usize) -> NewTensor<'a> {
    let encode = Box::new(move || BlockType::F32.encode(&vec![0.0; width]));
    NewTensor { name, block_type: BlockType::F32, shape: vec![width], encode }
}

/// Queries, keys and values as one matrix with one bias. Each part keeps its own scale, in its blocks.
fn fused<'a>(model: &'a PackedModel, query: &str, linear: BlockType) -> Result<[NewTensor<'a>; 2]> {
    let part = |letter: &str, end: &str| {
        let name = query.replace(".q_proj.weight", &format!(".{letter}_proj.{end}"));
        model.tensors.get(&name)
    };
    let weights = ["q", "k", "v"].map(|letter| part(letter, "weight"));
    let [Some(q), Some(k), Some(v)] = weights else {
        return Err(Error::Missing.in_tensor(query));
    };
    let matrices = [q, k, v];
    let widths = matrices.map(|matrix| matrix.shape()[0]);
    let outputs = widths.iter().sum();
    let shape = vec![outputs, q.shape()[1]];
    let biases = ["q", "k", "v"].map(|letter| part(letter, "bias"));
    let stem =
        Arch::Gpt2.tensor_name(query).unwrap_or_default().replace("attn_q.weight", "attn_qkv");
    let weight = move || {
        let mut bytes = Vec::new();
        for matrix in matrices {
            bytes.extend(match matrix {
                Tensor::Ternary(ternary) => {
                    linear.encode_trits(&ternary.trits()?, ternary.scale)?
                }
                Tensor::Float(_) => linear.encode(&floats(matrix)?)?,
            });
        }
        Ok(bytes)
    };
    let bias = move || {
        let mut values = Vec::with_capacity(outputs);
        for (bias, width) in biases.into_iter().zip(widths) {
            match bias {
                Some(bias) => values.extend_from_slice(&floats(bias)?),
                None => values.resize(values.len() + width, 0.0),
            }
        }
        BlockType::F32.encode(&values)
    };
    let name = |end: &str| format!("{stem}.{end}");
    Ok([
        NewTensor { name: name("weight"), block_type: linear, shape, encode: Box::new(weight) },
        NewTensor {
            name: name("bias"),
            block_type: BlockType::F32,
            shape: vec![outputs],
            encode: Box::new(bias),
        },
    ])
}

/// Rows in the order in which llama.cpp rotates them: of each head, row `i` and row `i + head_dim / 2` become rows `2 i`
/// and `2 i + 1`.
fn adjacent<T: Copy>(values: &[T], tensor: &Tensor, head_dim: Option<usize>) -> Vec<T> {
    let Some(head_dim) = head_dim else { return values.to_vec() };
    let row = tensor.shape().iter().skip(1).product::<usize>();
    let mut permuted = Vec::with_capacity(values.len());
    for head in values.chunks(head_dim * row) {
        for i in 0..head_dim {
            let from = i / 2 + i % 2 * (head_dim / 2);
            permuted.extend_from_slice(&head[from * row..][..row]);
        }
    }
    permuted
}

#[cfg(test)]
mod tests;
