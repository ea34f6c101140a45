//! What a person sees of a run: a live line on a terminal, plain lines elsewhere.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;
use tern_infer::Model;
use tern_infer::generate::{Generator, Options};
use tern_model::Decoder;
use tern_train::evaluation::Validation;
use tern_train::metrics::{JsonLines, Metrics, Timings};
use tern_train::trainer::Observer;

use super::Session;
use crate::terminal::{Terminal, duration, thousands};

/// Between two lines where there is no terminal.
const PLAIN_SECONDS: f64 = 10.0;

pub(crate) struct Progress<'a> {
    session: &'a Session,
    terminal: &'a Terminal,
    interrupted: &'a AtomicBool,
    bar: ProgressBar,
    first_step: u64,
    began: Instant,
    last_line: Option<Instant>,
    val_loss: Option<f64>,
    samples: Option<JsonLines>,
}

/// One line of `samples.jsonl`.
#[derive(Serialize)]
struct Sample<'a> {
    step: u64,
    prompt: &'a str,
    text: &'a str,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(
        session: &'a Session,
        terminal: &'a Terminal,
        interrupted: &'a AtomicBool,
    ) -> Self {
        let steps = session.stop_at.unwrap_or(u64::MAX).min(session.config.train.steps);
        let bar = terminal.bar(steps, "{bar:24.green} {pos}/{len}  {msg}");
        Self {
            session,
            terminal,
            interrupted,
            bar,
            first_step: 0,
            began: Instant::now(),
            last_line: None,
            val_loss: None,
            samples: None,
        }
    }

    /// Clears the live line.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A line that stays, above the live one.
    fn line(&self, line: &str) {
        self.bar.suspend(|| self.terminal.say(line));
    }

    fn status(&self, metrics: &Metrics, timings: &Timings) -> String {
        let last = self.bar.length().unwrap_or(metrics.step);
        let taken = (metrics.step - self.first_step).max(1) as f64;
        let left = (last - metrics.step.min(last)) as f64;
        let eta = self.began.elapsed().as_secs_f64() / taken * left;
        let val_loss = self.val_loss.map_or_else(String::new, |loss| format!("  val {loss:.3}"));
        let loss = metrics.loss.map_or("skipped".into(), |loss| format!("{loss:.3}"));
        format!(
            "loss {loss}{val_loss}  lr {:.1e}  {} tok/s  {} left",
            metrics.lr,
            thousands(timings.tokens_per_second as u64),
            duration(eta)
        )
    }

    /// Lets the model, projected as it stands, go on with each prompt.
    fn draw(&mut self, step: u64, model: &Decoder) -> anyhow::Result<()> {
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
            if let Some(file) = &mut self.samples {
                file.write(&Sample { step, prompt, text: &text })?;
            }
            let quote = console::style(format!("  {prompt}{text}").replace('\n', "\n  "));
            self.line(&quote.for_stderr().cyan().to_string());
        }
        Ok(())
    }
}

impl Observer for Progress<'_> {
    fn started(&mut self, step: u64, resumed_from: Option<&Path>) {
        self.first_step = step;
        self.began = Instant::now();
        self.bar.set_position(step);
        if let Some(path) = resumed_from {
            self.line(&format!("resumed after step {step} from {}", path.display()));
        }
    }

    fn stepped(&mut self, metrics: &Metrics, timings: &Timings) {
        let status = self.status(metrics, timings);
        if self.terminal.is_live() {
            self.bar.set_position(metrics.step);
            self.bar.set_message(status);
        } else if self.last_line.is_none_or(|t| t.elapsed().as_secs_f64() >= PLAIN_SECONDS) {
            self.last_line = Some(Instant::now());
            let last = self.bar.length().unwrap_or(metrics.step);
            self.terminal.say(&format!("step {}/{last}  {status}", metrics.step));
        }
    }

    fn validated(&mut self, step: u64, validation: &Validation, best: bool) {
        self.val_loss = Some(validation.loss);
        self.line(&format!(
            "step {step}: validation loss {:.4} nats/token, {:.4} bits/byte{}",
            validation.loss,
            validation.bits_per_byte,
            if best { ", the best so far" } else { "" }
        ));
    }

    fn sample(&mut self, step: u64, model: &Decoder) {
        if let Err(error) = self.draw(step, model) {
            self.warned(&format!("no sample after step {step}: {error:#}"));
        }
    }

    fn saved(&mut self, step: u64, path: &Path) {
        self.bar.suspend(|| {
            self.terminal.detail(&format!("step {step}: saved {}", path.display()));
        });
    }

    fn warned(&mut self, message: &str) {
        self.bar.suspend(|| self.terminal.warn(message));
    }

    fn interrupted(&mut self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
