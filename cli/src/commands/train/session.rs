//! One run of the trainer: data opened, progress shown, samples drawn, the model projected.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tern_datasets::batches::ValidationSet;
use tern_datasets::prepare::Prepared;
use tern_format::packed::{PackedModel, Provenance};
use tern_model::Decoder;
use tern_model::device::guarded;
use tern_train::checkpoint::{self, State};
use tern_train::config::{Precision, RunConfig};
use tern_train::directory::RunDirectory;
use tern_train::export::{Surroundings, project};
use tern_train::objective::Pretraining;
use tern_train::plan::Plan;
use tern_train::ranks::Ranks;
use tern_train::trainer::{Observer, Outcome, Run, train};

use super::dashboard::Killed;
use super::progress::{Progress, Unseen};
use super::screen;
use super::view::Show;
use crate::history::name_of;
use crate::terminal::{Terminal, thousands};

/// Everything that a run needs, checked and opened.
pub(crate) struct Session {
    pub(crate) config: RunConfig,
    pub(crate) directory: RunDirectory,
    pub(crate) data: Prepared,
    pub(crate) device: String,
    pub(crate) stop_at: Option<u64>,
    pub(crate) resume: bool,
}

/// One key may send more than one signal: what follows sooner than this is no second wish.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// A text that lasts for fewer steps is tiny.
const FEW_STEPS: u64 = 10;

/// Whether a trainer is at work, which saves before it leaves.
static TRAINING: AtomicBool = AtomicBool::new(false);

/// Set by Ctrl-C while a trainer is at work; a second Ctrl-C ends the program at once. At any other time the first does:
/// whatever is under way then, the same command goes on with it.
pub(crate) fn interruptions() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let mut first = None;
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::Relaxed);
        if !TRAINING.load(Ordering::Relaxed) {
            screen::leave();
        }
        match first {
            None => {
                first = Some(Instant::now());
                screen::announce_stop();
            }
            Some(_) if screen::is_gone() => {}
            Some(first) if first.elapsed() > SAME_SIGNAL => screen::abandon(),
            Some(_) => {}
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(interrupted)
}

impl Session {
    /// What becomes of the precision that was asked for.
    fn products(&self) -> String {
        match tern_model::Precision::bf16_or_f32() {
            _ if self.device != "cpu" => {
                format!("products in f32: bf16 is for the device cpu, and this is {}", self.device)
            }
            tern_model::Precision::F32 => {
                "products in f32: this CPU has no instructions for bf16".into()
            }
            precision => format!("products in bf16 ({})", precision.name()),
        }
    }

    /// Trains until the end, the stop or the interruption.
    ///
    /// Of several ranks the first writes and shows. Whatever ends it, the terminal is given back; after a panic or a kill the
    /// error says how to go on.
    pub(crate) fn train(
        &self,
        show: Show,
        terminal: &Terminal,
        interrupted: &AtomicBool,
        ranks: &dyn Ranks,
    ) -> Result<Outcome> {
        let device = tern_model::device::find(&self.device)?.autodiff();
        let Prepared { tokenizer, summary, .. } = &self.data;
        let (rows, ids) = (self.config.model.vocab_size, summary.vocab_size);
        anyhow::ensure!(
            ids <= rows,
            "model.vocab_size is {rows}, but the tokenizer of {} has {ids} ids",
            self.data.directory.display()
        );
        let batches = self.data.batches(&self.config.data, self.config.seed)?;
        let validation = self.validation()?;
        // Whatever can be wrong with settings or data has been refused by now.
        if ranks.is_first() {
            self.directory.open(&self.config, self.resume)?;
        }
        ranks.wait();
        let plan = Plan::new(&self.config);
        terminal.say(&format!(
            "{} steps of {} tokens: {:.2} passes over the text",
            thousands(plan.steps),
            thousands(plan.tokens_per_step),
            plan.passes(summary.train().tokens)
        ));
        for doubt in self.doubts() {
            terminal.warn(&doubt);
        }
        if self.config.train.precision == Precision::Bf16 {
            terminal.say(&self.products());
        }
        let run = Run {
            config: &self.config,
            directory: &self.directory,
            device: &device,
            objective: &Pretraining {
                data: &self.config.data,
                device: &device,
                batches: &batches,
                validation: &validation,
                validation_bytes: validation.text_bytes(tokenizer)?,
            },
            data_identity: &summary.sha256,
            stop_at: self.stop_at,
            resume: self.resume,
            ranks,
        };
        let observe = |observer: &mut dyn Observer| {
            TRAINING.store(true, Ordering::Relaxed);
            let outcome =
                catch_unwind(AssertUnwindSafe(|| guarded(&self.device, || train(&run, observer))));
            TRAINING.store(false, Ordering::Relaxed);
            outcome
        };
        let outcome = if ranks.is_first() {
            let mut progress = Progress::new(self, show.view(self, terminal), interrupted);
            let outcome = observe(&mut progress);
            progress.finish();
            outcome
        } else {
            observe(&mut Unseen(interrupted))
        };
        match outcome {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(lost)) => Err(anyhow!("{lost}; {}", self.how_to_go_on())),
            Err(panic) => {
                let what = if panic.is::<Killed>() { "killed" } else { "the trainer panicked" };
                Err(anyhow!("{what}; {}", self.how_to_go_on()))
            }
        }
    }

    /// Settings that are allowed and hardly meant.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let train = &self.config.train;
        let (steps, warmup) = (train.steps, train.schedule.warmup_steps);
        if steps < warmup {
            doubts.push(format!(
                "the whole run lies in the warm-up: train.steps is {steps}, train.schedule.warmup_steps is {warmup}; \
                 the learning rate falls short of its peak"
            ));
        }
        let (tokens, per_step) = (self.data.summary.train().tokens, self.config.tokens_per_step());
        if tokens < FEW_STEPS.saturating_mul(per_step) {
            doubts.push(format!(
                "the text is tiny: {} tokens, and a step reads {}; more text, or a smaller data.micro_batch or \
                 train.grad_accum, would teach more",
                thousands(tokens),
                thousands(per_step)
            ));
        }
        doubts
    }

    /// After an end without a checkpoint: what is on the disk, and the command that goes on.
    fn how_to_go_on(&self) -> String {
        let checkpoints = checkpoint::list(&self.directory.checkpoints()).unwrap_or_default();
        let last = match checkpoints.last() {
            Some((step, path)) => {
                format!("the last checkpoint is after step {step}, in {}", path.display())
            }
            None => "there is no checkpoint yet".into(),
        };
        let out = self.directory.path().display();
        format!("{last}; go on with: tern train --resume --out {out}")
    }

    /// The validation windows.
    pub(crate) fn validation(&self) -> Result<ValidationSet> {
        Ok(self.data.validation(&self.config.data)?)
    }

    /// The packed model of `model`; the head of `check` is measured with it and goes into the file.
    pub(crate) fn project(
        &self,
        model: &Decoder,
        state: Option<&State>,
        check: Option<&ValidationSet>,
    ) -> Result<PackedModel> {
        let device = tern_model::device::find(&self.device)?;
        let surroundings = Surroundings {
            config: &self.config,
            tokenizer: &self.data.tokenizer,
            bos: self.data.summary.bos,
            eos: self.data.summary.eos,
            provenance: state.map(|state| Provenance {
                run: name_of(self.directory.path()),
                step: state.step,
                tokens: state.tokens,
                data_identity: state.data_identity.clone(),
                data_licence: self.config.data.licence.clone(),
                teacher_licence: None,
                commit: env!("TERN_COMMIT").into(),
                val_loss: state.val_loss,
            }),
        };
        Ok(project(model, &surroundings, check, &device)?)
    }
}
