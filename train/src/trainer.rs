//! The loop: batch, forward, loss, backward, clip, step, log, validate, save.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use tern_datasets::batches::{Batches, ValidationSet};
use tern_model::Decoder;

use crate::adamw::AdamW;
use crate::checkpoint::{self, Best, State};
use crate::config::RunConfig;
use crate::directory::RunDirectory;
use crate::error::{Error, Result};
use crate::evaluation::{Validation, inputs_and_targets, validate};
use crate::gradients::Gradients;
use crate::metrics::{JsonLines, Metrics, Timings};

/// Where a run trains, on what, and how far.
pub struct Run<'a> {
    /// Its configuration.
    pub config: &'a RunConfig,
    /// Where it writes.
    pub directory: &'a RunDirectory,
    /// With autodiff.
    pub device: &'a Device,
    /// Training windows.
    pub batches: &'a Batches,
    /// Validation windows.
    pub validation: &'a ValidationSet,
    /// Bytes of text that the validation's predicted tokens stand for.
    pub validation_bytes: usize,
    /// Identity of the data: SHA-256 over their settings and sources.
    pub data_sha256: &'a str,
    /// Leave the loop after this step, as if interrupted; the schedule stays that of all steps.
    pub stop_at: Option<u64>,
    /// Go on from the latest checkpoint, if there is one.
    pub resume: bool,
}

/// Who watches a run. Whoever does not care leaves a method as it is.
pub trait Observer {
    /// The loop is about to start after `step` steps.
    fn started(&mut self, _step: u64, _resumed_from: Option<&Path>) {}
    /// A step was taken.
    fn stepped(&mut self, _metrics: &Metrics, _timings: &Timings) {}
    /// The validation loss was measured.
    fn validated(&mut self, _step: u64, _validation: &Validation, _best: bool) {}
    /// The configuration asks for samples now.
    fn sample(&mut self, _step: u64, _model: &Decoder) {}
    /// A checkpoint is on the disk.
    fn saved(&mut self, _step: u64, _path: &Path) {}
    /// Something that does not stop the run.
    fn warned(&mut self, _message: &str) {}
    /// Whether to save and leave the loop before the next step.
    fn interrupted(&mut self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps taken.
    pub step: u64,
    /// Whether that is all of them.
    pub finished: bool,
    /// Loss of the last step, nats per token; none if no step was taken.
    pub loss: Option<f64>,
    /// The lowest validation loss.
    pub best: Option<Best>,
}

/// Trains until the last step, `stop_at`, or an interruption, whichever comes first; then saves.
///
/// # Errors
///
/// [`Error::NonFinite`] before such a step reaches the weights, a checkpoint of other settings or data, and whatever stops a file from being written; the checkpoints on the disk stay whole.
pub fn train(run: &Run<'_>, observer: &mut dyn Observer) -> Result<Outcome> {
    let Run { config, directory, device, batches, validation, .. } = run;
    let (mut model, mut optimizer, mut state) = begin(run, observer)?;
    let mut metrics_file = JsonLines::open(&directory.metrics(), state.step)?;
    let mut timings_file = JsonLines::open(&directory.timings(), state.step)?;
    let steps = config.train.steps;
    let last = run.stop_at.unwrap_or(steps).min(steps);
    let train = &config.train;
    let began = Instant::now();
    let mut saved = state.step;
    let mut loss = None;

    while state.step < last && !observer.interrupted() {
        let step = state.step + 1;
        let mut clock = Clock::default();

        let mut gradients = Gradients::default();
        let mut step_loss = 0.0;
        for micro_step in 0..train.grad_accum {
            let windows = batches.batch(state.step, micro_step, config.data.micro_batch);
            let (ids, targets) = inputs_and_targets(&windows, config.data.seq_len, device);
            clock.lap(Phase::Batch);
            let loss = model.loss(ids, targets).div_scalar(train.grad_accum as f64);
            step_loss += f64::from(loss.clone().into_scalar::<f32>());
            clock.lap(Phase::Forward);
            let backward = loss.backward();
            clock.lap(Phase::Backward);
            gradients.add(&model, backward);
        }

        let grad_norm = gradients.norm();
        for (what, value) in [("loss", step_loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                save(run, &model, &optimizer, &mut state, &mut saved, observer)?;
                return Err(Error::NonFinite { step, what, value });
            }
        }
        if train.clip_norm > 0.0 {
            gradients.clip(grad_norm, train.clip_norm);
        }
        let lr = train.schedule.learning_rate(train.optimizer.learning_rate, step, steps);
        model = optimizer.step(model, gradients, lr);
        clock.lap(Phase::Optimizer);
        state.step = step;
        state.tokens += config.tokens_per_step();
        loss = Some(step_loss);

        let validated = step.is_multiple_of(train.eval_every) || step == steps;
        let validated = validated
            .then(|| validate(&model, validation, run.validation_bytes, &config.data, device));
        clock.lap(Phase::Validation);
        state.val_loss = validated.map(|v| v.loss);
        let improved = validated.is_some_and(|v| state.best.is_none_or(|b| v.loss < b.val_loss));
        if let (true, Some(v)) = (improved, validated) {
            state.best = Some(Best { step, val_loss: v.loss });
        }

        let metrics = Metrics {
            step,
            tokens: state.tokens,
            loss: step_loss,
            lr,
            grad_norm,
            val_loss: validated.map(|v| v.loss),
            val_bits_per_byte: validated.map(|v| v.bits_per_byte),
        };
        let timings = clock.timings(step, config.tokens_per_step(), began);
        metrics_file.write(&metrics)?;
        timings_file.write(&timings)?;
        observer.stepped(&metrics, &timings);
        if let Some(validation) = &validated {
            observer.validated(step, validation, improved);
        }
        if config.samples.every > 0 && step.is_multiple_of(config.samples.every) {
            observer.sample(step, &model);
        }
        if improved || step.is_multiple_of(train.checkpoint_every) {
            metrics_file.sync()?;
            save(run, &model, &optimizer, &mut state, &mut saved, observer)?;
        }
    }

    metrics_file.sync()?;
    save(run, &model, &optimizer, &mut state, &mut saved, observer)?;
    Ok(Outcome { step: state.step, finished: state.step == steps, loss, best: state.best })
}

/// Fresh weights, or those of the latest whole checkpoint.
fn begin(run: &Run<'_>, observer: &mut dyn Observer) -> Result<(Decoder, AdamW, State)> {
    let Run { config, directory, device, .. } = run;
    let checkpoints = directory.checkpoints();
    checkpoint::sweep(&checkpoints)?;
    if run.resume && !checkpoint::list(&checkpoints)?.is_empty() {
        let checkpoint = checkpoint::latest(&checkpoints, &mut |error| {
            observer.warned(&format!("{error}; trying the checkpoint before it"));
        })?;
        let path = checkpoint.path.clone();
        let restored = checkpoint.restore(config, run.data_sha256, device)?;
        observer.started(restored.2.step, Some(&path));
        return Ok(restored);
    }
    let model = Decoder::init(&config.model, config.seed, device);
    let optimizer = AdamW::new(config.train.optimizer.clone());
    observer.started(0, None);
    Ok((model, optimizer, State::new(config, run.data_sha256.into())))
}

/// Saves a checkpoint unless this step has one, then removes what need not be kept.
fn save(
    run: &Run<'_>,
    model: &Decoder,
    optimizer: &AdamW,
    state: &mut State,
    saved: &mut u64,
    observer: &mut dyn Observer,
) -> Result<()> {
    if *saved == state.step {
        return Ok(());
    }
    let checkpoints = run.directory.checkpoints();
    let path = checkpoint::save(&checkpoints, model, optimizer, state)?;
    *saved = state.step;
    let best = state.best.map(|best| best.step);
    checkpoint::prune(&checkpoints, &run.config.train, best)?;
    observer.saved(state.step, &path);
    Ok(())
}

#[derive(Clone, Copy)]
enum Phase {
    Batch,
    Forward,
    Backward,
    Optimizer,
    Validation,
}

/// Seconds of one step by phase.
struct Clock {
    last: Instant,
    seconds: [f64; 5],
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now(), seconds: [0.0; 5] }
    }
}

impl Clock {
    /// Charges the time since the last lap to a phase.
    fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        self.seconds[phase as usize] += (now - self.last).as_secs_f64();
        self.last = now;
    }

    fn timings(&self, step: u64, tokens: u64, began: Instant) -> Timings {
        let [batch, forward, backward, optimizer, validation] = self.seconds;
        Timings {
            step,
            tokens_per_second: tokens as f64 / (batch + forward + backward + optimizer),
            batch_seconds: batch,
            forward_seconds: forward,
            backward_seconds: backward,
            optimizer_seconds: optimizer,
            validation_seconds: validation,
            elapsed_seconds: began.elapsed().as_secs_f64(),
        }
    }
}
