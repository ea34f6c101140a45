//! Directories as Hugging Face's `transformers` saves them: what `config.json` and the names of tensors mean.
//!
//! Three kinds of model are read and written: `llama`, `bitnet` (BitNet b1.58 2B4T) and `gpt2`. Every key of the configuration is
//! honoured, known to change nothing, or refused by name.

mod card;
mod tokenizer;
mod write;

pub use card::SIGNATURE;
pub use write::{Directory, Storage, export, pack};

use serde_json::{Map, Value};

use crate::config::{
    ActivationQuantizer, Architecture, AttentionInitializer, HiddenAct, ModelConfig, Norm,
    Position, Quantizer,
};
use crate::error::{Error, Result, quoted};
use crate::foreign_keys::{must_be, unknown, wrong};

/// How a directory stores its linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// As floats that are used as they are.
    Float,
    /// As floats that the model ternarizes whenever it runs.
    Latent,
    /// As trits, four to a byte, with a scale that the product is multiplied by, or else divided by.
    Packed {
        /// Whether it is divided by the scale.
        divides: bool,
    },
}

/// What a `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture.
    pub model: ModelConfig,
    /// How the linear layers are stored.
    pub weights: Weights,
    /// The id that begins a document.
    pub bos: Option<u32>,
    /// The id that ends a document: the first, where there are several.
    pub eos: Option<u32>,
}

/// Keys that change nothing in what a model computes when it only reads.
const IGNORED: [&str; 34] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "rope_interleaved",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
];

impl Config {
    /// Reads the text of a `config.json`. Of a key that stands there twice the last counts, as for `transformers`.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] with the key that is missing, of another kind, or says what is not to be had here.
    pub fn parse(json: &str) -> Result<Self> {
        let value = serde_json::from_str(json).map_err(|source| Error::Json { source })?;
        let Value::Object(map) = value else {
            return Err(Error::Rule { rule: "must be a JSON object".into() });
        };
        let mut keys = Keys(map);
        let kind: String = keys.required("model_type")?;
        let (mut model, quantized) = match kind.as_str() {
            "llama" => llama(&mut keys, Architecture::Llama)?,
            "bitnet" => llama(&mut keys, Architecture::Bitnet)?,
            "gpt2" => (gpt2(&mut keys)?, None),
            _ => {
                let rule =
                    format!("must be \"llama\", \"bitnet\" or \"gpt2\", is {}", quoted(&kind));
                return Err(wrong("model_type", rule));
            }
        };
        let weights = quantized.unwrap_or(Weights::Float);
        if weights != Weights::Float {
            model.quantizer = Quantizer::B158;
            model.activation_quantizer = ActivationQuantizer::Int8;
        }
        let (bos, eos) = (keys.id("bos_token_id")?, keys.id("eos_token_id")?);
        keys.finish()?;
        model.validate()?;
        Ok(Self { model, weights, bos, eos })
    }
}

/// The keys of `llama` and `bitnet`, which differ in sub-norms and defaults.
fn llama(keys: &mut Keys, architecture: Architecture) -> Result<(ModelConfig, Option<Weights>)> {
    let bitnet = architecture == Architecture::Bitnet;
    let hidden_size = keys.size("hidden_size")?;
    let heads = keys.size("num_attention_heads")?;
    let head_dim = match keys.optional("head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
        None => {
            let rule = format!("must divide hidden_size ({hidden_size}), is {heads}");
            return Err(wrong("num_attention_heads", rule));
        }
    };
    let default_act = if bitnet { "relu2" } else { "silu" };
    let act = keys.optional("hidden_act")?.unwrap_or_else(|| default_act.to_owned());
    let model = ModelConfig {
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: keys.size("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.optional("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        max_position_embeddings: keys.size("max_position_embeddings")?,
        position: Position::Rope,
        rope_theta: keys.rope_theta(if bitnet { 500_000.0 } else { 10_000.0 })?,
        norm: Norm::Rms,
        final_norm: Norm::Rms,
        rms_norm_eps: keys.optional("rms_norm_eps")?.unwrap_or(if bitnet { 1e-5 } else { 1e-6 }),
        qk_norm: false,
        sub_norm: bitnet,
        mlp_gate: true,
        hidden_act: hidden_act("hidden_act", &act)?,
        attention_bias: keys.optional("attention_bias")?.unwrap_or(false),
        mlp_bias: keys.optional("mlp_bias")?.unwrap_or(false),
        quantizer: Quantizer::None,
        activation_quantizer: ActivationQuantizer::None,
        tie_word_embeddings: keys.optional("tie_word_embeddings")?.unwrap_or(bitnet),
        ternary_head: false,
        attention_initializer: AttentionInitializer::Normal,
        ..ModelConfig::preset(architecture)
    };
    keys.only("pretraining_tp", &[Value::from(1)])?;
    keys.only("use_cache", &[Value::Bool(true), Value::Bool(false)])?;
    let weights = keys.quantization()?;
    Ok((model, weights))
}

fn gpt2(keys: &mut Keys) -> Result<ModelConfig> {
    let hidden_size = keys.size("n_embd")?;
    let heads = keys.size("n_head")?;
    if heads == 0 || hidden_size % heads != 0 {
        return Err(wrong("n_head", format!("must divide n_embd ({hidden_size}), is {heads}")));
    }
    let act = keys.optional("activation_function")?.unwrap_or_else(|| "gelu_new".to_owned());
    keys.only("scale_attn_weights", &[Value::Bool(true)])?;
    keys.only("scale_attn_by_inverse_layer_idx", &[Value::Bool(false)])?;
    keys.only("use_cache", &[Value::Bool(true), Value::Bool(false)])?;
    Ok(ModelConfig {
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.optional("n_inner")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: keys.size("n_layer")?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden_size / heads,
        max_position_embeddings: keys.size("n_positions")?,
        layer_norm_eps: keys.optional("layer_norm_epsilon")?.unwrap_or(1e-5),
        hidden_act: hidden_act("activation_function", &act)?,
        quantizer: Quantizer::None,
        tie_word_embeddings: keys.optional("tie_word_embeddings")?.unwrap_or(true),
        ..ModelConfig::preset(Architecture::Gpt2)
    })
}

fn hidden_act(key: &str, name: &str) -> Result<HiddenAct> {
    Ok(match name {
        "silu" | "swish" => HiddenAct::Silu,
        "relu2" => HiddenAct::Relu2,
        "gelu_new" | "gelu_pytorch_tanh" => HiddenAct::Gelu,
        _ => {
            let rule = "must be \"silu\", \"relu2\" or \"gelu_new\"";
            return Err(wrong(key, format!("{rule}, is {}", quoted(name))));
        }
    })
}

/// The keys that nobody has asked for yet.
struct Keys(Map<String, Value>);

impl Keys {
    fn take<T: serde::de::DeserializeOwned>(value: Value, key: &str) -> Result<T> {
        serde_json::from_value(value).map_err(|error| wrong(key, error.to_string()))
    }

    fn optional<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Self::take(value, key).map(Some),
        }
    }

    fn required<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| wrong(key, "must be there"))
    }

    fn size(&mut self, key: &str) -> Result<usize> {
        self.required(key)
    }

    /// An id, or the first of several.
    fn id(&mut self, key: &str) -> Result<Option<u32>> {
        match self.0.remove(key) {
            Some(Value::Array(ids)) => {
                ids.into_iter().next().map(|id| Self::take(id, key)).transpose()
            }
            None | Some(Value::Null) => Ok(None),
            Some(id) => Self::take(id, key).map(Some),
        }
    }

    /// A key that may say but some things.
    fn only(&mut self, key: &str, allowed: &[Value]) -> Result<()> {
        match self.0.remove(key) {
            Some(value) if !value.is_null() && !allowed.contains(&value) => {
                let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
                Err(must_be(key, &allowed.join(" or "), &value))
            }
            _ => Ok(()),
        }
    }

    /// The base of the rotary angles, which older files have at the top and newer ones in a table.
    fn rope_theta(&mut self, default: f64) -> Result<f64> {
        let mut theta = self.optional("rope_theta")?;
        for key in ["rope_parameters", "rope_scaling"] {
            let Some(table) = self.optional::<Map<String, Value>>(key)? else { continue };
            let mut table = Self(table);
            theta = table.optional("rope_theta")?.or(theta);
            for kind in ["rope_type", "type"] {
                table.only(kind, &[Value::from("default")])?;
            }
            table.finish().map_err(|error| match error {
                Error::Metadata { key: inner, rule } => wrong(&format!("{key}.{inner}"), rule),
                error => error,
            })?;
        }
        Ok(theta.unwrap_or(default))
    }

    fn quantization(&mut self) -> Result<Option<Weights>> {
        let Some(table) = self.optional::<Map<String, Value>>("quantization_config")? else {
            return Ok(None);
        };
        let mut table = Self(table);
        table.only("quant_method", &[Value::from("bitnet")])?;
        table.only("modules_to_not_convert", &[Value::Array(Vec::new())])?;
        table.only("use_rms_norm", &[Value::Bool(false)])?;
        table.0.remove("rms_norm_eps");
        let class = table.optional("linear_class")?.unwrap_or_else(|| "bitlinear".to_owned());
        let mode = table.optional("quantization_mode")?.unwrap_or_else(|| "offline".to_owned());
        table.finish()?;
        match (class.as_str(), mode.as_str()) {
            ("bitlinear", "offline") => Ok(Some(Weights::Packed { divides: true })),
            ("autobitlinear", "offline") => Ok(Some(Weights::Packed { divides: false })),
            ("autobitlinear", "online") => Ok(Some(Weights::Latent)),
            _ => {
                let rule = format!("{} in mode {} is not read", quoted(&class), quoted(&mode));
                Err(wrong("quantization_config.linear_class", rule))
            }
        }
    }

    /// Refuses what nobody has asked for, unless it changes nothing.
    fn finish(self) -> Result<()> {
        let says = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        let left =
            self.0.iter().find(|(key, value)| says(value) && !IGNORED.contains(&key.as_str()));
        match left {
            None => Ok(()),
            Some((key, value)) => Err(unknown(key, value)),
        }
    }
}

/// Where a file of transformers keeps what this program keeps under a name. Those of `gpt2` have matrices
/// `[d_input, d_output]`, and three layers in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tensor's name in the file, without the prefix `transformer.` or `model.`.
    pub name: String,
    /// Whether it is the transpose.
    pub transposed: bool,
    /// Which third of the outputs it is, where three layers are one.
    pub third: Option<usize>,
}

/// The place of a tensor of this program in a directory of its kind.
pub fn source(name: &str, architecture: Architecture) -> Source {
    let plain = |name: &str| Source { name: name.into(), transposed: false, third: None };
    if architecture != Architecture::Gpt2 {
        return plain(name.strip_prefix("model.").unwrap_or(name));
    }
    let tops = [
        ("model.embed_tokens.", "wte."),
        ("model.embed_positions.", "wpe."),
        ("model.norm.", "ln_f."),
    ];
    if let Some((ours, theirs)) = tops.iter().find(|(ours, _)| name.starts_with(ours)) {
        return plain(&name.replacen(ours, theirs, 1));
    }
    let Some((layer, part)) =
        name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
    else {
        return plain(name);
    };
    let parts = [
        ("input_layernorm.", "ln_1.", None),
        ("post_attention_layernorm.", "ln_2.", None),
        ("self_attn.q_proj.", "attn.c_attn.", Some(0)),
        ("self_attn.k_proj.", "attn.c_attn.", Some(1)),
        ("self_attn.v_proj.", "attn.c_attn.", Some(2)),
        ("self_attn.o_proj.", "attn.c_proj.", None),
        ("mlp.up_proj.", "mlp.c_fc.", None),
        ("mlp.down_proj.", "mlp.c_proj.", None),
    ];
    match parts.iter().find(|(ours, ..)| part.starts_with(ours)) {
        Some(&(ours, theirs, third)) => Source {
            name: format!("h.{layer}.{}", part.replacen(ours, theirs, 1)),
            transposed: part.ends_with("_proj.weight"),
            third,
        },
        None => plain(name),
    }
}

/// The trits of a packed matrix: bits `2 i` and `2 i + 1` of byte `[r, c]` are the code (`trit + 1`) of row
/// `r + i * d_output / 4`, column `c` (`transformers`' `pack_weights`).
///
/// # Shapes
///
/// - `bytes`: `[d_output / 4, d_input]`; returns `[d_output, d_input]`
///
/// # Errors
///
/// [`Error::Count`] if there are more or fewer bytes, [`Error::Code`] for a code 3.
pub fn unpack(bytes: &[u8], d_output: usize, d_input: usize) -> Result<Vec<i8>> {
    let expected = d_output as u64 / 4 * d_input as u64;
    if !d_output.is_multiple_of(4) || bytes.len() as u64 != expected {
        let found = bytes.len() as u64;
        return Err(Error::Count { unit: "bytes", expected, found });
    }
    let mut trits = Vec::with_capacity(4 * bytes.len());
    for i in 0..4 {
        trits.extend(bytes.iter().map(|byte| (byte >> (2 * i) & 3) as i8 - 1));
    }
    match trits.iter().position(|&trit| trit > 1) {
        Some(at) => Err(Error::Code { row: at / d_input, column: at % d_input }),
        None => Ok(trits),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 160, "hidden_size": 48, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 64}"#;

    fn with(keys: &str) -> Result<Config> {
        Config::parse(&LLAMA.replacen('}', &format!(", {keys}}}"), 1))
    }

    #[test]
    fn every_key_is_honoured_known_to_change_nothing_or_refused() {
        let plain = Config::parse(LLAMA).unwrap();
        let ModelConfig { head_dim, num_key_value_heads, tie_word_embeddings, .. } = plain.model;
        assert_eq!((head_dim, num_key_value_heads, tie_word_embeddings), (8, 6, false));
        assert_eq!((plain.weights, plain.bos, plain.eos), (Weights::Float, None, None));
        let config =
            with(r#""rope_theta": 7.0, "eos_token_id": [2, 3], "bos_token_id": 1"#).unwrap();
        assert_eq!((config.model.rope_theta, config.bos, config.eos), (7.0, Some(1), Some(2)));
        let newer = r#""rope_parameters": {"rope_type": "default", "rope_theta": 9.0}"#;
        assert_eq!(with(newer).unwrap().model.rope_theta, 9.0);
        assert_eq!(with(r#""hidden_act": "relu2""#).unwrap().model.hidden_act, HiddenAct::Relu2);
        assert!(with(r#""torch_dtype": "bfloat16", "use_cache": true, "new_key": null"#).is_ok());
        for (keys, words) in [
            (r#""hidden_act": "mish""#, "`hidden_act`: must be \"silu\""),
            (r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0}"#, "must be \"default\""),
            (r#""rope_parameters": {"factor": 8.0}"#, "`rope_parameters.factor`: is not known"),
            (r#""sliding_window": 4096"#, "`sliding_window`: is not known here"),
            (r#""pretraining_tp": 2"#, "`pretraining_tp`: must be 1, is 2"),
            (r#""head_dim": "x""#, "`head_dim`: invalid type"),
            (
                r#""quantization_config": {"quant_method": "gptq"}"#,
                "`quant_method`: must be \"bitnet\"",
            ),
            (
                r#""quantization_config": {"quant_method": "bitnet", "use_rms_norm": true}"#,
                "`use_rms_norm`",
            ),
            (r#""model_type": "mamba""#, "`model_type`: must be"),
            (r#""num_attention_heads": 5"#, "must divide hidden_size"),
            (r#""head_dim": 7"#, "head_dim must be even"),
        ] {
            let message = with(keys).unwrap_err().to_string();
            assert!(message.contains(words), "lacks {words:?}: {message}");
        }
        assert!(Config::parse("[]").is_err() && Config::parse("{").is_err());
    }

    #[test]
    fn the_scale_of_packed_weights_multiplies_or_divides_by_class() {
        for (table, weights) in [
            (r#"{"quant_method": "bitnet"}"#, Weights::Packed { divides: true }),
            (
                r#"{"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}"#,
                Weights::Packed { divides: false },
            ),
            (
                r#"{"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}"#,
                Weights::Latent,
            ),
        ] {
            // Published twice in one file: the last counts.
            let keys = format!("\"quantization_config\": {{}}, \"quantization_config\": {table}");
            let config = with(&keys).unwrap();
            assert_eq!(config.weights, weights);
            assert_eq!(config.model.quantizer, Quantizer::B158);
            assert_eq!(config.model.activation_quantizer, ActivationQuantizer::Int8);
        }
    }

    #[test]
    fn the_published_example_of_packing() {
        // One column of eight rows.
        let trits = unpack(&[0x42, 0xa5], 8, 1).unwrap();
        assert_eq!(trits, [1, 0, -1, 0, -1, 1, 0, 1]);
        assert!(matches!(unpack(&[3], 4, 1), Err(Error::Code { row: 0, column: 0 })));
        assert!(unpack(&[0], 8, 1).is_err() && unpack(&[0], 5, 1).is_err());
    }

    #[test]
    fn names_of_gpt2_are_found() {
        let found = source("model.layers.3.self_attn.k_proj.weight", Architecture::Gpt2);
        let expected =
            Source { name: "h.3.attn.c_attn.weight".into(), transposed: true, third: Some(1) };
        assert_eq!(found, expected);
        let found = source("model.layers.3.mlp.up_proj.bias", Architecture::Gpt2);
        assert_eq!((found.name.as_str(), found.transposed), ("h.3.mlp.c_fc.bias", false));
        assert_eq!(source("model.norm.bias", Architecture::Gpt2).name, "ln_f.bias");
        assert_eq!(source("model.norm.weight", Architecture::Llama).name, "norm.weight");
        assert_eq!(source("lm_head.weight", Architecture::Llama).name, "lm_head.weight");
    }
}
