//! A run as lines: below them a live one on a terminal, every ten seconds one elsewhere.

use std::path::Path;
use std::time::Instant;

use indicatif::ProgressBar;
use tern_train::evaluation::Validation;
use tern_train::metrics::{Metrics, Timings};

use super::screen;
use super::view::{Stretch, View, sample_lines, validation_line};
use crate::history::Sample;
use crate::terminal::{Terminal, duration, thousands};

/// Between two lines where there is no live one.
const PLAIN_SECONDS: f64 = 10.0;

pub(super) struct Lines<'a> {
    terminal: &'a Terminal,
    /// None where lines are printed now and then instead.
    bar: Option<ProgressBar>,
    last_step: u64,
    last_line: Option<Instant>,
    val_loss: Option<f64>,
}

impl<'a> Lines<'a> {
    /// Lines with a live one if that is wanted and there is a terminal.
    pub(super) fn new(terminal: &'a Terminal, live: bool) -> Self {
        let live = live && terminal.is_live();
        if live {
            screen::silence_control_characters();
        }
        let bar = live.then(|| terminal.bar(0, "{bar:12.green} {pos}/{len}  {wide_msg}"));
        Self { terminal, bar, last_step: 0, last_line: None, val_loss: None }
    }

    /// Does something to the terminal without the live line.
    fn above(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl View for Lines<'_> {
    fn started(&mut self, stretch: Stretch) {
        self.last_step = stretch.last;
        if let Some(bar) = &self.bar {
            bar.set_length(stretch.last);
            bar.set_position(stretch.first);
        }
    }

    fn stepped(&mut self, metrics: &Metrics, timings: &Timings, seconds_left: f64) {
        let val_loss = self.val_loss.map_or_else(String::new, |loss| format!("  val {loss:.3}"));
        let loss = metrics.loss.map_or("skipped".into(), |loss| format!("{loss:.3}"));
        let status = format!(
            "loss {loss}{val_loss}  lr {:.1e}  {} tok/s  {} left",
            metrics.lr,
            thousands(timings.tokens_per_second as u64),
            duration(seconds_left)
        );
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(status);
        } else if self.last_line.is_none_or(|t| t.elapsed().as_secs_f64() >= PLAIN_SECONDS) {
            self.last_line = Some(Instant::now());
            self.terminal.say(&format!("step {}/{}  {status}", metrics.step, self.last_step));
        }
    }

    fn validated(&mut self, step: u64, validation: &Validation, best: bool) {
        self.val_loss = Some(validation.loss);
        self.line(&validation_line(step, validation, best));
    }

    fn sampled(&mut self, sample: &Sample) {
        self.line(&sample_lines(sample));
    }

    fn saved(&mut self, step: u64, path: &Path) {
        self.above(|| {
            self.terminal.detail(&format!("step {step}: saved {}", path.display()));
        });
    }

    fn line(&mut self, line: &str) {
        self.above(|| self.terminal.say(line));
    }

    fn warn(&mut self, message: &str) {
        self.above(|| self.terminal.warn(message));
    }

    fn close(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            screen::show_control_characters();
        }
    }
}
