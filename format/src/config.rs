//! The architecture of a model: one pre-norm decoder whose parts are choices.
//!
//! An architecture is a *preset* of parts. A config file or a packed model names the preset and may
//! override any part; what is stored is always the resolved whole. Keys are Hugging Face's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A preset: the parts that a published architecture is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// tiny-tiny-stories: RoPE, RMSNorm, SwiGLU, ternary weights, float activations, tied float head.
    Bitlm,
    /// LLaMA: the same decoder with float weights.
    Llama,
}

/// The formula that turns latent weights into trits and a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantizer {
    /// No quantizer: the linear layers are float.
    None,
    /// `k = 1 / max(mean|w|, 1e-5)` (BitNet b1.58, arXiv:2402.17764 section 2).
    B158,
    /// `k = 1 / (max(mean|w|, 1e-5) + 1e-5)` (bitnet-gpt2-1.58bit).
    Seed1,
}

impl Quantizer {
    /// What the formula adds to `max(mean|w|, 1e-5)` before it divides.
    pub fn extra_eps(self) -> f64 {
        match self {
            Self::None | Self::B158 => 0.0,
            Self::Seed1 => 1e-5,
        }
    }
}

/// What a linear layer does to its input before the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationQuantizer {
    /// Float activations (W1.58).
    None,
    /// Eight bits per token, absmax (W1.58A8).
    Int8,
}

/// How the output projection of attention starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionInitializer {
    /// Normally distributed, as every other matrix.
    Normal,
    /// The transposed value projection: each head begins by passing on what it looks at, so that the logits of the
    /// words in the context rise from the first step. Small models learn to copy names and things sooner.
    Copy,
}

/// The non-linearity of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x * sigmoid(x)`.
    Silu,
}

/// A resolved architecture: every part stated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The preset that the parts came from.
    pub architecture: Architecture,
    /// Rows of the embedding; without this key, `data.tokenizer.vocab_size` where that is set.
    /// Unit: tokens.
    #[schemars(range(min = 1, max = 16777216))]
    pub vocab_size: usize,
    /// Width of the residual stream. Unit: channels.
    #[schemars(range(min = 1, max = 131072))]
    pub hidden_size: usize,
    /// Width inside the feed-forward block. Unit: channels.
    #[schemars(range(min = 1, max = 131072))]
    pub intermediate_size: usize,
    /// Number of blocks. Unit: blocks.
    #[schemars(range(min = 1, max = 4096))]
    pub num_hidden_layers: usize,
    /// Query heads. Unit: heads.
    #[schemars(range(min = 1, max = 4096))]
    pub num_attention_heads: usize,
    /// Key and value heads, a divisor of the query heads; without this key, as many as those.
    /// Unit: heads.
    #[schemars(range(min = 1, max = 4096))]
    pub num_key_value_heads: usize,
    /// Width of one head, even; without this key, hidden_size / num_attention_heads.
    /// Unit: channels.
    #[schemars(range(min = 1, max = 4096))]
    pub head_dim: usize,
    /// The longest sequence. Unit: tokens.
    #[schemars(range(min = 1, max = 16777216))]
    pub max_position_embeddings: usize,
    /// Base of the rotary angles. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_theta: f64,
    /// Added to the mean square inside the root. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rms_norm_eps: f64,
    /// Non-linearity of the gated feed-forward block.
    pub hidden_act: HiddenAct,
    /// How the linear layers of the blocks ternarize their weights.
    pub quantizer: Quantizer,
    /// How those layers quantize their inputs.
    pub activation_quantizer: ActivationQuantizer,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial matrices and embeddings. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub initializer_range: f64,
    /// How the output projection of attention starts.
    pub attention_initializer: AttentionInitializer,
}

impl ModelConfig {
    /// The published shape of an architecture, every part of which may be overridden.
    pub fn preset(architecture: Architecture) -> Self {
        let bitlm = Self {
            architecture,
            vocab_size: 192,
            hidden_size: 128,
            intermediate_size: 336,
            num_hidden_layers: 5,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 32,
            max_position_embeddings: 512,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-6,
            hidden_act: HiddenAct::Silu,
            quantizer: Quantizer::B158,
            activation_quantizer: ActivationQuantizer::None,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            attention_initializer: AttentionInitializer::Normal,
        };
        match architecture {
            Architecture::Bitlm => bitlm,
            Architecture::Llama => Self { quantizer: Quantizer::None, ..bitlm },
        }
    }

    /// Whether the linear layers of the blocks are ternary.
    pub fn is_ternary(&self) -> bool {
        self.quantizer != Quantizer::None
    }

    /// The linear layers of one block, in the order of the forward pass: name, `d_output`, `d_input`.
    pub fn block_linears(&self) -> [(&'static str, usize, usize); 7] {
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        [
            ("self_attn.q_proj", query, self.hidden_size),
            ("self_attn.k_proj", key_value, self.hidden_size),
            ("self_attn.v_proj", key_value, self.hidden_size),
            ("self_attn.o_proj", self.hidden_size, query),
            ("mlp.gate_proj", self.intermediate_size, self.hidden_size),
            ("mlp.up_proj", self.intermediate_size, self.hidden_size),
            ("mlp.down_proj", self.hidden_size, self.intermediate_size),
        ]
    }

    /// Whether a tensor is a linear layer of a block, which a quantizer makes ternary.
    pub fn is_block_linear(&self, name: &str) -> bool {
        let part = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let part = part.and_then(|(_, part)| part.strip_suffix(".weight"));
        self.block_linears().iter().any(|&(linear, ..)| part == Some(linear))
    }

    /// Whether a tensor is ternary: a linear layer of a block, under a quantizer.
    pub fn is_ternary_matrix(&self, name: &str) -> bool {
        self.is_ternary() && self.is_block_linear(name)
    }

    /// Every tensor of the model with its shape, in the order of the forward pass; matrices are `[d_output, d_input]`.
    ///
    /// The names are Hugging Face's for LLaMA: `model.layers.0.self_attn.q_proj.weight`, …
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all =
            vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, self.hidden_size])];
        for layer in 0..self.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            all.push((name("input_layernorm"), vec![self.hidden_size]));
            for (part, d_output, d_input) in self.block_linears() {
                if part == "mlp.gate_proj" {
                    all.push((name("post_attention_layernorm"), vec![self.hidden_size]));
                }
                all.push((name(part), vec![d_output, d_input]));
            }
        }
        all.push(("model.norm.weight".into(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>())
            .sum()
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with the key and the rule it breaks.
    pub fn validate(&self) -> Result<()> {
        let rule = |holds: bool, key: &'static str, rule: &str| {
            if holds { Ok(()) } else { Err(Error::Config { key, rule: rule.into() }) }
        };
        // Bounds far above any model that exists keep every product below inside 64 bits.
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("intermediate_size", self.intermediate_size, 1 << 17),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ] {
            rule((1..=most).contains(&value), key, &format!("must be 1 to {most}, is {value}"))?;
        }
        rule(
            self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
            "num_key_value_heads",
            &format!(
                "must divide num_attention_heads ({}), is {}",
                self.num_attention_heads, self.num_key_value_heads
            ),
        )?;
        rule(
            self.head_dim.is_multiple_of(2),
            "head_dim",
            &format!("must be even for rotary positions, is {}", self.head_dim),
        )?;
        for (key, value) in [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            rule(value.is_finite() && value > 0.0, key, &format!("must be positive, is {value}"))?;
        }
        rule(
            self.is_ternary() || self.activation_quantizer == ActivationQuantizer::None,
            "activation_quantizer",
            "int8 activations need a ternary quantizer, and quantizer is \"none\"",
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bitlm_has_the_published_number_of_parameters() {
        assert_eq!(ModelConfig::preset(Architecture::Bitlm).parameters(), 998_784);
    }

    #[test]
    fn the_linear_layers_of_the_blocks_are_told_from_the_rest() {
        let config = ModelConfig::preset(Architecture::Bitlm);
        let names = config.tensors().into_iter().map(|(name, _)| name);
        assert_eq!(names.filter(|name| config.is_block_linear(name)).count(), 7 * 5);
        assert!(!config.is_block_linear("lm_head.weight"));
        assert!(!config.is_block_linear("model.layers.0.self_attn.q_proj.weight_scale"));
        let name = "model.layers.0.self_attn.q_proj.weight";
        assert!(config.is_ternary_matrix(name) && !config.is_ternary_matrix("lm_head.weight"));
        assert!(!ModelConfig::preset(Architecture::Llama).is_ternary_matrix(name));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let mut config = ModelConfig::preset(Architecture::Bitlm);
        config.num_key_value_heads = 3;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("num_key_value_heads"), "{error}");
    }
}
