//! State dicts of the models that the presets come from, under their authors' names.
//!
//! ```text
//! bitlm    embed, blocks.N.{attn_norm, q, k, v, o, ffn_norm, gate, up, down}, norm
//! bitgpt   tok, pos, blocks.N.{norm1, q, k, v, o, norm2, gate, up, down}, norm_f with bias
//! gpt2     wte, wpe, h.N.{ln_1, attn.c_attn, attn.c_proj, ln_2, mlp.c_fc, mlp.c_proj}, ln_f
//! ```
//!
//! Queries, keys and values may be one matrix (`qkv`), gate and up another (`gate_up`); a head that equals the embedding is
//! tied to it. Sizes come from the shapes; what these do not show (heads, epsilons, RoPE's base and length) from the preset,
//! and whoever imports may set any of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tern_format::config::{Architecture, ModelConfig, Norm, Quantizer};
use tern_format::error::printable;
use tern_format::packed::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor};
use tern_format::pytorch::{self, ElementType};
use tern_format::tokenizer::{Tokenizer, TokenizerSource};
use tern_format::{Error, Result};
use tern_kernels::ternarize::ternarize_as_one;

use super::{Latent, Slice};
use crate::verify::matrix::projected;

/// What wrappers put before every name.
const PREFIXES: [&str; 2] = ["transformer.", "model."];

/// Tensors that are made from the configuration, and say nothing.
const BUFFERS: [&str; 6] = ["cos", "sin", "freqs_cis", "mask", ".attn.bias", ".attn.masked_bias"];

/// Our name of a part, and the names that files have for it, with the place in a matrix of several.
type Names = &'static [(&'static str, &'static [(&'static str, Place)])];

/// Where in a tensor of a file a layer stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Whole,
    /// `Conv1D`: the matrix is `[d_input, d_output]`.
    Transposed,
    /// The n-th of several layers, one after the other.
    Part(usize),
    /// The same in a `Conv1D`.
    TransposedPart(usize),
}

use Place::{Part, Transposed, TransposedPart, Whole};

const TOPS: Names = &[
    ("model.embed_tokens", &[("embed", Whole), ("tok", Whole), ("wte", Whole)]),
    ("model.embed_positions", &[("pos", Whole), ("wpe", Whole)]),
    ("model.norm", &[("norm", Whole), ("norm_f", Whole), ("ln_f", Whole)]),
    ("lm_head", &[("lm_head", Whole), ("head", Whole)]),
];

const PARTS: Names = &[
    ("input_layernorm", &[("attn_norm", Whole), ("norm1", Whole), ("ln_1", Whole)]),
    ("post_attention_layernorm", &[("ffn_norm", Whole), ("norm2", Whole), ("ln_2", Whole)]),
    ("self_attn.q_proj", &[("q", Whole), ("qkv", Part(0)), ("attn.c_attn", TransposedPart(0))]),
    ("self_attn.k_proj", &[("k", Whole), ("qkv", Part(1)), ("attn.c_attn", TransposedPart(1))]),
    ("self_attn.v_proj", &[("v", Whole), ("qkv", Part(2)), ("attn.c_attn", TransposedPart(2))]),
    ("self_attn.o_proj", &[("o", Whole), ("attn.c_proj", Transposed)]),
    ("mlp.gate_proj", &[("gate", Whole), ("gate_up", Part(0))]),
    ("mlp.up_proj", &[("up", Whole), ("gate_up", Part(1)), ("mlp.c_fc", Transposed)]),
    ("mlp.down_proj", &[("down", Whole), ("mlp.c_proj", Transposed)]),
];

/// What the blocks are called.
const BLOCKS: [&str; 3] = ["blocks", "layers", "h"];

/// Makes a model of a state dict. Matrices that the architecture holds ternary and that hold many magnitudes are ternarized,
/// those that are one to the quantizer with one scale, or kept as [`Latent`] says; those of one magnitude have been projected
/// already, and their trits are taken as they are.
///
/// # Errors
///
/// Names of no architecture known here, a setting that there is not, or the tensor that breaks a rule.
pub fn state_dict(
    tensors: &BTreeMap<String, pytorch::Tensor>,
    tokenizer: TokenizerSource,
    settings: &Map<String, Value>,
    latent: Latent,
) -> Result<PackedModel> {
    let mut dict = Dict::new(tensors)?;
    let config = with_settings(dict.config()?, settings)?;
    config.validate()?;
    if config.num_hidden_layers > tensors.len() {
        let rule = format!("there are only {} tensors", tensors.len());
        return Err(Error::Metadata { key: "num_hidden_layers".into(), rule });
    }
    let mut ours = BTreeMap::new();
    let is_kept = |name: &str| latent == Latent::Keep || !config.is_ternary_matrix(name);
    for (name, shape) in config.tensors().into_iter().filter(|(name, _)| is_kept(name)) {
        let float = dict.float(&name, &shape, &config)?;
        ours.insert(name, Tensor::Float(float));
    }
    if latent == Latent::Ternarize {
        for group in config.ternary_groups() {
            let float = |(name, shape): &(String, Vec<usize>)| dict.float(name, shape, &config);
            let floats: Vec<_> = group.iter().map(float).collect::<Result<_>>()?;
            let matrices = ternary(&floats, config.quantizer);
            ours.extend(group.into_iter().zip(matrices).map(|((name, _), matrix)| (name, matrix)));
        }
    }
    dict.finish()?;
    let metadata = Metadata::new(config, tokenizer);
    let tokenizer: Tokenizer = metadata.read_tokenizer()?;
    let metadata = Metadata { bos: tokenizer.bos(), eos: tokenizer.eos(), ..metadata };
    let model = PackedModel { metadata, tensors: ours };
    model.validate()?;
    Ok(model)
}

/// The configuration with what is set in the place of what was found.
fn with_settings(config: ModelConfig, settings: &Map<String, Value>) -> Result<ModelConfig> {
    let wrong = |key: &str, rule: String| Error::Metadata { key: key.into(), rule };
    let json = |source| Error::Json { source };
    let mut value = serde_json::to_value(config).map_err(json)?;
    for (key, setting) in settings {
        match value.get_mut(key) {
            Some(place) => *place = setting.clone(),
            None => return Err(wrong(key, "the model has no such setting".into())),
        }
    }
    let named = settings.keys().cloned().collect::<Vec<_>>().join(", ");
    serde_json::from_value(value).map_err(|error| wrong(&named, printable(&error.to_string(), 300)))
}

/// A state dict, and which of its tensors were asked for.
struct Dict<'a> {
    /// By the name without prefixes.
    tensors: BTreeMap<&'a str, (&'a str, &'a pytorch::Tensor)>,
    /// What the blocks are called.
    blocks: &'static str,
    used: BTreeSet<&'a str>,
}

impl<'a> Dict<'a> {
    fn new(all: &'a BTreeMap<String, pytorch::Tensor>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in all {
            let short = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
            let short = short.unwrap_or(name);
            if tensors.insert(short, (name.as_str(), tensor)).is_some() {
                return Err(Error::Duplicate.in_tensor(short));
            }
        }
        let has = |blocks: &&str| {
            tensors
                .keys()
                .any(|name| name.strip_prefix(blocks).is_some_and(|r| r.starts_with(".0.")))
        };
        let blocks = BLOCKS.into_iter().find(|blocks| has(blocks)).ok_or_else(|| Error::Rule {
            rule: "the names are of no model known here: it has no `blocks.0.…`, `layers.0.…` or `h.0.…`".into(),
        })?;
        Ok(Self { tensors, blocks, used: BTreeSet::new() })
    }

    /// The names that a tensor of ours may have here, best first, with the place in it.
    fn candidates(&self, ours: &str) -> Vec<(String, Place)> {
        let Some((path, end)) = ours.rsplit_once('.') else { return Vec::new() };
        let names = |table: Names, part: &str, prefix: String| {
            let found = table.iter().find(|(name, _)| *name == part);
            let theirs = found.map_or(&[][..], |(_, theirs)| theirs);
            let name =
                |(theirs, place): &(&str, Place)| (format!("{prefix}{theirs}.{end}"), *place);
            theirs.iter().map(name).collect()
        };
        match path.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => names(PARTS, part, format!("{}.{layer}.", self.blocks)),
            None => names(TOPS, path, String::new()),
        }
    }

    fn find(&self, ours: &str) -> Option<(&'a str, &'a pytorch::Tensor, Place)> {
        self.candidates(ours).into_iter().find_map(|(name, place)| {
            self.tensors.get(&*name).map(|&(full, tensor)| (full, tensor, place))
        })
    }

    /// The sides that a matrix of ours has.
    fn sides(&self, ours: &str) -> Result<(usize, usize)> {
        let missing = || Error::Missing.in_tensor(ours);
        let (name, tensor, place) = self.find(ours).ok_or_else(missing)?;
        let &[mut d_output, mut d_input] = &tensor.shape[..] else {
            let rule = format!("must have 2 sides, has {}", tensor.shape.len());
            return Err(Error::Rule { rule }.in_tensor(name));
        };
        if matches!(place, Transposed | TransposedPart(_)) {
            (d_output, d_input) = (d_input, d_output);
        }
        let parts = match place {
            Whole | Transposed => 1,
            Part(_) if ours.contains("mlp") => 2,
            Part(_) | TransposedPart(_) => 3,
        };
        Ok((d_output / parts, d_input))
    }

    /// What names and shapes say.
    fn config(&self) -> Result<ModelConfig> {
        let layer = |part: &str| format!("model.layers.0.{part}.weight");
        let has = |name: &str| self.find(name).is_some();
        let learned = has("model.embed_positions.weight");
        let architecture = match (learned, has("model.layers.0.input_layernorm.bias")) {
            (false, false) => Architecture::Bitlm,
            (true, false) => Architecture::Bitgpt,
            (true, true) => Architecture::Gpt2,
            (false, true) => {
                let rule =
                    "names a LayerNorm in the blocks and no positions, as no model known here does";
                return Err(Error::Rule { rule: rule.into() });
            }
        };
        let preset = ModelConfig::preset(architecture);
        let (vocab_size, hidden_size) = self.sides("model.embed_tokens.weight")?;
        // All sizes of GPT-2 have heads of 64 channels; of the others there is one size.
        let heads = match architecture {
            Architecture::Gpt2 => hidden_size / preset.head_dim,
            _ => preset.num_attention_heads,
        };
        let (query, _) = self.sides(&layer("self_attn.q_proj"))?;
        let (key, _) = self.sides(&layer("self_attn.k_proj"))?;
        let head_dim = query.checked_div(heads).unwrap_or(preset.head_dim);
        let prefix = format!("{}.", self.blocks);
        let layers = self.tensors.keys().filter_map(|name| {
            name.strip_prefix(&prefix)?.split_once('.')?.0.parse::<usize>().ok()
        });
        let positions = self.sides("model.embed_positions.weight").map(|(positions, _)| positions);
        let bias = |part: &str| has(&format!("model.layers.0.{part}.bias"));
        let layer_norm = |biased| if biased { Norm::Layer } else { Norm::Rms };
        let tied = self.is_tied();
        Ok(ModelConfig {
            vocab_size,
            hidden_size,
            intermediate_size: self.sides(&layer("mlp.up_proj"))?.0,
            num_hidden_layers: layers.max().map_or(0, |last| last.saturating_add(1)),
            num_attention_heads: heads,
            num_key_value_heads: key.checked_div(head_dim).unwrap_or(0),
            head_dim,
            max_position_embeddings: positions.unwrap_or(preset.max_position_embeddings),
            norm: layer_norm(bias("input_layernorm")),
            final_norm: layer_norm(has("model.norm.bias")),
            mlp_gate: has(&layer("mlp.gate_proj")),
            attention_bias: bias("self_attn.q_proj"),
            mlp_bias: bias("mlp.up_proj"),
            tie_word_embeddings: tied,
            ..preset
        })
    }

    /// Whether there is no head, or one that is the embedding.
    fn is_tied(&self) -> bool {
        let embedding = self.find("model.embed_tokens.weight").map(|(_, tensor, _)| tensor);
        self.find("lm_head.weight").is_none_or(|(_, head, _)| Some(head) == embedding)
    }

    /// The values of the tensor that this program has under a name.
    fn float(&mut self, ours: &str, shape: &[usize], config: &ModelConfig) -> Result<FloatTensor> {
        // A tied head that is ternary has the latent weights of the embedding.
        let tied = config.tie_word_embeddings && ours == tern_format::config::HEAD;
        let source = if tied { tern_format::config::EMBEDDING } else { ours };
        let found = self.find(source);
        let (name, tensor, place) = found.ok_or_else(|| Error::Missing.in_tensor(ours))?;
        self.used.insert(name);
        let values = part(tensor, place, shape, ours.contains("mlp"))
            .map_err(|error| error.in_tensor(name))?;
        let float_type = match tensor.element_type {
            ElementType::F16 => FloatType::F16,
            ElementType::BF16 => FloatType::BF16,
            _ => FloatType::F32,
        };
        Ok(FloatTensor::new(shape.to_vec(), float_type, &values))
    }

    /// Refuses what nobody has asked for.
    fn finish(mut self) -> Result<()> {
        if self.is_tied()
            && let Some((head, ..)) = self.find("lm_head.weight")
        {
            self.used.insert(head);
        }
        let ignored = |name: &str| {
            BUFFERS
                .iter()
                .any(|buffer| name == *buffer || buffer.starts_with('.') && name.ends_with(buffer))
        };
        match self
            .tensors
            .iter()
            .find(|(name, (full, _))| !self.used.contains(full) && !ignored(name))
        {
            Some((_, (full, _))) => Err(Error::Extra.in_tensor(full)),
            None => Ok(()),
        }
    }
}

/// Matrices that are one to the quantizer: each with the trits that it holds where all have been projected already, and else
/// ternarized together.
fn ternary(floats: &[FloatTensor], quantizer: Quantizer) -> Vec<Tensor> {
    let values: Vec<_> = floats.iter().map(FloatTensor::values).collect();
    let all: Option<Vec<_>> = values.iter().map(|values| projected(values)).collect();
    let (trits, scales): (Vec<_>, Vec<_>) = match all {
        Some(projected) => projected.into_iter().unzip(),
        None => {
            let (trits, scale) = ternarize_as_one(&values, quantizer.extra_eps());
            (trits, vec![scale; floats.len()])
        }
    };
    let matrices = floats.iter().zip(&trits).zip(scales);
    matrices
        .map(|((float, trits), scale)| {
            Tensor::Ternary(TernaryTensor::from_trits(trits, float.shape[1], scale))
        })
        .collect()
}

/// The values of a layer inside a tensor of a file, `[d_output, d_input]` or a vector.
fn part(tensor: &pytorch::Tensor, place: Place, shape: &[usize], of_two: bool) -> Result<Vec<f32>> {
    let (parts, part) = match place {
        Whole | Transposed => (1, 0),
        Part(n) | TransposedPart(n) => (if of_two { 2 } else { 3 }, n),
    };
    let transposed = matches!(place, Transposed | TransposedPart(_));
    let slice = Slice { part, parts, transposed };
    slice.check(shape, &tensor.shape)?;
    Ok(slice.cut(shape, &tensor.floats()?))
}

#[cfg(test)]
mod tests;
