//! A model small enough to train in a test on any device.

use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig};
use tern_model::Decoder;
use tern_train::gradients::Gradients;
use tern_train::optimizer::{Optimizer, OptimizerConfig};
use tern_train::schedule::Shares;

/// Every preset.
pub const PRESETS: [Architecture; 6] = [
    Architecture::Bitlm,
    Architecture::Bitgpt,
    Architecture::Gpt2,
    Architecture::Bitnet,
    Architecture::Llama,
    Architecture::Tern,
];

/// A preset in a shape that trains in a test, with two query heads to each key and value head.
pub fn small(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: BATCH[1],
        ..ModelConfig::preset(architecture)
    }
}

/// BitLM as [`small`] has it, with activations of eight bits.
pub fn small_with_int8() -> ModelConfig {
    let activation_quantizer = ActivationQuantizer::Int8;
    ModelConfig { activation_quantizer, ..small(Architecture::Bitlm) }
}

/// A small model in training, on random tokens.
pub struct Training {
    model: Decoder,
    optimizer: Optimizer,
    device: Device,
}

const VOCABULARY: usize = 64;
const BATCH: [usize; 2] = [4, 32];

impl Training {
    /// Initial weights, the same on every device.
    pub fn new(config: &ModelConfig, device: Device) -> Self {
        let device = device.autodiff();
        let model = Decoder::init(config, 7, &device);
        let config = OptimizerConfig { learning_rate: 1e-3, ..OptimizerConfig::default() };
        Self { model, optimizer: Optimizer::new(config), device }
    }

    /// The same with another optimizer.
    #[must_use]
    pub fn with(self, optimizer: OptimizerConfig) -> Self {
        Self { optimizer: Optimizer::new(optimizer), ..self }
    }

    /// Loss and gradient norm of a step, before its update.
    pub fn step(&mut self, step: usize) -> [f64; 2] {
        let [rows, seq] = BATCH;
        let tokens = |offset: usize| {
            let id =
                |place: usize| ((place + offset) * (place + offset + step) % VOCABULARY) as i32;
            let ids: Vec<i32> = (0..rows * seq).map(id).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, BATCH), &self.device)
        };
        let loss = self.model.loss(tokens(0), tokens(1));
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = Gradients::default();
        gradients.add(&self.model, loss.backward());
        let norm = gradients.norm();
        gradients.clip(norm, 1.0);
        self.model = self.optimizer.step(self.model.clone(), gradients, Shares::default());
        [value, norm]
    }
}
