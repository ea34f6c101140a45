//! `tern train`

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_train::checkpoint::Best;
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;
use tern_train::plan::Plan;
use tern_train::ranks::Ranks;

use crate::Ending;
use crate::commands::data::prepare::prepare_data;
use crate::commands::devices::memory;
use crate::history::find_data;
use crate::ranks;
use crate::terminal::{Terminal, bytes};
use tern_datasets::prepare::Prepared;

mod dashboard;
pub(crate) mod dry_run;
mod lines;
mod profile;
mod progress;
mod screen;
mod session;
mod view;

pub(crate) use session::{Session, interruptions};
pub(crate) use view::Show;

/// Train a model from a configuration, or go on with a run.
///
/// Ctrl-C saves and leaves; a second Ctrl-C leaves at once. Everything is written to the directory of the run. Started by
/// mpirun, in a build with the feature mpi, several processes train one model together: docs/distributed.md.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern train my.toml --dry-run
  tern train my.toml --profile 5
  tern train my.toml train.steps=500 model.quantizer=none --out runs/float
  tern train --resume --out runs/my")]
pub(crate) struct Arguments {
    /// The TOML file of the run; with --resume it may be left out.
    #[arg(required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Keys to override, for example train.steps=500 model.quantizer=none.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where to compute; `tern devices` lists what there is.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// Directory of the run [default: runs/NAME-OF-THE-CONFIG].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Directory with prepared tokens, made with the settings of this configuration [default: OUT/data, prepared there
    /// if need be; with --resume where the run had them].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Go on from the latest checkpoint in OUT.
    #[arg(long)]
    resume: bool,
    /// Check the configuration, that texts and device can be opened, time two micro-batches, and say what the run would
    /// cost; texts are not read, nothing is written.
    #[arg(long)]
    dry_run: bool,
    /// Take so many steps in memory, on the prepared tokens or else on random ones, and say where their time goes, operation
    /// by operation; nothing is written.
    #[arg(long, value_name = "STEPS", conflicts_with = "dry_run")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    profile: Option<u64>,
    /// Save and leave after this step; the schedule stays that of all steps.
    #[arg(long, value_name = "STEP")]
    stop_at: Option<u64>,
    /// How to show the run.
    #[arg(long, value_enum, default_value_t = Show::Auto)]
    progress: Show,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    step: u64,
    steps: u64,
    finished: bool,
    interrupted: bool,
    loss: Option<f64>,
    best: Option<Best>,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let ranks = ranks::start()?;
    if ranks.is_first() {
        let ending = train(arguments, terminal, &*ranks);
        return ending.or_else(|error| ranks::fail(&*ranks, error, terminal));
    }
    let ending = train(arguments, &terminal.muted(), &*ranks);
    ending.or_else(|error| ranks::fail(&*ranks, error, terminal))
}

/// Trains as one of the ranks.
fn train(arguments: &Arguments, terminal: &Terminal, ranks: &dyn Ranks) -> Result<Ending> {
    // With --resume a first word like train.steps=5 is an override, not the name of a file.
    let mut overrides = arguments.overrides.clone();
    let mut path = arguments.config.clone();
    if let Some(first) = path.as_ref().and_then(|p| p.to_str()).filter(|p| p.contains('=')) {
        overrides.insert(0, first.into());
        path = None;
    }
    let directory = match (&arguments.out, &path) {
        (Some(out), _) => RunDirectory::new(out),
        (None, Some(config)) => default_directory(config),
        (None, None) => anyhow::bail!("--resume without a configuration needs --out DIR"),
    };
    let config = match &path {
        Some(path) => RunConfig::read(path, &overrides)?,
        None => RunConfig::read(&directory.config(), &overrides)
            .with_context(|| format!("{}: no run to resume", directory.path().display()))?,
    };
    if let Some(stop_at) = arguments.stop_at {
        let steps = config.train.steps;
        anyhow::ensure!(
            stop_at <= steps,
            "--stop-at must be at most train.steps ({steps}), is {stop_at}"
        );
    }
    ranks.check(&config)?;
    tern_model::device::find(&arguments.device)?;
    fits_memory(&Plan::new(&config))?;
    // Before the data are made: a run that is there already keeps its own.
    directory.check(&config, arguments.resume)?;
    let data_directory = match &arguments.data {
        Some(data) => data.clone(),
        None if arguments.resume => find_data(&directory),
        None => directory.data(),
    };
    // The saved configuration no longer knows where the text was, but the tokens are there.
    let source = path.as_deref().filter(|_| data_directory == directory.data());
    let open = || -> Result<Prepared> {
        let data = Prepared::open(&data_directory)?;
        let written = path.clone().unwrap_or_else(|| directory.config());
        let checked = data.summary.check(&config.data, &data_directory);
        checked.map_err(|error| RunConfig::place(&written, &overrides, error))?;
        Ok(data)
    };
    if arguments.dry_run {
        // What the run would read must be there: prepared tokens, or the text to prepare them from.
        match source {
            Some(path) => dry_run::check_sources(&config.data, parent(path))?,
            None => drop(open()?),
        }
        if !ranks.is_first() {
            return Ok(Ending::Done);
        }
        return dry_run::run(&config, &arguments.device, &data_directory, terminal);
    }
    if let Some(steps) = arguments.profile {
        // Tokens that were named must be there; those that the run would make need not.
        let data = match source {
            Some(_) => open().ok(),
            None => Some(open()?),
        };
        return profile::run(&config, &arguments.device, data.as_ref(), steps, terminal);
    }
    let interrupted = interruptions()?;
    // No rank may find what the first is about to write.
    ranks.wait();
    let _lock = ranks.is_first().then(|| directory.lock()).transpose()?;
    terminal.detail(&config.to_toml());

    let mut prepared = None;
    if let Some(path) = source.filter(|_| ranks.is_first()) {
        prepared = Some(prepare_data(&config.data, parent(path), &data_directory, terminal)?);
    }
    ranks.wait();
    let data = prepared.map_or_else(open, Ok)?;
    let session = Session {
        config,
        directory,
        data,
        device: arguments.device.clone(),
        stop_at: arguments.stop_at,
        resume: arguments.resume,
    };
    let outcome = session.train(arguments.progress, terminal, &interrupted, ranks)?;
    let stopped = ranks.any(interrupted.load(Ordering::Relaxed)) && !outcome.finished;
    let out = session.directory.path();
    let report = Report {
        out,
        step: outcome.step,
        steps: session.config.train.steps,
        finished: outcome.finished,
        interrupted: stopped,
        loss: outcome.loss,
        best: outcome.best,
    };
    terminal.result(&report, "")?;
    if outcome.finished {
        // Without a step there is no loss: the run was finished before.
        let already = if outcome.loss.is_none() { "already " } else { "" };
        let best = outcome.best.map_or_else(String::new, |best| {
            format!("; best validation loss {:.4} after step {}", best.val_loss, best.step)
        });
        terminal.say(&format!("{already}finished after step {}{best}", outcome.step));
        terminal.say(&format!("next: tern export {0}, tern report {0}", out.display()));
    } else {
        terminal.say(&format!(
            "saved after step {}; go on with: tern train --resume --out {}",
            outcome.step,
            out.display()
        ));
    }
    Ok(if stopped { Ending::Interrupted } else { Ending::Done })
}

/// `runs/NAME` for `…/NAME.toml`.
pub(crate) fn default_directory(config: &Path) -> RunDirectory {
    RunDirectory::new(Path::new("runs").join(config.file_stem().unwrap_or("run".as_ref())))
}

/// The directory that a configuration's relative paths start from.
pub(crate) fn parent(config: &Path) -> &Path {
    config.parent().unwrap_or(Path::new(""))
}

/// Refuses a run that this machine has no memory for.
pub(crate) fn fits_memory(plan: &Plan) -> Result<()> {
    match memory().filter(|&memory| plan.memory_bytes > memory) {
        None => Ok(()),
        Some(memory) => anyhow::bail!(
            "the run needs about {}, and this machine has {}; make the model, data.seq_len or data.micro_batch smaller",
            bytes(plan.memory_bytes),
            bytes(memory)
        ),
    }
}
