//! A run on burn-train's terminal dashboard.
//!
//! Its horizontal axis counts values, not steps, so a resumed run first shows it the steps before. It knows no text
//! but that of metrics: the step and the time left stand in the title of its status, the last sample among the
//! metrics. What else there is to say is said when it closes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn_train::Interrupter;
use burn_train::logger::TrainingProgressLogger;
use burn_train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};
use tern_format::contain::is_contained;
use tern_train::evaluation::Validation;
use tern_train::metrics::{Metrics, Timings};
use tern_train::weights::Weights;

use super::Session;
use super::screen;
use super::view::{Stretch, View, sample_lines, validation_line};
use crate::history::{History, Sample};
use crate::terminal::{Terminal, duration, thousands};

const LOSS: &str = "Loss";
const LEARNING_RATE: &str = "Learning rate";
const GRADIENT_NORM: &str = "Gradient norm";
const TOKENS_PER_SECOND: &str = "Tokens/s";
const ZEROS: &str = "Zeros, %";
const SAMPLE: &str = "Last sample";

/// Characters of a sample that its corner has room for.
const MOST_SAMPLE: usize = 400;
/// Lines said at the end; the files of the run have the rest.
const MOST_LINES: usize = 12;

/// The person in front of the dashboard chose to kill the run.
pub(super) struct Killed;

type PanicHook = Box<dyn Fn(&std::panic::PanicHookInfo<'_>) + Sync + Send>;

pub(super) struct Dashboard<'a> {
    session: &'a Session,
    terminal: &'a Terminal,
    /// None once it is closed.
    renderer: Option<TuiMetricsRendererWrapper>,
    interrupter: Interrupter,
    stretch: Stretch,
    /// Percent; none before the first count, and in a float model.
    zeros: Option<f64>,
    /// Whether they were counted since the last step.
    counted: bool,
    lines: Vec<String>,
    sample: Option<Sample>,
    /// What a panic said while nobody could read it.
    panic: Arc<Mutex<Option<String>>>,
    hook: Option<PanicHook>,
}

impl<'a> Dashboard<'a> {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(super) fn open(session: &'a Session, terminal: &'a Terminal) -> Result<Self> {
        screen::take().context("cannot take the terminal")?;
        terminal.hold_log();
        let panic = Arc::new(Mutex::new(None));
        let said = Arc::clone(&panic);
        // The renderer calls this hook after it has left its screen, and prints nothing itself but after a kill.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_contained() {
                *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
            }
        }));
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for name in [LOSS, LEARNING_RATE, GRADIENT_NORM, TOKENS_PER_SECOND] {
            renderer.register_metric(definition(name, true));
        }
        if session.config.model.is_ternary() {
            renderer.register_metric(definition(ZEROS, true));
        }
        renderer.register_metric(definition(SAMPLE, false));
        Ok(Self {
            session,
            terminal,
            renderer: Some(renderer),
            interrupter,
            stretch: Stretch { first: 0, last: 0 },
            zeros: None,
            counted: false,
            lines: Vec::new(),
            sample: None,
            panic,
            hook: Some(hook),
        })
    }

    /// Tells the renderer something. After *Kill* it panics then, and the run unwinds from here, without another word;
    /// also where there is no terminal any more, and then the run goes on without it.
    fn tell(&mut self, something: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        let Some(renderer) = &mut self.renderer else { return };
        if catch_unwind(AssertUnwindSafe(|| something(renderer))).is_err() {
            // Its thread is gone, and dropping it would panic again.
            std::mem::forget(self.renderer.take());
            if !screen::is_gone() {
                resume_unwind(Box::new(Killed));
            }
        }
    }

    fn plot(&mut self, name: &str, text: String, value: Option<f64>) {
        let state = MetricState::Numeric(entry(name, text), value.map(NumericEntry::Value));
        self.tell(|renderer| renderer.update_train(state));
    }

    /// One step on every plot.
    fn show(&mut self, metrics: &Metrics, timings: Option<&Timings>) {
        let loss = metrics.loss.map_or("skipped".into(), |loss| format!("{loss:.4} nats/token"));
        self.plot(LOSS, loss, metrics.loss);
        self.plot(LEARNING_RATE, format!("{:.3e}", metrics.lr), Some(metrics.lr));
        let norm = metrics.grad_norm.map_or("not finite".into(), |norm| format!("{norm:.3}"));
        self.plot(GRADIENT_NORM, norm, metrics.grad_norm);
        if let Some(timings) = timings {
            let rate = timings.tokens_per_second;
            self.plot(TOKENS_PER_SECOND, thousands(rate as u64), Some(rate));
        }
        if let Some(zeros) = self.zeros {
            let counted = std::mem::take(&mut self.counted).then_some(zeros);
            self.plot(ZEROS, format!("{zeros:.2} % of all trits"), counted);
        }
    }

    fn show_validation(&mut self, loss: f64) {
        let text = format!("{loss:.4} nats/token");
        let state = MetricState::Numeric(entry(LOSS, text), Some(NumericEntry::Value(loss)));
        self.tell(|renderer| renderer.update_valid(state));
    }

    fn show_sample(&mut self, sample: &Sample) {
        let text = format!("step {}: {}{}", sample.step, sample.prompt, sample.text);
        // One paragraph of plain characters: the renderer has one line for it, which it wraps.
        let text: String = text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(MOST_SAMPLE)
            .collect();
        let state = MetricState::Generic(entry(SAMPLE, text));
        self.tell(|renderer| renderer.update_train(state));
        self.sample = Some(sample.clone());
    }

    /// The steps before those of this process.
    fn show_past(&mut self, history: &History) {
        let first = self.stretch.first;
        let mut timings = history.timings.iter().peekable();
        let mut weights = history.weights.iter().peekable();
        for metrics in history.metrics.iter().filter(|line| line.step <= first) {
            while timings.next_if(|line| line.step < metrics.step).is_some() {}
            if let Some(line) = weights.next_if(|line| line.step <= metrics.step) {
                self.weighed(line);
            }
            let of_step = timings.next_if(|line| line.step == metrics.step);
            self.show(metrics, of_step);
            if let Some(loss) = metrics.val_loss {
                self.show_validation(loss);
            }
        }
        if let Some(sample) = history.samples.iter().rfind(|sample| sample.step <= first) {
            self.show_sample(sample);
        }
    }
}

impl View for Dashboard<'_> {
    fn started(&mut self, stretch: Stretch) {
        self.stretch = stretch;
        if stretch.first > 0 {
            match History::read(self.session.directory.path()) {
                Ok(history) => self.show_past(&history),
                Err(error) => self.warn(&format!("the steps before are not shown: {error:#}")),
            }
        }
    }

    fn stepped(&mut self, metrics: &Metrics, timings: &Timings, seconds_left: f64) {
        self.show(metrics, Some(timings));
        let Stretch { first, last } = self.stretch;
        let label = format!("{}/{last}, {} left", metrics.step, duration(seconds_left));
        let (taken, steps) = ((metrics.step - first) as usize, (last - first) as usize);
        self.tell(|renderer| {
            // One epoch: its bars and its own estimate are over the steps of this process.
            renderer.start(1, 1, Some(steps), Some(&label));
            renderer.update_split(taken);
        });
    }

    fn validated(&mut self, step: u64, validation: &Validation, best: bool) {
        self.show_validation(validation.loss);
        self.line(&validation_line(step, validation, best));
    }

    fn weighed(&mut self, weights: &Weights) {
        self.zeros = Some(100.0 * weights.zeros);
        self.counted = true;
    }

    fn sampled(&mut self, sample: &Sample) {
        self.show_sample(sample);
    }

    fn saved(&mut self, step: u64, path: &Path) {
        if self.terminal.is_verbose() {
            self.line(&format!("step {step}: saved {}", path.display()));
        }
    }

    fn line(&mut self, line: &str) {
        self.lines.push(line.into());
    }

    fn warn(&mut self, message: &str) {
        // The dashboard counts events by name.
        self.tell(|renderer| renderer.log_event_training("Warnings".into()));
        self.lines.push(format!("warning: {message}"));
    }

    fn wants_to_stop(&self) -> bool {
        // Where hangups are ignored no signal says that the window was closed.
        self.interrupter.should_stop() || screen::is_gone()
    }

    fn close(&mut self) {
        let Some(hook) = self.hook.take() else { return };
        // Closing speaks to the renderer once more, and so may panic after *Kill*.
        let renderer = self.renderer.take();
        if screen::is_gone() {
            // Its thread waits for keys that will never come, and nobody should wait for it.
            std::mem::forget(renderer);
        } else {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(renderer)));
        }
        screen::give_back();
        std::panic::set_hook(hook);
        self.terminal.release_log();
        let unsaid = self.lines.len().saturating_sub(MOST_LINES);
        if unsaid > 0 {
            self.terminal.say(&format!("({unsaid} earlier messages; see tern report)"));
        }
        for line in &self.lines[unsaid..] {
            self.terminal.say(line);
        }
        if let Some(sample) = &self.sample {
            self.terminal.say(&sample_lines(sample));
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(message) = panic {
            self.terminal.say(&message);
        }
    }
}

impl Drop for Dashboard<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

fn definition(name: &str, plotted: bool) -> MetricDefinition {
    MetricDefinition {
        metric_id: id(name),
        name: Arc::new(name.into()),
        description: None,
        attributes: if plotted {
            NumericAttributes { unit: None, higher_is_better: false }.into()
        } else {
            MetricAttributes::None
        },
    }
}

fn entry(name: &str, text: String) -> MetricEntry {
    MetricEntry::new(id(name), SerializedEntry::new(text, String::new()))
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.into()))
}
