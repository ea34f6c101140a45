//! What the metadata and the names of tensors in a GGUF file mean, for the architectures that this program runs.
//!
//! ```text
//! llama                  LLaMA; rotary positions turn adjacent pairs, so the rows of Q and K stand in another order
//! bitnet                 BitNet b1.58 as llama.cpp runs it: sub-norms, SiLU, halves of a head rotate
//! bitnet-b1.58, -25      the same as bitnet.cpp runs it: squared ReLU
//! gpt2                   GPT-2: Q, K and V are one matrix, learned positions, biases
//! ```
//!
//! Every key of the architecture is honoured, known to change nothing, or refused by name, as for `config.json`. Which
//! layers are ternary the file says tensor by tensor, so here the quantizers are still `none`.

use std::collections::BTreeSet;

use super::value::{Array, Kind, Value};
use super::{Gguf, View};
use crate::config::{
    ActivationQuantizer, Architecture, AttentionInitializer, HiddenAct, ModelConfig, Norm,
    Position, Quantizer,
};
use crate::error::{Error, Result, quoted};
use crate::foreign_keys::{must_be, unknown, wrong};

/// What the metadata say.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture, its quantizers `none`.
    pub model: ModelConfig,
    /// What the layers quantize their inputs to, if they are ternary.
    pub activation_quantizer: ActivationQuantizer,
}

/// Keys of an architecture that change nothing in what the model computes here.
const IGNORED: [&str; 5] = [
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
];

impl Config {
    /// Reads the metadata of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] with the key that is missing, of another kind, or says what is not to be had here.
    pub fn new(file: &Gguf<'_>) -> Result<Self> {
        for (key, says) in [("general.type", "model"), ("split.count", "1")] {
            let other = file.metadata.get(key).map(Value::to_string).filter(|value| value != says);
            if let Some(other) = other.filter(|value| !(key == "split.count" && value == "0")) {
                return Err(wrong(key, format!("must be {says}, is {}", quoted(&other))));
            }
        }
        let name: &str = file.find("general.architecture")?.unwrap_or_default();
        let (architecture, hidden_act, int8) = match name {
            "llama" => (Architecture::Llama, HiddenAct::Silu, false),
            "bitnet" => (Architecture::Bitnet, HiddenAct::Silu, true),
            "bitnet-b1.58" | "bitnet-25" => (Architecture::Bitnet, HiddenAct::Relu2, true),
            "gpt2" => (Architecture::Gpt2, HiddenAct::Gelu, false),
            _ => {
                let known = "llama, bitnet, bitnet-b1.58, bitnet-25 or gpt2";
                let rule = format!("must be {known}, is {}", quoted(name));
                return Err(wrong("general.architecture", rule));
            }
        };
        let mut keys = Keys { file, prefix: format!("{name}."), asked: BTreeSet::new() };
        let model = model(&mut keys, architecture, hidden_act)?;
        keys.finish()?;
        model.validate()?;
        let activation_quantizer =
            if int8 { ActivationQuantizer::Int8 } else { ActivationQuantizer::None };
        Ok(Self { model, activation_quantizer })
    }
}

fn model(
    keys: &mut Keys<'_, '_>,
    architecture: Architecture,
    hidden_act: HiddenAct,
) -> Result<ModelConfig> {
    let gpt2 = architecture == Architecture::Gpt2;
    let bitnet = architecture == Architecture::Bitnet;
    let hidden_size = keys.size("embedding_length")?;
    let heads = keys.size("attention.head_count")?;
    let head_dim = match keys.optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
        None => {
            let rule = format!("must divide embedding_length ({hidden_size}), is {heads}");
            return Err(wrong(&keys.name("attention.head_count"), rule));
        }
    };
    keys.only_number("attention.value_length", head_dim)?;
    keys.only("attention.causal", "true", |value| value == Value::Bool(true))?;
    for none in ["expert_count", "expert_used_count", "attention.sliding_window"] {
        keys.only_number(none, 0)?;
    }
    let epsilon = if gpt2 { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    let epsilon = keys.float(&format!("attention.{epsilon}"))?;
    let epsilon = epsilon.ok_or_else(|| wrong(&keys.name("attention"), no_epsilon(gpt2)))?;
    let rope_theta = if gpt2 { 10_000.0 } else { keys.rope_theta(head_dim)? };
    let (token_embd, _) = keys.file.matrix("token_embd.weight")?;
    keys.only_number("vocab_size", token_embd)?;
    let preset = ModelConfig::preset(architecture);
    let biased = |parts: &[&str]| {
        let bias = |part: &&str| keys.file.tensors.contains_key(&*format!("blk.0.{part}.bias"));
        gpt2 || parts.iter().any(bias)
    };
    let attention_bias = biased(&["attn_q", "attn_k", "attn_v", "attn_output"]);
    let mlp_bias = biased(&["ffn_gate", "ffn_up", "ffn_down"]);
    Ok(ModelConfig {
        vocab_size: token_embd,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers: keys.size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.same("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        max_position_embeddings: keys.size("context_length")?,
        position: if gpt2 { Position::Learned } else { Position::Rope },
        rope_theta,
        norm: if gpt2 { Norm::Layer } else { Norm::Rms },
        final_norm: if gpt2 { Norm::Layer } else { Norm::Rms },
        rms_norm_eps: if gpt2 { preset.rms_norm_eps } else { epsilon },
        layer_norm_eps: if gpt2 { epsilon } else { preset.layer_norm_eps },
        qk_norm: false,
        sub_norm: bitnet,
        mlp_gate: !gpt2,
        hidden_act,
        attention_bias,
        mlp_bias,
        quantizer: Quantizer::None,
        activation_quantizer: ActivationQuantizer::None,
        tie_word_embeddings: !keys.file.tensors.contains_key("output.weight"),
        ternary_head: false,
        attention_initializer: AttentionInitializer::Normal,
        ..preset
    })
}

fn no_epsilon(gpt2: bool) -> String {
    format!("layer_norm_{}epsilon must be there", if gpt2 { "" } else { "rms_" })
}

impl Gguf<'_> {
    /// The sides of a tensor that must be a matrix, `[d_output, d_input]`.
    fn matrix(&self, name: &str) -> Result<(usize, usize)> {
        let view: &View<'_> = self.tensors.get(name).ok_or(Error::Missing.in_tensor(name))?;
        match view.shape[..] {
            [d_output, d_input] => Ok((d_output, d_input)),
            _ => {
                let rule = format!("must have 2 sides, has {}", view.shape.len());
                Err(Error::Rule { rule }.in_tensor(name))
            }
        }
    }
}

/// The keys of one architecture, and which of them somebody has asked for.
struct Keys<'f, 'a> {
    file: &'f Gguf<'a>,
    prefix: String,
    asked: BTreeSet<String>,
}

impl<'a> Keys<'_, 'a> {
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn optional<T: TryFrom<Value<'a>, Error = String>>(&mut self, key: &str) -> Result<Option<T>> {
        let name = self.name(key);
        let found = self.file.find(&name)?;
        self.asked.insert(name);
        Ok(found)
    }

    /// A number, or one for each layer, all the same.
    fn same(&mut self, key: &str) -> Result<Option<usize>> {
        let name = self.name(key);
        let Some(Value::Array(array)) = self.file.metadata.get(&*name) else {
            return self.optional(key);
        };
        self.asked.insert(name.clone());
        let mut values = array.values();
        let first = values.next().ok_or_else(|| wrong(&name, "must not be empty"))?;
        if values.any(|value| value != first) {
            return Err(wrong(&name, "must be the same for every layer"));
        }
        usize::try_from(first).map(Some).map_err(|rule| wrong(&name, rule))
    }

    fn size(&mut self, key: &str) -> Result<usize> {
        let size = self.same(key)?;
        size.ok_or_else(|| wrong(&self.name(key), "must be there"))
    }

    /// A float, as the shortest decimal of its single precision: what its writer had in mind.
    fn float(&mut self, key: &str) -> Result<Option<f64>> {
        let value: Option<f64> = self.optional(key)?;
        Ok(value.map(|value| (value as f32).to_string().parse().unwrap_or(value)))
    }

    /// A key that may say but one thing.
    fn only(&mut self, key: &str, says: &str, holds: impl Fn(Value<'a>) -> bool) -> Result<()> {
        let name = self.name(key);
        self.asked.insert(name.clone());
        match self.file.metadata.get(&*name) {
            Some(&value) if !holds(value) => Err(must_be(&name, says, &value)),
            _ => Ok(()),
        }
    }

    fn only_number(&mut self, key: &str, number: usize) -> Result<()> {
        self.only(key, &number.to_string(), |value| {
            usize::try_from(value).is_ok_and(|value| value == number)
        })
    }

    /// The base of the rotary angles, which must turn whole heads and not be stretched.
    fn rope_theta(&mut self, head_dim: usize) -> Result<f64> {
        self.only_number("rope.dimension_count", head_dim)?;
        // llama.cpp reads a factor of 0 as none.
        let none = |value| f64::try_from(value).is_ok_and(|value| value == 0.0 || value == 1.0);
        for factor in ["rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor"] {
            self.only(factor, "1", none)?;
        }
        // A linear scaling with the factor 1.
        self.only("rope.scaling.type", "none", |value| {
            [Value::String("none"), Value::String("linear")].contains(&value)
        })?;
        Ok(self.float("rope.freq_base")?.unwrap_or(10_000.0))
    }

    /// Refuses what nobody has asked for, unless it changes nothing.
    fn finish(mut self) -> Result<()> {
        // How the file that this one was made of ordered the rows of Q and K; here they have one order.
        let layout = "Meta AI original pth";
        self.only("tensor_data_layout", layout, |value| value == Value::String(layout))?;
        let left = self.file.metadata.iter().find(|(key, _)| {
            let part = key.strip_prefix(&*self.prefix);
            part.is_some_and(|part| !IGNORED.contains(&part)) && !self.asked.contains(**key)
        });
        match left {
            None => Ok(()),
            Some((key, value)) => Err(unknown(key, value)),
        }
    }
}

/// Where a file keeps what this program keeps under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tensor's name in the file.
    pub name: String,
    /// Which of its rows is each of ours.
    pub rows: Rows,
}

/// Rows of a tensor; a vector has rows of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All, in their order.
    All,
    /// Those from one on.
    From(usize),
    /// All; in each head of so many, the two elements of a pair are neighbours, where ours are half a head apart.
    Pairs(usize),
}

impl Source {
    /// The place of a tensor of this program; none if the architecture has no such.
    pub fn of(name: &str, model: &ModelConfig) -> Option<Self> {
        let gpt2 = model.architecture == Architecture::Gpt2;
        let tops = [
            ("model.embed_tokens.", "token_embd."),
            ("model.embed_positions.", "position_embd."),
            ("model.norm.", "output_norm."),
            ("lm_head.", "output."),
        ];
        if let Some((ours, theirs)) = tops.iter().find(|(ours, _)| name.starts_with(ours)) {
            return Some(Self { name: name.replacen(ours, theirs, 1), rows: Rows::All });
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let third = model.num_attention_heads * model.head_dim;
        let pairs = match model.architecture {
            Architecture::Llama => Rows::Pairs(model.head_dim),
            _ => Rows::All,
        };
        let (part, end) = part.rsplit_once('.')?;
        let (part, rows) = match part {
            "input_layernorm" => ("attn_norm", Rows::All),
            "post_attention_layernorm" => ("ffn_norm", Rows::All),
            "self_attn.q_proj" if gpt2 => ("attn_qkv", Rows::From(0)),
            "self_attn.k_proj" if gpt2 => ("attn_qkv", Rows::From(third)),
            "self_attn.v_proj" if gpt2 => ("attn_qkv", Rows::From(2 * third)),
            "self_attn.q_proj" => ("attn_q", pairs),
            "self_attn.k_proj" => ("attn_k", pairs),
            "self_attn.v_proj" => ("attn_v", Rows::All),
            "self_attn.o_proj" => ("attn_output", Rows::All),
            "self_attn.attn_sub_norm" => ("attn_sub_norm", Rows::All),
            "mlp.ffn_sub_norm" => ("ffn_sub_norm", Rows::All),
            "mlp.gate_proj" => ("ffn_gate", Rows::All),
            "mlp.up_proj" => ("ffn_up", Rows::All),
            "mlp.down_proj" => ("ffn_down", Rows::All),
            _ => return None,
        };
        Some(Self { name: format!("blk.{layer}.{part}.{end}"), rows })
    }

    /// How many rows the file's tensor must have, where ours has so many.
    pub fn file_rows(&self, ours: usize) -> usize {
        if matches!(self.rows, Rows::From(_)) { 3 * ours } else { ours }
    }

    /// The row of the file for each of ours.
    pub fn rows(&self, ours: usize) -> Vec<usize> {
        let row = |row: usize| match self.rows {
            Rows::All => row,
            Rows::From(first) => first + row,
            Rows::Pairs(head_dim) => {
                let (head, place) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + 2 * (place % half) + place / half
            }
        };
        (0..ours).map(row).collect()
    }
}

/// An array of numbers as floats.
pub(super) fn floats(array: Array<'_>) -> Result<Vec<f32>, String> {
    if array.kind() != Kind::F32 {
        return Err(format!("must be an array of F32, is one of {:?}", array.kind()));
    }
    let float = |value| f64::try_from(value).map(|value| value as f32);
    array.values().map(float).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_pair_are_taken_half_a_head_apart() {
        let model = ModelConfig { head_dim: 4, ..ModelConfig::preset(Architecture::Llama) };
        let source = Source::of("model.layers.3.self_attn.q_proj.weight", &model).unwrap();
        assert_eq!(source.name, "blk.3.attn_q.weight");
        assert_eq!(source.rows(8), [0, 2, 1, 3, 4, 6, 5, 7]);
        let bitnet = ModelConfig { architecture: Architecture::Bitnet, ..model };
        let source = Source::of("model.layers.3.self_attn.q_proj.weight", &bitnet).unwrap();
        assert_eq!(source.rows(3), [0, 1, 2]);
    }

    #[test]
    fn the_parts_of_a_fused_matrix_are_its_thirds() {
        let model = ModelConfig::preset(Architecture::Gpt2);
        let source = Source::of("model.layers.0.self_attn.v_proj.bias", &model).unwrap();
        assert_eq!(
            source,
            Source { name: "blk.0.attn_qkv.bias".into(), rows: Rows::From(2 * 768) }
        );
        assert_eq!((source.file_rows(768), source.rows(2)), (2304, vec![1536, 1537]));
        assert_eq!(Source::of("model.norm.bias", &model).unwrap().name, "output_norm.bias");
        assert_eq!(
            Source::of("model.embed_positions.weight", &model).unwrap().name,
            "position_embd.weight"
        );
        assert_eq!(Source::of("model.layers.0.self_attn.q_norm.weight", &model), None);
    }
}
