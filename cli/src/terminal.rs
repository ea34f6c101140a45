//! Where everything is printed: results to standard output, the rest to standard error.

#[cfg(feature = "train")]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "train")]
use std::time::Duration;

use anyhow::Context;
use indicatif::WeakProgressBar;
#[cfg(feature = "train")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tern_format::harmless::{LAYOUT, escaped};

use crate::logging::Level;

/// What an error about standard output names.
pub(crate) const STANDARD_OUTPUT: &str = "standard output";

/// Bytes of the log that are kept back at most, the latest.
const MOST_HELD_LOG: usize = 1 << 20;

/// How much to say, and in which form.
///
/// With `--json`, standard output has one object and nothing else, and standard error warnings and errors alone: a
/// program that reads the one need not filter the other.
#[derive(Clone)]
pub(crate) struct Terminal {
    /// One JSON object instead of text.
    pub(crate) json: bool,
    verbose: bool,
    quiet: bool,
    calm: bool,
    /// For a rank of a run that another one speaks for: nothing is printed.
    mute: bool,
    /// The latest progress bar, above which log lines go.
    bar: Arc<Mutex<WeakProgressBar>>,
    /// The log while something else has the whole terminal; none where it is printed at once.
    held_log: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Terminal {
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        let (bar, held_log) = Default::default();
        Self { json, verbose, quiet, calm: false, mute: false, bar, held_log }
    }

    /// Prints a result: `value` as JSON under `--json`, else `text`.
    pub(crate) fn result(&self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        if self.json {
            self.out(&format!("{}\n", serde_json::to_string(value)?))
        } else {
            self.out(text)
        }
    }

    /// Writes to standard output at once.
    pub(crate) fn out(&self, text: &str) -> anyhow::Result<()> {
        if self.mute {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(STANDARD_OUTPUT)
    }

    /// A line on standard error, unless `--quiet` or `--json`.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet && !self.json && !self.calm {
            self.print_error_line(line);
        }
    }

    /// A line on standard error that an option asks for, unless `--json`.
    pub(crate) fn asked(&self, line: &str) {
        if !self.json {
            self.print_error_line(line);
        }
    }

    /// A line on standard error under `-v`.
    pub(crate) fn detail(&self, line: &str) {
        if self.verbose && !self.json {
            self.print_error_line(line);
        }
    }

    /// Whether `-v` was given.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A warning, unless `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        if !self.quiet {
            let label = console::style("warning").for_stderr().yellow().bold();
            self.print_error_line(&format!("{label}: {}", escaped(line, &LAYOUT)));
        }
    }

    /// What the log says of our own doings, unless asked.
    pub(crate) fn default_level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Error,
            (_, true) => Level::Debug,
            _ => Level::Warn,
        }
    }

    /// For one run of several: where a live line shows how it goes, nothing else is said, unless under `-v`.
    #[cfg(feature = "train")]
    pub(crate) fn for_one_of_several(&self) -> Self {
        Self { calm: self.is_live() && !self.verbose, ..self.clone() }
    }

    /// For a process that another one speaks for; errors are printed all the same.
    #[cfg(feature = "train")]
    pub(crate) fn muted(&self) -> Self {
        Self { mute: true, quiet: true, verbose: false, ..self.clone() }
    }

    /// Lines of the log, above the progress bar if there is one.
    pub(crate) fn log(&self, bytes: &[u8]) {
        if let Some(held) = &mut *self.held_log.lock().unwrap_or_else(PoisonError::into_inner) {
            if held.len() + bytes.len() > MOST_HELD_LOG {
                held.drain(..held.len() / 2);
            }
            held.extend_from_slice(bytes);
            return;
        }
        let write = || {
            let _ = io::stderr().lock().write_all(bytes);
        };
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Keeps the log back until [`Terminal::release_log`].
    #[cfg(feature = "train")]
    pub(crate) fn hold_log(&self) {
        *self.held_log.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// Prints the log that was kept back.
    #[cfg(feature = "train")]
    pub(crate) fn release_log(&self) {
        let held = self.held_log.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.log(&held.unwrap_or_default());
    }

    /// The error that ends the program, with its causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let text = escaped(&message(error), &LAYOUT);
        let label = console::style("error").for_stderr().red().bold();
        self.print_error_line(&format!("{label}: {text}"));
    }

    /// Whether a live progress line makes sense.
    #[cfg(feature = "train")]
    pub(crate) fn is_live(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// A progress bar on a terminal; hidden elsewhere.
    #[cfg(feature = "train")]
    pub(crate) fn bar(&self, length: u64, template: &str) -> ProgressBar {
        let target = if self.is_live() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        if self.is_live() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = bar.downgrade();
        bar
    }

    /// Standard error may be closed or full, and nothing can be said about that anywhere.
    fn print_error_line(&self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// An error with its causes. A file may put a megabyte into one: what is left out is marked by `…`.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = shortened(&cause.to_string(), MOST_OF_A_CAUSE);
        // Many errors print their source themselves, and may have shortened it.
        if !text.contains(shortened(&cause, 60).trim_end_matches('…')) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// More than any message of ours has, in characters.
const MOST_OF_A_CAUSE: usize = 2_000;

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Whether an error is only that nobody reads our output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// `1,234,567`
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MiB`
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// `3 min 07 s`
#[cfg(feature = "train")]
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_each_cause_once_and_nothing_at_length() {
        let error = anyhow::anyhow!("no such file").context("a.toml").context("no run here");
        assert_eq!(message(&error), "no run here: a.toml: no such file");
        let error = anyhow::anyhow!("no such file").context("a.toml: no such file");
        assert_eq!(message(&error), "a.toml: no such file");
        let cause = "x".repeat(1_000_000);
        let outer = format!("metadata: {}…", "x".repeat(400));
        assert_eq!(message(&anyhow::anyhow!(cause.clone()).context(outer.clone())), outer);
        assert_eq!(message(&anyhow::anyhow!(cause)).chars().count(), 2_001);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(998_784), "998,784");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(duration(187.2), "3 min 07 s");
        assert_eq!(duration(7_300.0), "2 h 01 min");
    }
}
