//! What a run will cost, before it starts.

use serde::Serialize;

use crate::config::RunConfig;

/// The figures of `--dry-run`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of the model; a tied head counts once.
    pub parameters: u64,
    /// Those of them that become trits.
    pub ternary_parameters: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences an optimizer step.
    pub sequences_per_step: usize,
    /// Tokens an optimizer step.
    pub tokens_per_step: u64,
    /// Tokens over the whole run.
    pub tokens: u64,
    /// Weights, their ternary twins, gradients and moments, and the tables of rotary positions.
    pub state_bytes: u64,
    /// Activations of one micro-batch, kept for its backward pass (an estimate).
    pub activation_bytes: u64,
    /// The largest temporaries of a pass (an estimate).
    pub temporary_bytes: u64,
    /// All three together.
    pub memory_bytes: u64,
    /// Disk that the checkpoints take at most.
    pub checkpoint_bytes: u64,
}

impl Plan {
    /// How many times the run reads a text of so many tokens.
    pub fn passes(&self, text_tokens: u64) -> f64 {
        self.tokens as f64 / text_tokens.max(1) as f64
    }

    /// Works the figures out from a configuration alone.
    pub fn new(config: &RunConfig) -> Self {
        let model = &config.model;
        let parameters = model.parameters();
        let linears = model.block_linears();
        let per_block: u64 =
            linears.iter().map(|linear| (linear.d_output * linear.d_input) as u64).sum();
        let linear_parameters = per_block * model.num_hidden_layers as u64;
        let ternary_parameters = if model.is_ternary() { linear_parameters } else { 0 };
        let moments = config.train.optimizer.state_floats(parameters, linear_parameters);
        let float = size_of::<f32>() as u64;
        // Kept for the backward pass, a token: in each block eleven vectors of the residual stream's width (norms, Q, K, V,
        // attention, residual sums) and three of the feed-forward's; at the end logits and their gradient.
        let per_token = model.num_hidden_layers
            * (11 * model.hidden_size + 3 * model.intermediate_size)
            + 2 * model.vocab_size;
        let rows = (config.data.micro_batch * config.data.seq_len) as u64;
        let activation_bytes = rows.saturating_mul(per_token as u64 * float);
        // Sines and cosines of half a head's width, for every position that the model may have.
        let tables = (model.max_position_embeddings * model.head_dim) as u64;
        let state_bytes = (3 * parameters + moments + tables) * float;
        let temporary_bytes = activation_bytes / 2;
        // Those that are kept, the best, and one that is being written before others make room.
        let checkpoints = config.train.keep_checkpoints as u64 + 2;
        let checkpoint_bytes = checkpoints * (parameters + moments) * float;
        let tokens_per_step = config.tokens_per_step();
        Self {
            parameters,
            ternary_parameters,
            steps: config.train.steps,
            sequences_per_step: config.sequences_per_step(),
            tokens_per_step,
            tokens: tokens_per_step.saturating_mul(config.train.steps),
            state_bytes,
            activation_bytes,
            temporary_bytes,
            memory_bytes: state_bytes
                .saturating_add(activation_bytes)
                .saturating_add(temporary_bytes),
            checkpoint_bytes,
        }
    }
}
