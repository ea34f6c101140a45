//! Watches a run: draws its samples, notes the process, and tells the view what to show.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use tern_format::regular_file::open_regular;
use tern_infer::Model;
use tern_infer::generate::{Generator, Options};
use tern_kernels::ternary::Kernel;
use tern_model::Decoder;
use tern_train::evaluation::Validation;
use tern_train::metrics::{JsonLines, Metrics, Timings};
use tern_train::trainer::Observer;
use tern_train::weights::Weights;

use super::Session;
use super::view::{Stretch, View};
use crate::history::{RunSession, Sample, noted_data};

pub(super) struct Progress<'a> {
    session: &'a Session,
    interrupted: &'a AtomicBool,
    view: Box<dyn View + 'a>,
    stretch: Stretch,
    began: Instant,
    samples: Option<JsonLines>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(
        session: &'a Session,
        view: Box<dyn View + 'a>,
        interrupted: &'a AtomicBool,
    ) -> Self {
        let last = session.stop_at.unwrap_or(u64::MAX).min(session.config.train.steps);
        let stretch = Stretch { first: 0, last };
        Self { session, interrupted, view, stretch, began: Instant::now(), samples: None }
    }

    /// Gives the terminal back.
    pub(super) fn finish(&mut self) {
        self.view.close();
    }

    /// Lets the model, projected as it stands, go on with each prompt.
    fn draw(&mut self, step: u64, model: &Decoder) -> Result<()> {
        let packed = self.session.project(model, None, None)?;
        let mut options = Options::from(&packed.metadata.generation);
        let samples = &self.session.config.samples;
        options.max_tokens = samples.max_tokens;
        options.sampling.seed = self.session.config.seed;
        let model = Model::load(packed)?;
        let generator = Generator::new(&model)?;
        for prompt in &samples.prompts {
            let text = generator.generate(prompt, &options, |_| ControlFlow::Continue(()))?.text;
            if self.samples.is_none() {
                let path = self.session.directory.samples();
                self.samples = Some(JsonLines::open(&path, step.saturating_sub(1))?);
            }
            let sample = Sample { step, prompt: prompt.clone(), text };
            if let Some(file) = &mut self.samples {
                file.write(&sample)?;
            }
            self.view.sampled(&sample);
        }
        Ok(())
    }

    /// Appends this process to `sessions.jsonl`.
    fn note(&self, step: u64) -> Result<()> {
        let session = RunSession {
            step,
            unix_seconds: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("TERN_COMMIT").into(),
            device: self.session.device.clone(),
            kernel: Kernel::detect()?.name().into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            data: noted_data(&self.session.directory, &self.session.data.directory),
        };
        let path = self.session.directory.sessions();
        if path.exists() {
            // Whoever opens a pipe waits for its reader.
            open_regular(&path)?;
        }
        let line = serde_json::to_string(&session)? + "\n";
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| path.display().to_string())
    }
}

impl Observer for Progress<'_> {
    fn started(&mut self, step: u64, resumed_from: Option<&Path>) {
        self.stretch.first = step;
        self.began = Instant::now();
        self.view.started(self.stretch);
        if let Some(path) = resumed_from {
            self.view.line(&format!("resumed after step {step} from {}", path.display()));
        }
        // A run that is finished is not worked on.
        if step < self.session.config.train.steps
            && let Err(error) = self.note(step)
        {
            self.warned(&format!("this process is not noted: {error:#}"));
        }
    }

    fn stepped(&mut self, metrics: &Metrics, timings: &Timings) {
        let Stretch { first, last } = self.stretch;
        let taken = (metrics.step - first).max(1) as f64;
        let left = last.saturating_sub(metrics.step) as f64;
        let seconds_left = self.began.elapsed().as_secs_f64() / taken * left;
        self.view.stepped(metrics, timings, seconds_left);
    }

    fn validated(&mut self, step: u64, validation: &Validation, best: bool) {
        self.view.validated(step, validation, best);
    }

    fn weighed(&mut self, weights: &Weights) {
        self.view.weighed(weights);
    }

    fn sample(&mut self, step: u64, model: &Decoder) {
        if let Err(error) = self.draw(step, model) {
            self.warned(&format!("no sample after step {step}: {error:#}"));
        }
    }

    fn saved(&mut self, step: u64, path: &Path) {
        self.view.saved(step, path);
    }

    fn warned(&mut self, message: &str) {
        self.view.warn(message);
    }

    fn interrupted(&mut self) -> bool {
        if self.view.wants_to_stop() {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Watches for Ctrl-C alone: another rank shows the run.
pub(super) struct Unseen<'a>(pub(super) &'a AtomicBool);

impl Observer for Unseen<'_> {
    fn interrupted(&mut self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
