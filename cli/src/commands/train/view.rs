//! The ways in which a run can be shown, and which one is taken.

use std::io::{self, IsTerminal};
use std::path::Path;

use clap::ValueEnum;
use tern_format::harmless::{LAYOUT, escaped};
use tern_train::evaluation::Validation;
use tern_train::metrics::{Metrics, Timings};
use tern_train::weights::Weights;

use super::Session;
use super::dashboard::Dashboard;
use super::lines::Lines;
use crate::history::Sample;
use crate::terminal::Terminal;

/// Columns and rows that the dashboard needs to show more than its frames.
const DASHBOARD_SIZE: (u16, u16) = (100, 30);

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// The dashboard on a terminal of 100 by 30 or more, else the bar; plain lines where there is no terminal.
    Auto,
    /// Plots and figures on the whole terminal; q asks whether to stop.
    Dashboard,
    /// One live line below the messages.
    Bar,
    /// A line every ten seconds.
    Plain,
}

/// Steps of this process: `first` were taken before, `last` is where it stops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Shows a run.
pub(super) trait View {
    /// The loop is about to start.
    fn started(&mut self, stretch: Stretch);
    fn stepped(&mut self, metrics: &Metrics, timings: &Timings, seconds_left: f64);
    fn validated(&mut self, step: u64, validation: &Validation, best: bool);
    fn weighed(&mut self, _weights: &Weights) {}
    fn sampled(&mut self, sample: &Sample);
    fn saved(&mut self, step: u64, path: &Path);
    /// A line that stays on the terminal after the run.
    fn line(&mut self, line: &str);
    fn warn(&mut self, message: &str);
    /// Whether the person in front of it asked to save and stop.
    fn wants_to_stop(&self) -> bool {
        false
    }
    /// Gives the terminal back.
    fn close(&mut self);
}

impl Show {
    /// The view of this kind that the terminal can have.
    pub(super) fn view<'a>(
        self,
        session: &'a Session,
        terminal: &'a Terminal,
    ) -> Box<dyn View + 'a> {
        let whole = terminal.is_live() && io::stdout().is_terminal() && io::stdin().is_terminal();
        let dashboard = match self {
            Self::Dashboard if !whole => {
                terminal
                    .warn("no dashboard: standard input, output and error are not all a terminal");
                false
            }
            Self::Dashboard => true,
            Self::Auto => {
                let (columns, rows) = crossterm::terminal::size().unwrap_or_default();
                let fits = columns >= DASHBOARD_SIZE.0 && rows >= DASHBOARD_SIZE.1;
                whole && !terminal.json && fits
            }
            Self::Bar | Self::Plain => false,
        };
        if dashboard {
            match Dashboard::open(session, terminal) {
                Ok(dashboard) => return Box::new(dashboard),
                Err(error) => terminal.warn(&format!("no dashboard: {error:#}")),
            }
        }
        Box::new(Lines::new(terminal, self != Self::Plain))
    }
}

/// The line about a validation.
pub(super) fn validation_line(step: u64, validation: &Validation, best: bool) -> String {
    format!(
        "step {step}: validation loss {:.4} nats/token, {:.4} bits/byte{}",
        validation.loss,
        validation.bits_per_byte,
        if best { ", the best so far" } else { "" }
    )
}

/// A sample under a line that says what it is.
pub(super) fn sample_lines(Sample { step, prompt, text }: &Sample) -> String {
    let text = format!("{prompt}{text}");
    let text = if text.trim().is_empty() { "(nothing)" } else { text.trim() };
    let text = format!("  {}", escaped(text, &LAYOUT)).replace('\n', "\n  ");
    format!("sample after step {step}:\n{}", console::style(text).for_stderr().cyan())
}
