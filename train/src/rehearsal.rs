//! A few steps of a run in memory: what they take on this device.

use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;
use tern_kernels::train::pool::keep_freed_memory;
use tern_model::Decoder;
use tern_model::profile::span;

use crate::config::RunConfig;
use crate::evaluation::inputs_and_targets;
use crate::gradients::Gradients;
use crate::optimizer::Optimizer;
use crate::schedule::Shares;

/// What was measured, and what follows for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rehearsal {
    /// Forward and backward pass of one micro-batch, seconds.
    pub micro_batch_seconds: f64,
    /// Clipping and update, seconds.
    pub optimizer_seconds: f64,
    /// Tokens learned from a second.
    pub tokens_per_second: f64,
    /// All optimizer steps of the run, seconds; without validations, checkpoints and samples.
    pub training_seconds: f64,
}

impl Rehearsal {
    /// Measures a micro-batch and an optimizer step, each once after a warm-up. `device` has autodiff.
    ///
    /// Nothing is read or written; the memory is that of a run.
    pub fn measure(config: &RunConfig, device: &Device) -> Self {
        let mut practice = Practice::new(config, device);
        let windows = random_windows(config);
        let (mut micro_batch_seconds, mut optimizer_seconds) = (0.0, 0.0);
        for _ in 0..2 {
            let mut gradients = Gradients::default();
            let began = Instant::now();
            practice.micro_batch(&windows, &mut gradients);
            micro_batch_seconds = began.elapsed().as_secs_f64();

            let began = Instant::now();
            practice = practice.update(gradients, Shares::default());
            optimizer_seconds = began.elapsed().as_secs_f64();
        }
        Self {
            micro_batch_seconds,
            optimizer_seconds,
            tokens_per_second: 0.0,
            training_seconds: 0.0,
        }
        .of(config)
    }

    /// The same measurement, applied to a run of as large a model and micro-batch.
    #[must_use]
    pub fn of(self, config: &RunConfig) -> Self {
        let step_seconds =
            self.micro_batch_seconds * config.train.grad_accum as f64 + self.optimizer_seconds;
        Self {
            tokens_per_second: config.tokens_per_step() as f64 / step_seconds,
            training_seconds: step_seconds * config.train.steps as f64,
            ..self
        }
    }
}

/// The parts of a step, each a phase of the profile, on a fresh model that nobody keeps.
///
/// Each part waits for a device that computes while the host goes on; one that cannot say is timed as it is.
pub(crate) struct Practice<'a> {
    config: &'a RunConfig,
    device: &'a Device,
    model: Decoder,
    optimizer: Optimizer,
}

impl<'a> Practice<'a> {
    /// `device` has autodiff.
    pub(crate) fn new(config: &'a RunConfig, device: &'a Device) -> Self {
        keep_freed_memory();
        let model = config.decoder(device);
        let optimizer = Optimizer::new(config.train.optimizer.clone());
        Self { config, device, model, optimizer }
    }

    /// The forward and backward pass of a micro-batch.
    pub(crate) fn micro_batch(&self, windows: &[u32], gradients: &mut Gradients) {
        let phase = span("batch", [], 0);
        let (ids, targets) = inputs_and_targets(windows, self.config.data.seq_len, self.device);
        drop(phase);

        let phase = span("forward", [], 0);
        let grad_accum = self.config.train.grad_accum as f64;
        let loss = self.model.loss(ids, targets).div_scalar(grad_accum);
        // Reading the value waits.
        let _ = loss.clone().into_scalar::<f32>();
        drop(phase);

        let phase = span("backward", [], 0);
        gradients.add(&self.model, loss.backward());
        let _ = self.device.sync();
        drop(phase);
    }

    /// Clipping and update.
    pub(crate) fn update(self, mut gradients: Gradients, shares: Shares) -> Self {
        let phase = span("clip", [], 0);
        let norm = gradients.norm();
        let clip_norm = self.config.train.clip_norm;
        if clip_norm > 0.0 {
            gradients.clip(norm, clip_norm);
        }
        drop(phase);

        let phase = span("optimizer", [], 0);
        let Self { model, mut optimizer, .. } = self;
        let model = optimizer.step(model, gradients, shares);
        let _ = self.device.sync();
        drop(phase);
        Self { model, optimizer, ..self }
    }
}

/// Windows for a micro-batch whose ids touch the whole vocabulary: multiples of a large odd number.
pub(crate) fn random_windows(config: &RunConfig) -> Vec<u32> {
    let ids = config.data.micro_batch * (config.data.seq_len + 1);
    (0..ids).map(|i| (i.wrapping_mul(2_654_435_761) % config.model.vocab_size) as u32).collect()
}
