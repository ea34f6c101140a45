//! A few micro-batches of a run in memory, on random tokens: what a step takes on this device.

use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;
use tern_kernels::train::pool::keep_freed_memory;

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
        keep_freed_memory();
        let mut model = config.decoder(device);
        let mut optimizer = Optimizer::new(config.train.optimizer.clone());
        let windows = windows(config);
        let (mut micro_batch_seconds, mut optimizer_seconds) = (0.0, 0.0);
        for _ in 0..2 {
            let began = Instant::now();
            let (ids, targets) = inputs_and_targets(&windows, config.data.seq_len, device);
            let loss = model.loss(ids, targets);
            // Reading the value waits for a device that computes while the host goes on.
            let _ = loss.clone().into_scalar::<f32>();
            let mut gradients = Gradients::default();
            gradients.add(&model, loss.backward());
            let _ = device.sync();
            micro_batch_seconds = began.elapsed().as_secs_f64();

            let began = Instant::now();
            let norm = gradients.norm();
            if config.train.clip_norm > 0.0 {
                gradients.clip(norm, config.train.clip_norm);
            }
            model = optimizer.step(model, gradients, Shares::default());
            // The same for the update. A device that cannot say is timed as it is.
            let _ = device.sync();
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

/// Windows for a micro-batch whose ids touch the whole vocabulary: multiples of a large odd number.
fn windows(config: &RunConfig) -> Vec<u32> {
    let ids = config.data.micro_batch * (config.data.seq_len + 1);
    (0..ids).map(|i| (i.wrapping_mul(2_654_435_761) % config.model.vocab_size) as u32).collect()
}
