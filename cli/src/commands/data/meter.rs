//! How far the preparation of data has come: a bar on a terminal, elsewhere a line every ten seconds.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tern_datasets::prepare::{Progress, Stage};

use crate::terminal::{Terminal, bytes, duration, thousands};

/// Between two lines, where there is no bar.
const PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Meter<'a> {
    terminal: &'a Terminal,
    bar: ProgressBar,
    /// The stage, when it began and with how many bytes: work done by an earlier process has no rate.
    stage: Option<(Stage, Instant, u64)>,
    said: Instant,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(terminal: &'a Terminal) -> Self {
        let bar = terminal.bar(0, "{bar:24.green} {msg}");
        Self { terminal, bar, stage: None, said: Instant::now() }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        let (_, began, first) = match self.stage {
            Some(stage) if stage.0 == progress.stage => stage,
            _ => *self.stage.insert((progress.stage, Instant::now(), progress.bytes)),
        };
        let seconds = began.elapsed().as_secs_f64();
        let text = text(progress, progress.bytes.saturating_sub(first) as f64 / seconds.max(1e-3));
        if self.terminal.is_live() {
            self.bar.set_length(progress.total_bytes);
            self.bar.set_position(progress.bytes);
            self.bar.set_message(text);
        } else if self.said.elapsed() >= PAUSE {
            self.terminal.say(&text);
            self.said = Instant::now();
        }
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// `encoding: 12,345 documents, 310.2 MiB of 1.9 GiB, 41.0 MiB/s, 40 s left`
fn text(progress: Progress, bytes_per_second: f64) -> String {
    let Progress { stage, documents, bytes: done, total_bytes: total } = progress;
    let mut text = match stage {
        Stage::Fetch => "fetching",
        Stage::Check => "reading the text",
        Stage::Sample => "choosing text for the tokenizer",
        Stage::Tokenizer => return "training the tokenizer".to_owned(),
        Stage::Encode => "encoding",
    }
    .to_owned();
    let mut separator = ": ";
    if documents > 0 {
        text.push_str(&format!("{separator}{} documents", thousands(documents)));
        separator = ", ";
    }
    if total > 0 {
        text.push_str(&format!("{separator}{} of {}", bytes(done), bytes(total)));
        if bytes_per_second > 0.0 {
            let left = total.saturating_sub(done) as f64 / bytes_per_second;
            let rate = bytes(bytes_per_second as u64);
            text.push_str(&format!(", {rate}/s, {} left", duration(left)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_known() {
        let at = |stage, documents, bytes, total_bytes| Progress {
            stage,
            documents,
            bytes,
            total_bytes,
        };
        let cases = [
            (
                at(Stage::Encode, 1234, 3 << 20, 5 << 20),
                1e6,
                "encoding: 1,234 documents, 3.00 MiB of 5.00 MiB, 976.56 KiB/s, 2 s left",
            ),
            (at(Stage::Encode, 1234, 0, 0), 0.0, "encoding: 1,234 documents"),
            (at(Stage::Check, 0, 0, 1 << 20), 0.0, "reading the text: 0 B of 1.00 MiB"),
            (at(Stage::Tokenizer, 9, 9, 9), 1.0, "training the tokenizer"),
        ];
        for (progress, rate, expected) in cases {
            assert_eq!(text(progress, rate), expected);
        }
    }
}
