//! The loop: batch, forward, loss, backward, clip, step, log, validate, save.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use tern_format::atomic::remove_temporaries;
use tern_format::checksum::sha256;
use tern_kernels::train::pool::keep_freed_memory;
use tern_model::Decoder;

use crate::checkpoint::{self, Best, State};
use crate::config::RunConfig;
use crate::directory::RunDirectory;
use crate::error::{Error, Result};
use crate::evaluation::Validation;
use crate::guard::Spike;
use crate::metrics::{Event, EventKind, JsonLines, Metrics, Timings};
use crate::objective::Objective;
use crate::optimizer::Optimizer;
use crate::ranks::{Ranks, StepSum};
use crate::weights::Weights;

/// Where a run trains, on what, and how far.
pub struct Run<'a, O> {
    /// Its configuration.
    pub config: &'a RunConfig,
    /// Where it writes.
    pub directory: &'a RunDirectory,
    /// With autodiff.
    pub device: &'a Device,
    /// What it learns.
    pub objective: &'a O,
    /// Identity of the data: SHA-256 over their settings and sources.
    pub data_identity: &'a str,
    /// Leave the loop after this step, as if interrupted; the schedule stays that of all steps.
    pub stop_at: Option<u64>,
    /// Go on from the latest checkpoint, if there is one.
    pub resume: bool,
    /// The processes that share the work; each has the same of all the above.
    pub ranks: &'a dyn Ranks,
}

/// Who watches a run. Whoever does not care leaves a method as it is.
pub trait Observer {
    /// The loop is about to start after `step` steps.
    fn started(&mut self, _step: u64, _resumed_from: Option<&Path>) {}
    /// A step was taken.
    fn stepped(&mut self, _metrics: &Metrics, _timings: &Timings) {}
    /// The validation loss was measured.
    fn validated(&mut self, _step: u64, _validation: &Validation, _best: bool) {}
    /// Zeros and scales were counted.
    fn weighed(&mut self, _weights: &Weights) {}
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
/// A step whose loss or gradient is not finite leaves the weights as they are. Of several ranks the first writes; the others
/// compute the same weights.
///
/// # Errors
///
/// [`Error::Diverged`] after too many such steps in a row, a checkpoint of other settings or data, and whatever stops a
/// file from being written; the checkpoints on the disk stay whole.
pub fn train<O: Objective>(run: &Run<'_, O>, observer: &mut dyn Observer) -> Result<Outcome> {
    let Run { config, objective, device, ranks, .. } = *run;
    ranks.check(config)?;
    keep_freed_memory();
    let (mut model, mut optimizer, mut state) = begin(run, observer)?;
    let mut logs = Logs::open(run, state.step, observer)?;
    let steps = config.train.steps;
    let last = run.stop_at.unwrap_or(steps).min(steps);
    let train = &config.train;
    let began = Instant::now();
    let mut saved = state.step;
    let mut loss = None;

    while state.step < last && !ranks.any(observer.interrupted()) {
        let step = state.step + 1;
        let mut clock = Clock::default();

        let mut sum = StepSum::new(ranks);
        for micro_step in ranks.share(train.grad_accum) {
            let batch = objective.batch(state.step, micro_step);
            clock.lap(Phase::Batch);
            let loss = objective.loss(&model, batch).div_scalar(train.grad_accum as f64);
            sum.add_loss(loss.clone().into_scalar());
            clock.lap(Phase::Forward);
            sum.add(&model, loss.backward());
            clock.lap(Phase::Backward);
            sum.exchange();
            clock.lap(Phase::Exchange);
        }
        let (step_loss, mut gradients) = sum.finish(device);
        clock.lap(Phase::Exchange);

        let grad_norm = f64::from(ranks.first(gradients.norm() as f32));
        let shares = train.schedule.at(step, steps);
        let lr = train.optimizer.learning_rate * shares.learning_rate;
        let fault = Fault::of(step_loss, grad_norm);
        match fault {
            None => {
                if train.clip_norm > 0.0 {
                    gradients.clip(grad_norm, train.clip_norm);
                }
                model = optimizer.step(model, gradients, shares);
                state.tokens += config.tokens_per_step();
                if let Some(spike) = state.guard.observe(step_loss, &train.guard) {
                    logs.event(spike_event(step, step_loss, spike), observer)?;
                }
            }
            Some(fault) => {
                state.guard.skip();
                let places = objective.places(state.step, config.sequences_per_step());
                logs.event(skip_event(step, fault, places), observer)?;
            }
        }
        clock.lap(Phase::Optimizer);
        state.step = step;
        loss = Some(step_loss);

        let validated = step.is_multiple_of(train.eval_every) || step == steps;
        let validated = validated.then(|| objective.validate(&model, ranks));
        clock.lap(Phase::Validation);
        if let Some(v) = validated.filter(|v| !v.loss.is_finite()) {
            logs.event(validation_event(step, v.loss), observer)?;
        }
        let validated = validated.filter(|v| v.loss.is_finite());
        // A skipped step leaves the weights as they were, and so what is known of them.
        let known = state.val_loss.filter(|_| fault.is_some());
        state.val_loss = validated.map(|v| v.loss).or(known);
        let improved = validated.is_some_and(|v| state.best.is_none_or(|b| v.loss < b.val_loss));
        if let (true, Some(v)) = (improved, validated) {
            state.best = Some(Best { step, val_loss: v.loss });
        }

        let metrics = Metrics {
            step,
            tokens: state.tokens,
            loss: Some(step_loss).filter(|loss| loss.is_finite()),
            lr,
            grad_norm: Some(grad_norm).filter(|norm| norm.is_finite()),
            skipped: fault.is_some(),
            val_loss: validated.map(|v| v.loss),
            val_bits_per_byte: validated.map(|v| v.bits_per_byte),
        };
        let timings = clock.timings(step, config.tokens_per_step(), began);
        logs.metrics.write(&metrics)?;
        logs.timings.write(&timings)?;
        observer.stepped(&metrics, &timings);
        if let Some(validation) = &validated {
            observer.validated(step, validation, improved);
        }
        if step == 1 || validated.is_some() {
            logs.weigh(&model, config, step, observer)?;
        }
        if let Some(fault) =
            fault.filter(|_| state.guard.skipped_in_row >= train.guard.most_skipped)
        {
            return Err(give_up(run, model, optimizer, state, fault, observer)?);
        }
        if config.samples.every > 0 && step.is_multiple_of(config.samples.every) {
            observer.sample(step, &model);
        }
        if improved || step.is_multiple_of(train.checkpoint_every) {
            logs.sync()?;
            save(run, &model, &optimizer, &mut state, &mut saved, observer)?;
        }
    }

    logs.sync()?;
    save(run, &model, &optimizer, &mut state, &mut saved, observer)?;
    Ok(Outcome { step: state.step, finished: state.step == steps, loss, best: state.best })
}

/// Fresh weights, or those of the latest whole checkpoint.
fn begin<O>(run: &Run<'_, O>, observer: &mut dyn Observer) -> Result<(Decoder, Optimizer, State)> {
    let Run { config, directory, device, ranks, .. } = run;
    let checkpoints = directory.checkpoints();
    if ranks.is_first() {
        checkpoint::sweep(&checkpoints)?;
        remove_temporaries(directory.path()).map_err(Error::io(directory.path()))?;
    }
    ranks.wait();
    if run.resume && !checkpoint::list(&checkpoints)?.is_empty() {
        let checkpoint = checkpoint::latest(&checkpoints, &mut |error| {
            observer.warned(&format!("{error}; trying the checkpoint before it"));
        })?;
        let path = checkpoint.path.clone();
        let restored = checkpoint.restore(config, run.data_identity, device)?;
        agree_on_state(*ranks, &restored.2)?;
        observer.started(restored.2.step, Some(&path));
        return Ok(restored);
    }
    let taken = match ranks.is_first() {
        true => JsonLines::open(&directory.metrics(), u64::MAX)?.last_step(),
        false => 0,
    };
    if taken > config.train.checkpoint_every {
        let detail = format!(
            ", although metrics.jsonl knows {taken} steps: put the checkpoints back, or begin anew in another directory"
        );
        return Err(Error::NoCheckpoint { path: checkpoints, detail });
    }
    if taken > 0 {
        observer.warned(&format!(
            "the run ended after step {taken}, before its first checkpoint; it begins again"
        ));
    }
    let restored = fresh(run);
    agree_on_state(*ranks, &restored.2)?;
    observer.started(0, None);
    Ok(restored)
}

/// Refuses ranks that begin with another configuration, other data, or another checkpoint.
fn agree_on_state(ranks: &dyn Ranks, state: &State) -> Result<()> {
    let position = (state.step, &state.config_sha256, &state.data_identity, &state.files);
    ranks.agree("settings, data or checkpoint", &sha256(format!("{position:?}").as_bytes()))
}

/// A run before its first step.
fn fresh<O>(run: &Run<'_, O>) -> (Decoder, Optimizer, State) {
    let model = run.config.decoder(run.device);
    let optimizer = Optimizer::new(run.config.train.optimizer.clone());
    (model, optimizer, State::new(run.config, run.data_identity.into()))
}

/// Puts the last good state on the disk and returns the error that names it.
///
/// That is the state before the skipped steps, whose checkpoints go; or, where the last update itself overflowed, the
/// latest whole checkpoint, or the initial weights.
fn give_up<O>(
    run: &Run<'_, O>,
    model: Decoder,
    optimizer: Optimizer,
    state: State,
    Fault { what, value }: Fault,
    observer: &mut dyn Observer,
) -> Result<Error> {
    let checkpoints = run.directory.checkpoints();
    let step = state.step;
    let mut good = state.before_skipped();
    let skipped = step - good.step;
    if !run.ranks.is_first() {
        let checkpoint = checkpoint::directory(&checkpoints, good.step);
        return Ok(Error::Diverged { step, skipped, what, value, good: good.step, checkpoint });
    }
    let checkpoint = match checkpoint::save(&checkpoints, &model, &optimizer, &mut good) {
        Err(Error::NonFiniteWeights { .. }) if checkpoint::list(&checkpoints)?.is_empty() => {
            let (model, optimizer, mut initial) = fresh(run);
            good.step = 0;
            checkpoint::save(&checkpoints, &model, &optimizer, &mut initial)?
        }
        Err(Error::NonFiniteWeights { .. }) => {
            let whole = checkpoint::latest(&checkpoints, &mut |e| observer.warned(&e.to_string()))?;
            good.step = whole.state.step;
            whole.path
        }
        saved => {
            let path = saved?;
            checkpoint::remove(&checkpoints, good.step + 1..=step)?;
            path
        }
    };
    Ok(Error::Diverged { step, skipped, what, value, good: good.step, checkpoint })
}

/// What of a step is not finite.
#[derive(Clone, Copy)]
struct Fault {
    what: &'static str,
    value: f64,
}

impl Fault {
    fn of(loss: f64, grad_norm: f64) -> Option<Self> {
        [("loss", loss), ("gradient norm", grad_norm)]
            .into_iter()
            .find(|(_, value)| !value.is_finite())
            .map(|(what, value)| Self { what, value })
    }
}

fn skip_event(step: u64, Fault { what, value }: Fault, windows: Vec<u64>) -> Event {
    let message = format!("step {step} was skipped: its {what} is {value}");
    Event { step, kind: EventKind::Skipped, message, windows }
}

fn spike_event(step: u64, loss: f64, Spike { mean, deviations }: Spike) -> Event {
    let message = format!(
        "step {step}: the loss {loss:.3} is {deviations:.1} standard deviations above its running mean {mean:.3}"
    );
    Event { step, kind: EventKind::Spike, message, windows: Vec::new() }
}

fn validation_event(step: u64, loss: f64) -> Event {
    let message = format!("step {step}: the validation loss is {loss}; it does not count");
    Event { step, kind: EventKind::Validation, message, windows: Vec::new() }
}

/// The files that grow a line at a time.
struct Logs {
    metrics: JsonLines,
    timings: JsonLines,
    events: JsonLines,
    weights: JsonLines,
}

impl Logs {
    /// Opens all of them after `step` steps, for the rank that writes.
    fn open<O>(run: &Run<'_, O>, step: u64, observer: &mut dyn Observer) -> Result<Self> {
        let directory = run.directory;
        if !run.ranks.is_first() {
            let [metrics, timings, events, weights] = [(); 4].map(|()| JsonLines::nowhere());
            return Ok(Self { metrics, timings, events, weights });
        }
        let metrics = JsonLines::open(&directory.metrics(), step)?;
        if metrics.lines() != step {
            observer.warned(&format!(
                "{}: has {} of the {step} steps before this one",
                directory.metrics().display(),
                metrics.lines()
            ));
        }
        Ok(Self {
            metrics,
            timings: JsonLines::open(&directory.timings(), step)?,
            events: JsonLines::open(&directory.events(), step)?,
            weights: JsonLines::open(&directory.weights(), step)?,
        })
    }

    /// Puts on the disk what a checkpoint relies on.
    fn sync(&mut self) -> Result<()> {
        [&mut self.metrics, &mut self.events, &mut self.weights]
            .into_iter()
            .try_for_each(JsonLines::sync)
    }

    fn event(&mut self, event: Event, observer: &mut dyn Observer) -> Result<()> {
        observer.warned(&event.message);
        self.events.write(&event)
    }

    /// Logs zeros and scales, and warns of matrices that have collapsed.
    fn weigh(
        &mut self,
        model: &Decoder,
        config: &RunConfig,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some(weights) = Weights::measure(model, &config.model, step) else { return Ok(()) };
        self.weights.write(&weights)?;
        observer.weighed(&weights);
        if let Some(collapsed) = weights.collapsed(&config.model) {
            let message =
                format!("step {step}: projected now, the model would be collapsed: {collapsed}");
            self.event(
                Event { step, kind: EventKind::Collapse, message, windows: Vec::new() },
                observer,
            )?;
        }
        Ok(())
    }
}

/// Saves a checkpoint unless this step has one, then removes what need not be kept.
fn save<O>(
    run: &Run<'_, O>,
    model: &Decoder,
    optimizer: &Optimizer,
    state: &mut State,
    saved: &mut u64,
    observer: &mut dyn Observer,
) -> Result<()> {
    if *saved == state.step {
        return Ok(());
    }
    run.ranks.agree_on_weights(model)?;
    *saved = state.step;
    if !run.ranks.is_first() {
        return Ok(());
    }
    let checkpoints = run.directory.checkpoints();
    let path = checkpoint::save(&checkpoints, model, optimizer, state)?;
    let best = state.best.map(|best| best.step);
    checkpoint::prune(&checkpoints, &run.config.train, state.step, best)?;
    observer.saved(state.step, &path);
    Ok(())
}

#[derive(Clone, Copy)]
enum Phase {
    Batch,
    Forward,
    Backward,
    Exchange,
    Optimizer,
    Validation,
}

/// Seconds of one step by phase.
struct Clock {
    last: Instant,
    seconds: [f64; 6],
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now(), seconds: [0.0; 6] }
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
        let [batch, forward, backward, exchange, optimizer, validation] = self.seconds;
        let learning = batch + forward + backward + exchange + optimizer;
        Timings {
            step,
            tokens_per_second: tokens as f64 / learning,
            batch_seconds: batch,
            forward_seconds: forward,
            backward_seconds: backward,
            exchange_seconds: exchange,
            optimizer_seconds: optimizer,
            validation_seconds: validation,
            elapsed_seconds: began.elapsed().as_secs_f64(),
        }
    }
}
