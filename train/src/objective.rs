//! What a run learns: what a micro-batch is, and what its loss is.

use burn::tensor::{Device, Int, Tensor};
use tern_datasets::batches::{Batches, ValidationSet};
use tern_datasets::config::DataConfig;
use tern_model::Decoder;

use crate::evaluation::{Validation, inputs_and_targets, validate};
use crate::ranks::Ranks;

/// What the loop asks of whatever is learned; it knows neither batches nor losses itself.
pub trait Objective {
    /// What one forward pass reads.
    type Batch;

    /// The micro-batch `micro_step` of the step after `step` steps: a pure function of both, so that a resumed run goes on
    /// with the batches of one never stopped.
    fn batch(&self, step: u64, micro_step: usize) -> Self::Batch;

    /// What is to become small, averaged over the micro-batch, `[1]`.
    fn loss(&self, model: &Decoder, batch: Self::Batch) -> Tensor<1>;

    /// How good the model is on texts that it does not learn from; the ranks share the work and get the same.
    fn validate(&self, model: &Decoder, ranks: &dyn Ranks) -> Validation;

    /// Where the sequences of the step after `step` steps begin in the data, for whoever looks for what broke it.
    fn places(&self, step: u64, sequences: usize) -> Vec<u64>;
}

/// The next token of every place in windows of text; the loss is cross-entropy, nats per token.
pub struct Pretraining<'a> {
    /// Length and number of windows.
    pub data: &'a DataConfig,
    /// With autodiff.
    pub device: &'a Device,
    /// Windows to learn from.
    pub batches: &'a Batches,
    /// Windows to measure on.
    pub validation: &'a ValidationSet,
    /// Bytes of text that the validation's predicted tokens stand for.
    pub validation_bytes: usize,
}

impl Objective for Pretraining<'_> {
    /// Inputs and targets, `[micro_batch, seq_len]` each.
    type Batch = (Tensor<2, Int>, Tensor<2, Int>);

    fn batch(&self, step: u64, micro_step: usize) -> Self::Batch {
        let windows = self.batches.batch(step, micro_step, self.data.micro_batch);
        inputs_and_targets(&windows, self.data.seq_len, self.device)
    }

    fn loss(&self, model: &Decoder, (ids, targets): Self::Batch) -> Tensor<1> {
        model.loss(ids, targets)
    }

    fn validate(&self, model: &Decoder, ranks: &dyn Ranks) -> Validation {
        validate(model, self.validation, self.validation_bytes, self.data, self.device, ranks)
    }

    fn places(&self, step: u64, sequences: usize) -> Vec<u64> {
        self.batches.starts(step, sequences)
    }
}
