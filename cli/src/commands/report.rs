//! `tern report`

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use tern_format::atomic::write_atomically;
use tern_infer::verify::Verdict;
use tern_train::checkpoint;

use crate::Ending;
use crate::history::History;
use crate::overwrite;
use crate::terminal::{Terminal, bytes};

mod charts;
mod page;

use page::Page;

/// Write one page about a run: curves, samples, settings, the verifier's verdict.
///
/// Also zeros and scales of the matrices, and where the model comes from.
/// The page is one file without references to any other, for a browser of any size, light or dark. The run may be
/// going on, interrupted or finished; lines that are damaged are named and left out.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern report runs/quickstart --out report.html")]
pub(crate) struct Arguments {
    /// Directory of the run.
    run: PathBuf,
    /// The file to write [default: RUN/report.html].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw the losses over a logarithmic axis of steps.
    #[arg(long)]
    log_x: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    out: PathBuf,
    bytes: usize,
    state: State,
    step: u64,
    steps: Option<u64>,
    loss: Option<f64>,
    best: Option<Best>,
    samples: usize,
    events: usize,
    verdict: Option<Verdict>,
    damage: &'a [String],
}

#[derive(Serialize)]
struct Best {
    step: u64,
    val_loss: f64,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// No step was taken.
    Empty,
    /// A process trains at this moment.
    Running,
    /// Steps are missing, and nobody takes them.
    Interrupted,
    /// Every step was taken.
    Finished,
}

impl State {
    fn of(history: &History) -> Self {
        let steps = history.config.as_ref().map(|config| config.train.steps);
        match history.step() {
            step if steps.is_some_and(|steps| step >= steps) => Self::Finished,
            _ if history.is_running => Self::Running,
            0 => Self::Empty,
            _ => Self::Interrupted,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let out = arguments.out.clone().unwrap_or_else(|| arguments.run.join("report.html"));
    overwrite::only_what_begins_with(&out, b"<!doctype html>", "HTML page")?;
    let history = History::read(&arguments.run)?;
    for damage in &history.damage {
        terminal.warn(damage);
    }
    let state = State::of(&history);
    if history.directory.model().exists() {
        terminal.detail(&format!("verifying {}", history.directory.model().display()));
    }
    // A run that goes on removes checkpoints while they are read.
    if !history.is_running {
        for (_, path) in checkpoint::list(&history.directory.checkpoints())? {
            let damage = checkpoint::check(&path).map_err(|error| error.to_string()).err();
            // That of its state has been named.
            if let Some(damage) = damage.filter(|damage| !history.damage.contains(damage)) {
                terminal.warn(&damage);
            }
        }
    }
    let page = Page::new(&history, state, arguments.log_x)?;
    if let Some(error) = page.unreadable() {
        terminal.warn(error);
    }
    let html = page.render()?;
    write_atomically(&out, |file| file.write_all(html.as_bytes()))?;
    let text = format!("{} ({})\n", out.display(), bytes(html.len() as u64));
    let report = Report {
        out,
        bytes: html.len(),
        state,
        step: history.step(),
        steps: history.config.as_ref().map(|config| config.train.steps),
        loss: history.metrics.last().and_then(|line| line.loss),
        best: history.best().map(|(step, val_loss)| Best { step, val_loss }),
        samples: history.samples.len(),
        events: history.events.len(),
        verdict: page.verdict(),
        damage: &history.damage,
    };
    terminal.result(&report, &text)?;
    Ok(Ending::Done)
}
