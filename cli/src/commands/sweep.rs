//! `tern sweep`: the same run under every combination of some settings.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tern_datasets::config::DataConfig;
use tern_datasets::prepare::{Prepared, tokens_name};
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;
use tern_train::plan::Plan;
use tern_train::ranks::Alone;
use tern_train::rehearsal::Rehearsal;

use crate::Ending;
use crate::commands::data::prepare::prepare_data;
use crate::commands::train::dry_run::check_sources;
use crate::commands::train::{
    Session, Show, default_directory, fits_memory, interruptions, parent,
};
use crate::terminal::{Terminal, bytes, duration, message, thousands};
use grid::{Axis, Point};
use results::{Row, Runs, Status};

mod grid;
mod results;

/// Train a run for every combination of some settings, and compare them.
///
/// Each run has a directory of its own in OUT, named after its settings; data that are the same are prepared once. The
/// same command goes on where it was stopped: finished runs stay, stopped and failed ones are tried again. A run that
/// fails does not stop the others; the exit code is then 1. The table, sorted by validation loss, is also written to
/// OUT/sweep.json and OUT/sweep.csv.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern sweep my.toml train.optimizer.learning_rate=1e-3,3e-3 seed=1,2 --out runs/rates
  tern sweep my.toml train.optimizer.betas=[0.9,0.95],[0.9,0.99] train.steps=200
  tern sweep my.toml model.quantizer=b158,none seed=1,2,3 --dry-run")]
pub(crate) struct Arguments {
    /// The TOML file of the runs.
    config: PathBuf,
    /// Keys and the values to try, separated by commas; one value sets a key for all runs. Values with commas go into
    /// brackets or quotation marks.
    #[arg(value_name = "KEY=VALUE,…", required = true)]
    axes: Vec<String>,
    /// Directory of the sweep [default: runs/NAME-OF-THE-CONFIG-sweep].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to compute; `tern devices` lists what there is.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// List the runs and what they would cost, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A combination of settings, resolved or refused.
struct Planned {
    point: Point,
    config: Result<RunConfig>,
}

/// What the runs of one sweep share.
struct Sweep<'a> {
    arguments: &'a Arguments,
    out: PathBuf,
    terminal: &'a Terminal,
    interrupted: &'a AtomicBool,
    /// Prepared data by their names.
    data: HashMap<String, Prepared>,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let out = arguments.out.clone().unwrap_or_else(|| {
        let mut name = default_directory(&arguments.config).path().as_os_str().to_owned();
        name.push("-sweep");
        name.into()
    });
    tern_model::device::find(&arguments.device)?;
    let axes: Vec<Axis> =
        arguments.axes.iter().map(|text| Axis::parse(text)).collect::<Result<_>>()?;
    let points = grid::points(&axes)?;
    let count = points.len();
    let planned: Vec<Planned> = points
        .into_iter()
        .map(|point| {
            let config = RunConfig::read(&arguments.config, &point.overrides());
            Planned { config: config.map_err(Into::into), point }
        })
        .collect();
    // A combination may be impossible, but where all are it is the sweep that is wrong.
    if planned.iter().all(|planned| planned.config.is_err()) {
        return planned
            .into_iter()
            .find_map(|planned| planned.config.err())
            .map_or(Ok(Ending::Done), Err);
    }
    if arguments.dry_run {
        return dry_run(&planned, arguments, terminal);
    }
    anyhow::ensure!(
        !RunDirectory::new(&out).has_run(),
        "{}: holds a single run; choose another --out",
        out.display()
    );
    results::check_targets(&out)?;
    // Held to the end: two sweeps in one directory would prepare the same data at the same time.
    let _lock = RunDirectory::new(&out).lock()?;
    let interrupted = interruptions()?;
    let mut sweep =
        Sweep { arguments, out, terminal, interrupted: &interrupted, data: HashMap::new() };
    let mut rows = Vec::new();
    for (i, planned) in planned.iter().enumerate() {
        if !interrupted.load(Ordering::Relaxed) {
            terminal.say(&format!("[{}/{count}] {}", i + 1, planned.point.name));
        }
        let row = sweep.row(planned)?;
        if let (Status::Finished, Some(val_loss)) = (row.status, row.val_loss) {
            terminal.say(&format!("  validation loss {val_loss:.4} nats/token"));
        }
        rows.push(row);
        results::write(&sweep.out, &rows)?;
    }
    finish(&sweep, rows)
}

impl Sweep<'_> {
    /// Runs one combination, unless it is finished, and reads what came of it.
    fn row(&mut self, planned: &Planned) -> Result<Row> {
        let Point { name, settings } = &planned.point;
        let directory = RunDirectory::new(self.out.join(name));
        let read = |steps| Row::read(name, settings, &directory, steps);
        let tried = match &planned.config {
            Err(error) => Err(anyhow!(message(error))),
            Ok(config) => {
                let stopped = self.interrupted.load(Ordering::Relaxed);
                let saved = directory.has_run().then(|| directory.check(config, true));
                match saved.transpose() {
                    Err(error) => Err(error.into()),
                    Ok(_) if read(config.train.steps)?.status == Status::Finished => {
                        self.terminal.say("  finished before");
                        Ok(())
                    }
                    Ok(_) if stopped => Ok(()),
                    Ok(_) => self.train(config, &directory),
                }
            }
        };
        let mut row = read(planned.config.as_ref().map_or(u64::MAX, |config| config.train.steps))?;
        if let Err(error) = tried {
            row.status = Status::Failed;
            self.terminal.warn(&format!("{name}: {}", message(&error)));
            row.error = Some(message(&error));
        }
        Ok(row)
    }

    fn train(&mut self, config: &RunConfig, directory: &RunDirectory) -> Result<()> {
        fits_memory(&Plan::new(config))?;
        let _lock = directory.lock()?;
        let session = Session {
            config: config.clone(),
            directory: directory.clone(),
            data: self.data(&config.data)?,
            device: self.arguments.device.clone(),
            stop_at: None,
            resume: directory.has_run(),
        };
        // A panic ends this run alone: the session turns it into an error.
        let terminal = self.terminal.for_one_of_several();
        session.train(Show::Bar, &terminal, self.interrupted, &Alone).map(drop)
    }

    /// The tokens of a `[data]` table, prepared by the first run that needs them.
    fn data(&mut self, config: &DataConfig) -> Result<Prepared> {
        let name = tokens_name(config);
        if let Some(prepared) = self.data.get(&name) {
            return Ok(prepared.clone());
        }
        let directory = self.out.join("data").join(&name);
        let base = parent(&self.arguments.config);
        let prepared = prepare_data(config, base, &directory, self.terminal)?;
        self.data.insert(name, prepared.clone());
        Ok(prepared)
    }
}

/// Prints the table and says how it ended.
fn finish(sweep: &Sweep<'_>, mut rows: Vec<Row>) -> Result<Ending> {
    results::sort(&mut rows);
    results::write(&sweep.out, &rows)?;
    sweep.terminal.result(&Runs { runs: &rows }, &results::table(&rows))?;
    let out = sweep.out.display();
    if let Some(best) = rows.iter().find(|row| row.status == Status::Finished) {
        sweep.terminal.say(&format!("next: tern export {out}/{}", best.name));
    }
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    if sweep.interrupted.load(Ordering::Relaxed) && count(Status::Finished) < rows.len() {
        sweep.terminal.say("stopped; the same command goes on");
        return Ok(Ending::Interrupted);
    }
    match count(Status::Failed) {
        0 => Ok(Ending::Done),
        failed => Err(anyhow!(
            "{failed} of {} runs failed; {out}/sweep.json has the reasons, and the same command tries them again",
            rows.len()
        )),
    }
}

/// One line of the dry run.
#[derive(Serialize)]
struct Cost {
    name: String,
    error: Option<String>,
    #[serde(flatten)]
    plan: Option<Plan>,
    #[serde(flatten)]
    rehearsal: Option<Rehearsal>,
}

/// Lists the grid with what each run would cost; runs of the same shape are timed once.
fn dry_run(planned: &[Planned], arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let device = tern_model::device::find(&arguments.device)?.autodiff();
    let mut timed: HashMap<String, Rehearsal> = HashMap::new();
    let mut costs = Vec::new();
    for Planned { point, config } in planned {
        let cost = |config: &RunConfig| -> Result<(Plan, Rehearsal)> {
            check_sources(&config.data, parent(&arguments.config))?;
            let plan = Plan::new(config);
            fits_memory(&plan)?;
            let shape =
                format!("{:?} {} {}", config.model, config.data.micro_batch, config.data.seq_len);
            let micro_batch =
                *timed.entry(shape).or_insert_with(|| Rehearsal::measure(config, &device));
            Ok((plan, micro_batch.of(config)))
        };
        let cost = config.as_ref().map_err(|error| anyhow!(message(error))).and_then(cost);
        let (plan, rehearsal, error) = match cost {
            Ok((plan, rehearsal)) => (Some(plan), Some(rehearsal), None),
            Err(error) => (None, None, Some(message(&error))),
        };
        costs.push(Cost { name: point.name.clone(), error, plan, rehearsal });
    }
    let mut text = cost_table(&costs);
    let seconds: f64 =
        costs.iter().flat_map(|cost| &cost.rehearsal).map(|r| r.training_seconds).sum();
    let able = costs.iter().filter(|cost| cost.error.is_none()).count();
    text.push_str(&format!(
        "{able} runs, about {} of training; validations, samples and the data come on top\n",
        duration(seconds)
    ));
    terminal.result(&Runs { runs: &costs }, &text)?;
    anyhow::ensure!(
        able == costs.len(),
        "{} of {} runs cannot run",
        costs.len() - able,
        costs.len()
    );
    Ok(Ending::Done)
}

fn cost_table(costs: &[Cost]) -> String {
    let width = costs.iter().map(|cost| cost.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:width$}  {:>13}  {:>15}  {:>11}  {:>12}\n",
        "run", "parameters", "tokens", "memory", "time"
    );
    let mut reasons = Vec::new();
    for Cost { name, error, plan, rehearsal } in costs {
        let line = match (plan, rehearsal) {
            (Some(plan), Some(rehearsal)) => format!(
                "{:>13}  {:>15}  {:>11}  {:>12}",
                thousands(plan.parameters),
                thousands(plan.tokens),
                bytes(plan.memory_bytes),
                duration(rehearsal.training_seconds)
            ),
            _ => format!("{:>13}", "cannot run"),
        };
        text.push_str(&format!("{name:width$}  {line}\n"));
        reasons.extend(error.as_ref().map(|error| format!("{name}: {error}\n")));
    }
    text + &reasons.concat()
}
