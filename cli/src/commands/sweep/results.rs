//! What came of the runs of a sweep: read from their directories, written as a table, JSON and CSV.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use tern_format::atomic::write_atomically;
use tern_train::checkpoint;
use tern_train::directory::RunDirectory;
use tern_train::metrics::Timings;

use crate::history::History;
use crate::overwrite;
use crate::terminal::thousands;

/// How far a run came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// All its steps were taken.
    Finished,
    /// Something stopped it that the same command may mend.
    Failed,
    /// Ctrl-C, or a killed process: the same command goes on.
    Interrupted,
    /// It has not begun.
    Pending,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
        }
    }
}

/// What `--json` prints, and `sweep.json` holds.
#[derive(Serialize)]
pub(crate) struct Runs<'a, T> {
    pub(crate) runs: &'a [T],
}

/// One run of the sweep.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) settings: Map<String, Value>,
    pub(crate) status: Status,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Steps taken.
    pub(crate) step: u64,
    /// Training loss of the last step, nats per token.
    pub(crate) loss: Option<f64>,
    /// Lowest validation loss, nats per token.
    pub(crate) val_loss: Option<f64>,
    /// Mean over the steps taken, validations not counted.
    pub(crate) tokens_per_second: Option<f64>,
}

impl Row {
    /// What the directory of a run tells, whoever trained it.
    pub(crate) fn read(
        name: &str,
        settings: &[(String, String)],
        directory: &RunDirectory,
        steps: u64,
    ) -> Result<Self> {
        // A run that has not begun has no history.
        let history = History::read(directory.path()).ok();
        let last = history.as_ref().and_then(|history| history.metrics.last());
        let saved = checkpoint::list(&directory.checkpoints())?.last().map_or(0, |(step, _)| *step);
        let status = match () {
            () if saved >= steps => Status::Finished,
            () if directory.has_run() => Status::Interrupted,
            () => Status::Pending,
        };
        let settings = settings.iter().map(|(key, value)| {
            let value = tern_train::written::value_of(value);
            (key.clone(), serde_json::to_value(value).unwrap_or_default())
        });
        Ok(Self {
            name: name.into(),
            settings: settings.collect(),
            status,
            error: None,
            step: last.map_or(0, |line| line.step),
            loss: last.and_then(|line| line.loss),
            val_loss: history.as_ref().and_then(|history| Some(history.best()?.1)),
            tokens_per_second: history.as_ref().and_then(|history| rate(&history.timings)),
        })
    }
}

/// Tokens over seconds, not the mean of rates: a slow step weighs as long as it took.
fn rate(timings: &[Timings]) -> Option<f64> {
    let (mut tokens, mut seconds) = (0.0, 0.0);
    for line in timings {
        let step = line.batch_seconds
            + line.forward_seconds
            + line.backward_seconds
            + line.exchange_seconds
            + line.optimizer_seconds;
        seconds += step;
        tokens += step * line.tokens_per_second;
    }
    (seconds > 0.0).then(|| tokens / seconds)
}

/// The best first, those without a validation last.
pub(crate) fn sort(rows: &mut [Row]) {
    let key = |row: &Row| row.val_loss.unwrap_or(f64::INFINITY);
    rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
}

/// What people see.
pub(crate) fn table(rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    let rate = |value: Option<f64>| value.map_or("-".into(), |value| thousands(value as u64));
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:width$}  {:>8}  {:>8}  {:>9}  {:>10}  status\n",
        "run", "val loss", "loss", "step", "tokens/s"
    );
    for row in rows {
        text.push_str(&format!(
            "{:width$}  {:>8}  {:>8}  {:>9}  {:>10}  {}\n",
            row.name,
            number(row.val_loss),
            number(row.loss),
            thousands(row.step),
            rate(row.tokens_per_second),
            row.status.word()
        ));
    }
    for row in rows {
        if let Some(error) = &row.error {
            text.push_str(&format!("{}: {error}\n", row.name));
        }
    }
    text
}

/// Refuses to write where `sweep.json` or `sweep.csv` is there and is no sweep's.
pub(crate) fn check_targets(out: &Path) -> Result<()> {
    overwrite::only_what_begins_with(
        &out.join("sweep.json"),
        b"{\n  \"runs\": [",
        "table of a sweep",
    )?;
    overwrite::only_what_begins_with(&out.join("sweep.csv"), b"name,", "table of a sweep")
}

/// Writes `sweep.json` and `sweep.csv`.
pub(crate) fn write(out: &Path, rows: &[Row]) -> Result<()> {
    let mut json = serde_json::to_string_pretty(&Runs { runs: rows })?;
    json.push('\n');
    write_atomically(&out.join("sweep.json"), |file| file.write_all(json.as_bytes()))?;
    let csv = csv(rows);
    Ok(write_atomically(&out.join("sweep.csv"), |file| file.write_all(csv.as_bytes()))?)
}

/// A line a run, a column a key (RFC 4180).
fn csv(rows: &[Row]) -> String {
    let keys: Vec<&String> =
        rows.first().map(|row| row.settings.keys().collect()).unwrap_or_default();
    let mut header: Vec<String> = vec!["name".into()];
    header.extend(keys.iter().map(ToString::to_string));
    header.extend(
        ["status", "step", "loss", "val_loss", "tokens_per_second", "error"].map(Into::into),
    );
    let mut text = line(&header);
    for row in rows {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut cells = vec![row.name.clone()];
        cells.extend(keys.iter().map(|key| match row.settings.get(*key) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }));
        cells.extend([
            row.status.word().into(),
            row.step.to_string(),
            number(row.loss),
            number(row.val_loss),
            number(row.tokens_per_second),
            row.error.clone().unwrap_or_default(),
        ]);
        text.push_str(&line(&cells));
    }
    text
}

fn line(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    format!("{}\r\n", cells.iter().map(quoted).collect::<Vec<_>>().join(","))
}
