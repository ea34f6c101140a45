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
    /// tiny-tiny-stories (huggingface.co/hidude562/tiny-tiny-stories): RoPE, RMSNorm, SwiGLU, ternary weights, float activations, tied float head.
    Bitlm,
    /// BitGPT of the project MiniLM (github.com/0sparsh2/MiniLM), not Microsoft's MiniLM: learned positions, RMSNorm in the
    /// blocks and LayerNorm at the end, SwiGLU, W1.58A8, tied ternary head.
    Bitgpt,
    /// GPT-2 with ternary linear layers (huggingface.co/Chris4K/bitnet-gpt2-1.58bit): learned positions, LayerNorm, GELU,
    /// biases, float activations.
    Gpt2,
    /// BitNet b1.58 2B4T (arXiv:2504.12285, huggingface.co/microsoft/bitnet-b1.58-2B-4T): RoPE, RMSNorm and sub-norms, gated
    /// squared ReLU, W1.58A8.
    Bitnet,
    /// LLaMA (arXiv:2302.13971): the decoder of `bitlm` with float weights.
    Llama,
    /// Tern's own, for experiments: `bitnet` with normalized queries and keys.
    Tern,
}

/// How a token knows its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Queries and keys are rotated (RoPE, arXiv:2104.09864).
    Rope,
    /// A vector for each place is added to the embedding.
    Learned,
}

/// What brings activations to one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Divides by the root mean square, times a gain (RMSNorm, arXiv:1910.07467).
    Rms,
    /// Takes the mean off as well, and adds a bias (LayerNorm, arXiv:1607.06450).
    Layer,
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
    /// `k = 1 / (mean|w| + 1e-8)`, and in training gradients through the scales of both sides, none through the clamp
    /// (MiniLM, github.com/0sparsh2/MiniLM).
    #[serde(rename = "minilm")]
    MiniLm,
}

impl Quantizer {
    /// What the formula adds to `max(mean|w|, 1e-5)` before it divides.
    pub fn extra_eps(self) -> f64 {
        match self {
            Self::None | Self::B158 => 0.0,
            Self::Seed1 => 1e-5,
            Self::MiniLm => 1e-8,
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
    /// `max(x, 0)^2`.
    Relu2,
    /// `x * Phi(x)`, by the approximation with `tanh` (GPT-2's).
    Gelu,
}

/// The name of the embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the learned positions.
pub const POSITIONS: &str = "model.embed_positions.weight";
/// The name of a head that is not the embedding.
pub const HEAD: &str = "lm_head.weight";

/// A linear layer of a block, by the name of its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// As in Hugging Face's LLaMA: `self_attn.q_proj`, …
    pub name: &'static str,
    /// Outputs.
    pub d_output: usize,
    /// Inputs.
    pub d_input: usize,
    /// Whether something is added to its outputs.
    pub bias: bool,
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
    /// How a token knows its place.
    pub position: Position,
    /// Base of the rotary angles. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_theta: f64,
    /// The norms of the blocks.
    pub norm: Norm,
    /// The norm after the last block.
    pub final_norm: Norm,
    /// Added to the mean square inside the root, in every RMSNorm. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rms_norm_eps: f64,
    /// Added to the variance inside the root, in every LayerNorm. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub layer_norm_eps: f64,
    /// Whether each head's queries and keys pass an RMSNorm before they are rotated (arXiv:2010.04245).
    pub qk_norm: bool,
    /// Whether an RMSNorm stands before the output projections of attention and feed-forward (arXiv:2504.12285).
    pub sub_norm: bool,
    /// Whether the feed-forward block multiplies by a gate.
    pub mlp_gate: bool,
    /// Non-linearity of the feed-forward block: of its gate, where it has one.
    pub hidden_act: HiddenAct,
    /// Whether the linear layers of attention have biases.
    pub attention_bias: bool,
    /// Whether the linear layers of the feed-forward block have biases.
    pub mlp_bias: bool,
    /// How the linear layers of the blocks ternarize their weights.
    pub quantizer: Quantizer,
    /// How those layers quantize their inputs.
    pub activation_quantizer: ActivationQuantizer,
    /// Whether queries, keys and values are one matrix to the quantizer, with one scale, as GPT-2's `c_attn` is.
    #[serde(default)]
    pub fused_qkv: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the head is a ternary layer like those of the blocks; a tied one has the embedding's latent weights, and
    /// trits of its own.
    pub ternary_head: bool,
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
            position: Position::Rope,
            rope_theta: 10_000.0,
            norm: Norm::Rms,
            final_norm: Norm::Rms,
            rms_norm_eps: 1e-6,
            layer_norm_eps: 1e-5,
            qk_norm: false,
            sub_norm: false,
            mlp_gate: true,
            hidden_act: HiddenAct::Silu,
            attention_bias: false,
            mlp_bias: false,
            quantizer: Quantizer::B158,
            activation_quantizer: ActivationQuantizer::None,
            fused_qkv: false,
            tie_word_embeddings: true,
            ternary_head: false,
            initializer_range: 0.02,
            attention_initializer: AttentionInitializer::Normal,
        };
        match architecture {
            Architecture::Bitlm => bitlm,
            Architecture::Llama => Self { quantizer: Quantizer::None, ..bitlm },
            Architecture::Bitgpt => Self {
                vocab_size: 49_152,
                hidden_size: 256,
                intermediate_size: 1_024,
                num_hidden_layers: 12,
                head_dim: 64,
                max_position_embeddings: 2_048,
                position: Position::Learned,
                final_norm: Norm::Layer,
                activation_quantizer: ActivationQuantizer::Int8,
                ternary_head: true,
                ..bitlm
            },
            Architecture::Gpt2 => Self {
                vocab_size: 50_257,
                hidden_size: 768,
                intermediate_size: 3_072,
                num_hidden_layers: 12,
                num_attention_heads: 12,
                num_key_value_heads: 12,
                head_dim: 64,
                max_position_embeddings: 1_024,
                position: Position::Learned,
                norm: Norm::Layer,
                final_norm: Norm::Layer,
                mlp_gate: false,
                hidden_act: HiddenAct::Gelu,
                attention_bias: true,
                mlp_bias: true,
                quantizer: Quantizer::Seed1,
                fused_qkv: true,
                ..bitlm
            },
            Architecture::Bitnet => Self {
                vocab_size: 128_256,
                hidden_size: 2_560,
                intermediate_size: 6_912,
                num_hidden_layers: 30,
                num_attention_heads: 20,
                num_key_value_heads: 5,
                head_dim: 128,
                max_position_embeddings: 4_096,
                rope_theta: 500_000.0,
                rms_norm_eps: 1e-5,
                sub_norm: true,
                hidden_act: HiddenAct::Relu2,
                activation_quantizer: ActivationQuantizer::Int8,
                ..bitlm
            },
            Architecture::Tern => Self {
                hidden_size: 256,
                intermediate_size: 768,
                num_hidden_layers: 8,
                head_dim: 64,
                rms_norm_eps: 1e-5,
                qk_norm: true,
                sub_norm: true,
                hidden_act: HiddenAct::Relu2,
                activation_quantizer: ActivationQuantizer::Int8,
                ..bitlm
            },
        }
    }

    /// Whether the linear layers of the blocks are ternary.
    pub fn is_ternary(&self) -> bool {
        self.quantizer != Quantizer::None
    }

    /// The linear layers of attention in one block, in the order of the forward pass.
    pub fn attention_linears(&self) -> [LinearShape; 4] {
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        let linear = |name, d_output, d_input| LinearShape {
            name,
            d_output,
            d_input,
            bias: self.attention_bias,
        };
        [
            linear("self_attn.q_proj", query, self.hidden_size),
            linear("self_attn.k_proj", key_value, self.hidden_size),
            linear("self_attn.v_proj", key_value, self.hidden_size),
            linear("self_attn.o_proj", self.hidden_size, query),
        ]
    }

    /// The linear layers of the feed-forward part of one block: the gate, where there is one, then up and down.
    pub fn mlp_linears(&self) -> (Option<LinearShape>, [LinearShape; 2]) {
        let linear =
            |name, d_output, d_input| LinearShape { name, d_output, d_input, bias: self.mlp_bias };
        let gate = linear("mlp.gate_proj", self.intermediate_size, self.hidden_size);
        let up = linear("mlp.up_proj", self.intermediate_size, self.hidden_size);
        let down = linear("mlp.down_proj", self.hidden_size, self.intermediate_size);
        (self.mlp_gate.then_some(gate), [up, down])
    }

    /// All linear layers of one block, in the order of the forward pass.
    pub fn block_linears(&self) -> Vec<LinearShape> {
        let (gate, rest) = self.mlp_linears();
        self.attention_linears().into_iter().chain(gate).chain(rest).collect()
    }

    /// Whether a tensor is a linear layer of a block, which a quantizer makes ternary.
    pub fn is_block_linear(&self, name: &str) -> bool {
        let part = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let part = part.and_then(|(_, part)| part.strip_suffix(".weight"));
        self.block_linears().iter().any(|linear| part == Some(linear.name))
    }

    /// Whether a tensor is ternary: a linear layer of a block, or the head where the config says so, under a quantizer.
    pub fn is_ternary_matrix(&self, name: &str) -> bool {
        let is_head = self.ternary_head && name == HEAD;
        self.is_ternary() && (is_head || self.is_block_linear(name))
    }

    /// The ternary matrices with their shapes, in the order of the forward pass, by what is one matrix to the quantizer and has
    /// one scale: queries, keys and values of a block where [`Self::fused_qkv`] says so, and every other alone.
    pub fn ternary_groups(&self) -> Vec<Vec<(String, Vec<usize>)>> {
        let is_inner =
            |name: &str| [".k_proj.weight", ".v_proj.weight"].iter().any(|end| name.ends_with(end));
        let mut groups: Vec<Vec<_>> = Vec::new();
        for (name, shape) in self.tensors() {
            match groups.last_mut() {
                _ if !self.is_ternary_matrix(&name) => {}
                Some(group) if self.fused_qkv && is_inner(&name) => group.push((name, shape)),
                _ => groups.push(vec![(name, shape)]),
            }
        }
        groups
    }

    /// Whether the head has a tensor of its own.
    pub fn has_head(&self) -> bool {
        !self.tie_word_embeddings || self.ternary_head
    }

    /// Every tensor of the model with its shape, in the order of the forward pass; matrices are `[d_output, d_input]`.
    ///
    /// The names are Hugging Face's for LLaMA: `model.layers.0.self_attn.q_proj.weight`, …
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![(EMBEDDING.into(), vec![self.vocab_size, self.hidden_size])];
        if self.position == Position::Learned {
            let shape = vec![self.max_position_embeddings, self.hidden_size];
            all.push((POSITIONS.into(), shape));
        }
        let norm = |name: String, kind: Norm| {
            let bias = (kind == Norm::Layer).then(|| format!("{name}.bias"));
            let names = [format!("{name}.weight")].into_iter().chain(bias);
            names.map(|name| (name, vec![self.hidden_size])).collect::<Vec<_>>()
        };
        for layer in 0..self.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let linear = |linear: LinearShape| {
                let bias = (name(linear.name) + ".bias", vec![linear.d_output]);
                let weight = (name(linear.name) + ".weight", vec![linear.d_output, linear.d_input]);
                [weight].into_iter().chain(linear.bias.then_some(bias))
            };
            let gain = |part: &str, width| (name(part) + ".weight", vec![width]);
            let [q, k, v, o] = self.attention_linears();
            let width = o.d_input;
            all.extend(norm(name("input_layernorm"), self.norm));
            all.extend([q, k, v].into_iter().flat_map(linear));
            if self.qk_norm {
                all.push(gain("self_attn.q_norm", self.head_dim));
                all.push(gain("self_attn.k_norm", self.head_dim));
            }
            if self.sub_norm {
                all.push(gain("self_attn.attn_sub_norm", width));
            }
            all.extend(linear(o));
            all.extend(norm(name("post_attention_layernorm"), self.norm));
            let (gate, [up, down]) = self.mlp_linears();
            all.extend(gate.into_iter().chain([up]).flat_map(linear));
            if self.sub_norm {
                all.push(gain("mlp.ffn_sub_norm", self.intermediate_size));
            }
            all.extend(linear(down));
        }
        all.extend(norm("model.norm".into(), self.final_norm));
        if self.has_head() {
            all.push((HEAD.into(), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.tensors()
            .iter()
            .filter(|(name, _)| !(self.tie_word_embeddings && name == HEAD))
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
            self.position != Position::Rope || self.head_dim.is_multiple_of(2),
            "head_dim",
            &format!("must be even for rotary positions, is {}", self.head_dim),
        )?;
        for (key, value) in [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("layer_norm_eps", self.layer_norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            // Training and inference compute in single precision.
            let holds = value > 0.0 && (value as f32).is_finite();
            let must = "must be positive and finite in single precision";
            rule(holds, key, &format!("{must}, is {value:?}"))?;
        }
        rule(
            self.is_ternary() || !self.ternary_head,
            "ternary_head",
            "must be false where quantizer is \"none\"",
        )?;
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
    fn presets_have_the_published_numbers_of_parameters() {
        for (architecture, parameters) in [
            (Architecture::Bitlm, 998_784),
            (Architecture::Bitgpt, 25_696_768),
            (Architecture::Gpt2, 124_439_808),
            (Architecture::Bitnet, 2_412_820_480),
        ] {
            let preset = ModelConfig::preset(architecture);
            assert_eq!(preset.parameters(), parameters, "{architecture:?}");
            preset.validate().unwrap();
        }
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
    fn ternary_matrices_are_grouped_by_their_scales() {
        let sizes = |config: &ModelConfig| -> Vec<usize> {
            config.ternary_groups().iter().map(Vec::len).collect()
        };
        let gpt2 = ModelConfig { num_hidden_layers: 2, ..ModelConfig::preset(Architecture::Gpt2) };
        assert_eq!(sizes(&gpt2), [3, 1, 1, 1].repeat(2));
        let names: Vec<_> = gpt2.ternary_groups()[4].iter().map(|(name, _)| name.clone()).collect();
        let part = |part| format!("model.layers.1.self_attn.{part}_proj.weight");
        assert_eq!(names, ["q", "k", "v"].map(part));
        assert_eq!(sizes(&ModelConfig { fused_qkv: false, ..gpt2.clone() }), [1; 12]);
        assert!(sizes(&ModelConfig { quantizer: Quantizer::None, ..gpt2 }).is_empty());
        // The head is the last.
        let bitgpt = ModelConfig::preset(Architecture::Bitgpt);
        assert_eq!(bitgpt.ternary_groups().last().unwrap()[0].0, HEAD);
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let mut config = ModelConfig::preset(Architecture::Bitlm);
        config.num_key_value_heads = 3;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("num_key_value_heads"), "{error}");
    }
}
