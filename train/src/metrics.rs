//! What a run writes a line at a time: `metrics.jsonl`, `events.jsonl` and `weights.jsonl`, which a resumed run repeats
//! to the bit, and `timings.jsonl`, what depends on the machine.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tern_format::regular_file::open_regular;

use crate::error::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens learned from.
    pub tokens: u64,
    /// Mean cross-entropy of the step's batch before its update, nats per token; none if it was not finite.
    pub loss: Option<f64>,
    /// Learning rate of the step.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping; none if it was not finite.
    pub grad_norm: Option<f64>,
    /// Whether the step was skipped, because its loss or its gradient was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Mean cross-entropy on the validation set after the step, nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// The same in bits per byte of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_bits_per_byte: Option<f64>,
}

/// One line of `timings.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens of the step by its seconds, validation not counted.
    pub tokens_per_second: f64,
    /// Drawing the windows and taking them to the device.
    pub batch_seconds: f64,
    /// Forward passes.
    pub forward_seconds: f64,
    /// Backward passes, and the sum of their gradients.
    pub backward_seconds: f64,
    /// Exchanging gradients with other ranks, and waiting for the slowest.
    #[serde(default)]
    pub exchange_seconds: f64,
    /// Clipping and the optimizer.
    pub optimizer_seconds: f64,
    /// Validation.
    pub validation_seconds: f64,
    /// Seconds since this process began the run.
    pub elapsed_seconds: f64,
}

/// One line of `events.jsonl`: what a person should know of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Optimizer steps taken, counting a skipped one.
    pub step: u64,
    /// What happened.
    pub kind: EventKind,
    /// The same in words, with the values.
    pub message: String,
    /// The step's batch, where it is to blame: the first token of each of its windows, an index into the training tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<u64>,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A step whose loss or gradient was not finite left the weights as they were.
    Skipped,
    /// The loss stood far above its running mean.
    Spike,
    /// The projection of a matrix would be called collapsed.
    Collapse,
    /// The validation loss was not finite.
    Validation,
}

/// The longest line that a reader takes, in bytes; the longest that is written names every matrix of a model.
pub const LONGEST_LINE: u64 = 64 << 20;

/// A file of one JSON object a line, appended to.
pub struct JsonLines {
    path: PathBuf,
    /// None where the lines are another process's to keep.
    file: Option<File>,
    lines: u64,
    last_step: u64,
}

impl JsonLines {
    /// Opens the file and cuts off every line after `step`, and a last line without an end, so that a resumed run
    /// continues where its checkpoint stands.
    ///
    /// # Errors
    ///
    /// Names the file and, for a line that is no object with a `step`, its number.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let io = |e| Error::io(path)(e);
        if path.exists() {
            // A pipe or a device would have no end.
            open_regular(path)?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let (mut kept, mut lines, mut last_step, mut before) = (0, 0, 0, 0);
        let mut reader = BufReader::new(&mut file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut limited = reader.by_ref().take(LONGEST_LINE);
            let length = limited.read_until(b'\n', &mut line).map_err(io)?;
            if length as u64 == LONGEST_LINE {
                let rule = format!("line {number} must be at most {LONGEST_LINE} bytes long");
                return Err(Error::Checkpoint { path: path.into(), rule });
            }
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            #[derive(Deserialize)]
            struct Step {
                step: u64,
            }
            let found: Step = serde_json::from_slice(&line).map_err(|e| Error::Checkpoint {
                path: path.into(),
                rule: format!("line {number} is no object with a step: {e}"),
            })?;
            if found.step < before {
                let rule = format!("line {number} has step {} after {before}", found.step);
                return Err(Error::Checkpoint { path: path.into(), rule });
            }
            before = found.step;
            // Lines that will be cut are looked at too: a step out of order must not cost the lines behind it.
            if found.step <= step {
                last_step = found.step;
                lines += 1;
                kept += length as u64;
            }
        }
        file.set_len(kept).map_err(io)?;
        file.seek(SeekFrom::Start(kept)).map_err(io)?;
        Ok(Self { path: path.into(), file: Some(file), lines, last_step })
    }

    /// Keeps no line: another rank of the run does.
    pub fn nowhere() -> Self {
        Self { path: PathBuf::new(), file: None, lines: 0, last_step: 0 }
    }

    /// Lines that were there when it was opened, up to the step given then.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The step of the last of them, 0 if there are none.
    pub fn last_step(&self) -> u64 {
        self.last_step
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// Names the file.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let io = |e| Error::io(&self.path)(e);
        let mut text = serde_json::to_vec(line).map_err(|e| io(e.into()))?;
        text.push(b'\n');
        file.write_all(&text).map_err(io)
    }

    /// Puts what was written on the disk.
    ///
    /// # Errors
    ///
    /// Names the file.
    pub fn sync(&mut self) -> Result<()> {
        self.file.iter().try_for_each(File::sync_data).map_err(|e| Error::io(&self.path)(e))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_past_the_checkpoint_and_torn_lines_are_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").unwrap();
        JsonLines::open(&path, 2).unwrap().write(&serde_json::json!({"step": 3})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    }

    #[test]
    fn a_step_out_of_order_costs_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let text = "{\"step\":1}\n{\"step\":99}\n{\"step\":3}\n";
        std::fs::write(&path, text).unwrap();
        let error = JsonLines::open(&path, 3).err().unwrap().to_string();
        assert!(error.contains("line 3 has step 3 after 99"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_line_that_is_no_object_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\nhello\n").unwrap();
        let error = JsonLines::open(&path, 2).err().unwrap().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("line 2"), "{error}");
    }
}
