//! What a run directory tells of its run, read while the run goes on, after a crash, or when some of it is damaged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tern_format::harmless::replaced;
use tern_format::regular_file::open_regular;
use tern_train::checkpoint::{self, State};
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;
use tern_train::metrics::{Event, LONGEST_LINE, Metrics, Timings};
use tern_train::weights::Weights;

use crate::chart::Point;

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Optimizer steps taken.
    pub(crate) step: u64,
    pub(crate) prompt: String,
    /// What the model went on with.
    pub(crate) text: String,
}

/// One line of `sessions.jsonl`: a process that worked on the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunSession {
    /// Optimizer steps taken before it.
    pub(crate) step: u64,
    /// Seconds since 1970, UTC.
    pub(crate) unix_seconds: u64,
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) device: String,
    /// The kernel of the ternary products.
    pub(crate) kernel: String,
    /// Threads that the process may use.
    pub(crate) threads: usize,
    /// Where its data lie, if not in the run: relative to the run's directory where both have one parent, so that they
    /// can move together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
}

/// What a session notes of the place of its data.
pub(crate) fn noted_data(run: &RunDirectory, data: &Path) -> Option<String> {
    if data == run.data() {
        return None;
    }
    let [run, data] = [run.path().canonicalize().ok()?, data.canonicalize().ok()?];
    let beside = || Some(Path::new("..").join(data.strip_prefix(run.parent()?).ok()?));
    let place = match data.strip_prefix(&run) {
        Ok(inside) => inside.into(),
        Err(_) => beside().unwrap_or_else(|| data.clone()),
    };
    place.to_str().map(str::to_owned)
}

/// Where the data of a run are: where its last session had them, or else in the run. They need not be there.
pub(crate) fn find_data(run: &RunDirectory) -> PathBuf {
    let line = |line: &RunSession| line.step;
    let sessions = read_lines(&run.sessions(), line, &mut Vec::new()).unwrap_or_default();
    let last = sessions.iter().max_by_key(|session| session.unix_seconds);
    let noted = last.and_then(|session| session.data.as_ref());
    let noted = noted.map(|data| run.path().join(data));
    noted.filter(|data| data.exists() || !run.data().exists()).unwrap_or_else(|| run.data())
}

/// The name of a directory, whatever path was typed for it.
pub(crate) fn name_of(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.into());
    let name = absolute.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    // A page or a picture may not hold a control character.
    replaced(&name, &[])
}

/// Everything that a run has written, as far as it can be read.
pub(crate) struct History {
    pub(crate) directory: RunDirectory,
    /// Whether a process was training here.
    pub(crate) is_running: bool,
    pub(crate) metrics: Vec<Metrics>,
    pub(crate) timings: Vec<Timings>,
    pub(crate) weights: Vec<Weights>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) events: Vec<Event>,
    pub(crate) sessions: Vec<RunSession>,
    /// Of every checkpoint whose `state.json` can be read, oldest first.
    pub(crate) checkpoints: Vec<State>,
    /// None if `config.toml` cannot be read.
    pub(crate) config: Option<RunConfig>,
    /// What could not be read: file, place and reason.
    pub(crate) damage: Vec<String>,
}

impl History {
    /// Reads a run directory; what is damaged is left out and named in [`History::damage`].
    ///
    /// # Errors
    ///
    /// If it is no run directory, or a file in it cannot be opened.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let directory = RunDirectory::new(path);
        if !path.is_dir() {
            let what = if path.exists() { "is no directory" } else { "No such directory" };
            bail!("{}: {what}; name the directory of a run", path.display());
        }
        if !directory.has_run() && !directory.metrics().exists() {
            bail!(
                "{}: holds no run: there is neither config.toml nor metrics.jsonl",
                path.display()
            );
        }
        // Before all else: a run that ends meanwhile was running when it was read.
        let is_running = directory.path().join("lock").exists()
            && matches!(directory.lock(), Err(tern_train::Error::Locked { .. }));
        let mut damage = Vec::new();
        let config = directory.read_config().map_err(|error| damage.push(error.to_string())).ok();
        let mut checkpoints = Vec::new();
        for (_, path) in checkpoint::list(&directory.checkpoints())? {
            match checkpoint::read_state(&path) {
                Ok(state) => checkpoints.push(state),
                Err(error) => damage.push(error.to_string()),
            }
        }
        Ok(Self {
            metrics: read_lines(&directory.metrics(), |line: &Metrics| line.step, &mut damage)?,
            timings: read_lines(&directory.timings(), |line: &Timings| line.step, &mut damage)?,
            weights: read_lines(&directory.weights(), |line: &Weights| line.step, &mut damage)?,
            samples: read_lines(&directory.samples(), |line: &Sample| line.step, &mut damage)?,
            events: read_lines(&directory.events(), |line: &Event| line.step, &mut damage)?,
            sessions: read_lines(
                &directory.sessions(),
                |line: &RunSession| line.step,
                &mut damage,
            )?,
            checkpoints,
            config,
            damage,
            directory,
            is_running,
        })
    }

    /// The name of the run: that of its directory.
    pub(crate) fn name(&self) -> String {
        name_of(self.directory.path())
    }

    /// Optimizer steps taken so far.
    pub(crate) fn step(&self) -> u64 {
        self.metrics.last().map_or(0, |line| line.step)
    }

    /// The lowest validation loss and its step.
    pub(crate) fn best(&self) -> Option<(u64, f64)> {
        let measured = self.metrics.iter().filter_map(|line| Some((line.step, line.val_loss?)));
        measured.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Seconds of training up to each step, over all the processes that worked on the run.
    pub(crate) fn seconds(&self) -> BTreeMap<u64, f64> {
        let (mut before, mut last) = (0.0, 0.0);
        let mut seconds = BTreeMap::new();
        for line in &self.timings {
            // Every process counts from zero.
            if line.elapsed_seconds < last {
                before += last;
            }
            last = line.elapsed_seconds;
            seconds.insert(line.step, before + last);
        }
        seconds
    }

    /// `(step, value)` of every line of `metrics.jsonl` that has the value.
    pub(crate) fn points(&self, value: impl Fn(&Metrics) -> Option<f64>) -> Vec<Point> {
        self.metrics.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect()
    }
}

/// The lines of a file in the order of their steps; none if there is no file.
///
/// A last line without an end is being written at this moment, so it is no damage.
fn read_lines<T: DeserializeOwned>(
    path: &Path,
    step: impl Fn(&T) -> u64,
    damage: &mut Vec<String>,
) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let (file, _) = open_regular(path)?;
    let mut reader = BufReader::new(file);
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        let mut limited = reader.by_ref().take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut line);
        if read.with_context(|| path.display().to_string())? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => lines.push(value),
            Err(_) if !line.ends_with(b"\n") => {}
            Err(error) => damage.push(format!("{}:{number}: {error}", path.display())),
        }
    }
    lines.sort_by_key(step);
    Ok(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn metrics(step: u64) -> String {
        format!("{{\"step\":{step},\"tokens\":{step},\"loss\":1.0,\"lr\":0.1,\"grad_norm\":1.0}}\n")
    }

    #[test]
    fn damaged_lines_are_named_and_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let text = metrics(1) + "nonsense\n" + &metrics(3) + "{\"step\":4,\"los";
        std::fs::write(path.join("metrics.jsonl"), text).unwrap();
        let history = History::read(path).unwrap();
        assert_eq!(history.step(), 3);
        assert_eq!(history.metrics.len(), 2);
        // The missing configuration, and the line of nonsense; the torn end is no damage.
        assert_eq!(history.damage.len(), 2, "{:?}", history.damage);
        assert!(history.damage[1].contains("metrics.jsonl:2:"), "{:?}", history.damage);
    }

    #[test]
    fn seconds_go_on_where_another_process_began() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join("metrics.jsonl"), metrics(1)).unwrap();
        let line = |step: u64, elapsed: f64| {
            format!(
                "{{\"step\":{step},\"tokens_per_second\":1.0,\"batch_seconds\":0.0,\"forward_seconds\":0.0,\
                 \"backward_seconds\":0.0,\"optimizer_seconds\":0.0,\"validation_seconds\":0.0,\
                 \"elapsed_seconds\":{elapsed}}}\n"
            )
        };
        let text = line(1, 2.0) + &line(2, 4.0) + &line(3, 1.0) + &line(4, 3.0);
        std::fs::write(path.join("timings.jsonl"), text).unwrap();
        let seconds: Vec<f64> = History::read(path).unwrap().seconds().into_values().collect();
        assert_eq!(seconds, [2.0, 4.0, 5.0, 7.0]);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let message = |path: &Path| format!("{:#}", History::read(path).err().unwrap());
        assert!(message(directory.path()).contains("holds no run"));
        assert!(message(&directory.path().join("nowhere")).contains("No such directory"));
    }
}
