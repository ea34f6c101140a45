//! What the page says, and the template that says it.

use std::collections::BTreeMap;

use anyhow::Result;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use tern_datasets::prepare::{Side, Summary};
use tern_format::packed::PackedModel;
use tern_infer::verify::{self, LossReport, Verdict};
use tern_train::plan::Plan;

use super::State;
use super::charts::{self, Figure};
use crate::commands::verify::{reasons, word};
use crate::history::{History, find_data};
use crate::terminal::{bytes, duration, thousands};

const TEMPLATE: &str = include_str!("page.html");

/// Rounds of samples that the page shows: the first, the last, and some between.
const MOST_ROUNDS: usize = 12;
/// Events and damaged lines that it shows.
const MOST_EVENTS: usize = 200;

/// The page, ready to be rendered.
#[derive(Serialize)]
pub(super) struct Page {
    name: String,
    state: State,
    progress: String,
    facts: Vec<Fact>,
    figures: Vec<Figure>,
    /// Steps that noisy curves are averaged over.
    window: usize,
    verification: Option<Verification>,
    matrices: Vec<Matrix>,
    /// The steps of the first and the last look at them.
    weighed: [String; 2],
    rounds: Vec<Round>,
    rounds_in_all: usize,
    events: Vec<Event>,
    events_in_all: usize,
    damage: Vec<String>,
    damage_in_all: usize,
    origin: Vec<Fact>,
    sessions: Vec<Session>,
    checkpoints: Vec<Checkpoint>,
    /// The command that makes the packed model, if there is none and there is something to export.
    export: Option<String>,
    config: Option<String>,
    program: String,
}

#[derive(Serialize)]
struct Fact {
    label: &'static str,
    value: String,
    note: String,
}

/// What the verifier says of the packed model.
#[derive(Serialize)]
struct Verification {
    /// None if the file could not be read.
    verdict: Option<Verdict>,
    word: String,
    passes: bool,
    because: Vec<String>,
    facts: Vec<Fact>,
}

/// A ternary matrix at the first and at the last time that it was looked at.
#[derive(Serialize)]
struct Matrix {
    name: String,
    zeros: [String; 2],
    scale: [String; 2],
}

/// The samples of one step.
#[derive(Serialize)]
struct Round {
    step: String,
    texts: Vec<Text>,
}

#[derive(Serialize)]
struct Text {
    prompt: String,
    text: String,
}

#[derive(Serialize)]
struct Event {
    step: String,
    kind: String,
    message: String,
}

#[derive(Serialize)]
struct Session {
    step: String,
    time: String,
    program: String,
    device: String,
    kernel: String,
}

#[derive(Serialize)]
struct Checkpoint {
    step: String,
    val_loss: String,
    best: bool,
    sha256: String,
}

fn fact(label: &'static str, value: impl Into<String>, note: impl Into<String>) -> Fact {
    Fact { label, value: value.into(), note: note.into() }
}

impl Page {
    /// Gathers the page; a packed model in the directory is verified.
    pub(super) fn new(history: &History, state: State, log_x: bool) -> Result<Self> {
        let mut damage = history.damage.clone();
        let summary = data_summary(history, &mut damage);
        let damage_in_all = damage.len();
        damage.truncate(MOST_EVENTS);
        let (rounds, rounds_in_all) = rounds(history);
        Ok(Self {
            name: history.name(),
            state,
            progress: progress(history, state),
            facts: facts(history),
            figures: charts::figures(history, log_x)?,
            window: charts::window(history.metrics.len()),
            verification: verification(history),
            matrices: matrices(history),
            weighed: [history.weights.first(), history.weights.last()]
                .map(|line| line.map_or_else(String::new, |line| thousands(line.step))),
            rounds,
            rounds_in_all,
            events: events(history),
            events_in_all: history.events.len(),
            damage,
            damage_in_all,
            origin: origin(history, summary.as_ref()),
            sessions: sessions(history),
            checkpoints: checkpoints(history),
            export: (!history.checkpoints.is_empty() && !history.directory.model().exists())
                .then(|| format!("tern export {}", history.directory.path().display())),
            config: history.config.as_ref().map(|config| config.to_toml()),
            program: format!("tern {} (commit {})", env!("CARGO_PKG_VERSION"), env!("TERN_COMMIT")),
        })
    }

    /// What the verifier called the packed model, if there is one that can be read.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verification.as_ref()?.verdict
    }

    /// Why the packed model could not be read, if it is there and could not.
    pub(super) fn unreadable(&self) -> Option<&str> {
        let verification = self.verification.as_ref().filter(|found| found.verdict.is_none())?;
        verification.because.first().map(String::as_str)
    }

    /// The HTML. Everything that comes from the run is escaped; only our own SVG is not.
    pub(super) fn render(&self) -> Result<String> {
        let mut environment = Environment::new();
        // The name decides how text is escaped.
        environment.add_template("page.html", TEMPLATE)?;
        Ok(environment.get_template("page.html")?.render(Serde(self))?)
    }
}

fn progress(history: &History, state: State) -> String {
    let step = thousands(history.step());
    let steps = history.config.as_ref().map(|config| thousands(config.train.steps));
    let of = steps.map_or_else(String::new, |steps| format!(" of {steps}"));
    match state {
        State::Empty => format!("no step{of} taken yet"),
        State::Running => format!("step {step}{of}, training as this page was written"),
        State::Interrupted => format!(
            "step {step}{of}; go on with: tern train --resume --out {}",
            history.directory.path().display()
        ),
        State::Finished => format!("all {step} steps"),
    }
}

fn facts(history: &History) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some((step, loss)) = history.best() {
        let note = format!("nats per token, the best, after step {}", thousands(step));
        facts.push(fact("validation loss", format!("{loss:.4}"), note));
    }
    if let Some(line) = history.metrics.iter().rev().find(|line| line.val_loss.is_some()) {
        let bits = line.val_bits_per_byte.map_or_else(|| "–".into(), |bits| format!("{bits:.4}"));
        let note = format!("of text, after step {}", thousands(line.step));
        facts.push(fact("bits per byte", bits, note));
    }
    if let Some(last) = history.metrics.last() {
        let loss = last.loss.map_or_else(|| "skipped".into(), |loss| format!("{loss:.4}"));
        facts.push(fact("training loss", loss, "nats per token, last step"));
        facts.push(fact("tokens", thousands(last.tokens), "learned from"));
    }
    if let Some(seconds) = history.seconds().into_values().last() {
        let mut rates: Vec<f64> = history.timings.iter().map(|t| t.tokens_per_second).collect();
        rates.sort_by(f64::total_cmp);
        let median = thousands(rates[rates.len() / 2] as u64);
        facts.push(fact("training time", duration(seconds), format!("{median} tokens/s, median")));
    }
    if let Some(config) = &history.config {
        let plan = Plan::new(config);
        let note = format!("{} of them ternary", thousands(plan.ternary_parameters));
        facts.push(fact("parameters", thousands(plan.parameters), note));
    }
    if let Some(last) = history.weights.last() {
        let note = format!("among all trits, after step {}", thousands(last.step));
        facts.push(fact("zeros", format!("{:.1} %", 100.0 * last.zeros), note));
    }
    let skipped = history.metrics.iter().filter(|line| line.skipped).count();
    if skipped > 0 {
        facts.push(fact("skipped steps", thousands(skipped as u64), "loss or gradient not finite"));
    }
    facts
}

fn verification(history: &History) -> Option<Verification> {
    let path = history.directory.model();
    if !path.exists() {
        return None;
    }
    let report = match verify::verify(&path) {
        Ok(report) => report,
        Err(error) => {
            return Some(Verification {
                verdict: None,
                word: "unreadable".into(),
                passes: false,
                because: vec![error.to_string()],
                facts: Vec::new(),
            });
        }
    };
    let mut facts = vec![
        fact("size", bytes(report.size_bytes), format!("{} bytes", thousands(report.size_bytes))),
        fact(
            "bits per weight",
            format!("{:.3}", report.bits_per_weight),
            "over the whole file, embeddings and tokenizer included",
        ),
    ];
    if let Some(bits) = report.bits_per_ternary_weight {
        facts.push(fact("bits per ternary weight", format!("{bits:.3}"), "scales included"));
    }
    if let Some(trits) = &report.trits {
        let note = format!(
            "entropy {:.3} bits, {} dead rows",
            trits.entropy_bits,
            thousands(trits.dead_rows)
        );
        facts.push(fact("zeros", format!("{:.2} %", 100.0 * trits.zeros_share), note));
    }
    if let LossReport::Measured { trainer, file, difference, agrees, .. } = &report.loss {
        let agrees = if *agrees { "agrees" } else { "DIFFERS" };
        let note = format!("the trainer's was {trainer:.6}: {agrees} ({difference:.1e})");
        facts.push(fact("loss of the file", format!("{file:.6}"), note));
    }
    let provenance = PackedModel::read(&path).ok().and_then(|model| model.metadata.provenance);
    if let Some(provenance) = provenance {
        let note = format!("commit {}", provenance.commit);
        facts.push(fact("exported from", format!("step {}", thousands(provenance.step)), note));
    }
    Some(Verification {
        verdict: Some(report.verdict),
        word: word(report.verdict).replace('_', " "),
        passes: report.passes(),
        because: reasons(&report),
        facts,
    })
}

fn matrices(history: &History) -> Vec<Matrix> {
    let (Some(first), Some(last)) = (history.weights.first(), history.weights.last()) else {
        return Vec::new();
    };
    let mut matrices: Vec<(&String, Matrix)> = last
        .tensors
        .iter()
        .map(|(name, now)| {
            let then = first.tensors.get(name);
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
            let zeros = |share: f64| format!("{:.1} %", 100.0 * share);
            let scale = |scale: f32| format!("{scale:.3e}");
            let matrix = Matrix {
                name: name.trim_start_matches("model.").trim_end_matches(".weight").into(),
                zeros: [or_dash(then.map(|p| zeros(p.zeros))), zeros(now.zeros)],
                scale: [or_dash(then.map(|p| scale(p.scale))), scale(now.scale)],
            };
            (name, matrix)
        })
        .collect();
    // Block 10 comes after block 9, not after block 1.
    matrices.sort_by_key(|(name, _)| charts::block(name));
    matrices.into_iter().map(|(_, matrix)| matrix).collect()
}

/// The rounds of samples to show, latest first, and how many there are.
fn rounds(history: &History) -> (Vec<Round>, usize) {
    let mut by_step: BTreeMap<u64, Vec<Text>> = BTreeMap::new();
    for sample in &history.samples {
        let text = Text { prompt: sample.prompt.clone(), text: sample.text.clone() };
        by_step.entry(sample.step).or_default().push(text);
    }
    let in_all = by_step.len();
    let last = in_all.saturating_sub(1);
    let places = MOST_ROUNDS.min(in_all);
    let shown: Vec<usize> = (0..places).map(|i| i * last / (places - 1).max(1)).collect();
    let rounds = by_step.into_iter().enumerate().filter(|(index, _)| {
        // A single round is the last one.
        shown.contains(index) || *index == last
    });
    let mut rounds: Vec<Round> =
        rounds.map(|(_, (step, texts))| Round { step: thousands(step), texts }).collect();
    rounds.reverse();
    (rounds, in_all)
}

/// The latest events, latest first.
fn events(history: &History) -> Vec<Event> {
    let event = |event: &tern_train::metrics::Event| Event {
        step: thousands(event.step),
        kind: format!("{:?}", event.kind).to_lowercase(),
        message: event.message.clone(),
    };
    history.events.iter().rev().take(MOST_EVENTS).map(event).collect()
}

fn data_summary(history: &History, damage: &mut Vec<String>) -> Option<Summary> {
    let directory = find_data(&history.directory);
    if !directory.exists() {
        // The origin says so.
        return None;
    }
    Summary::read(&directory).map_err(|error| damage.push(error.to_string())).ok()
}

fn origin(history: &History, summary: Option<&Summary>) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(config) = &history.config {
        facts.push(fact("seed", config.seed.to_string(), "of initial weights and batches"));
        facts.push(fact("configuration", config.hash(), "sha256"));
        let licence = config.data.licence.clone().unwrap_or_else(|| "not stated".into());
        facts.push(fact("licence of the data", licence, ""));
    }
    let data = history.checkpoints.last().map(|state| state.data_identity.clone());
    if let Some(identity) = data.or_else(|| summary.map(|summary| summary.sha256.clone())) {
        facts.push(fact("identity of the data", identity, "sha256 over settings and sources"));
    }
    for source in summary.iter().flat_map(|summary| &summary.inputs) {
        let note = format!("{}, {}, sha256 {}", source.role, bytes(source.bytes), source.sha256);
        facts.push(fact("source", source.name.clone(), note));
    }
    if summary.is_none() {
        let place = find_data(&history.directory).display().to_string();
        facts.push(fact("data", "not found", format!("looked for in {place}")));
    }
    if let Some(summary) = summary {
        let side = |side: &Side| {
            format!("{} in {} documents", thousands(side.tokens), thousands(side.documents))
        };
        let vocabulary =
            format!("{} ids, {}", thousands(summary.vocab_size as u64), summary.tokenizer);
        facts.push(fact("training tokens", side(&summary.train()), ""));
        facts.push(fact("validation tokens", side(&summary.valid()), ""));
        facts.push(fact("tokenizer", vocabulary, ""));
    }
    facts
}

fn sessions(history: &History) -> Vec<Session> {
    history
        .sessions
        .iter()
        .map(|session| Session {
            step: thousands(session.step),
            time: utc(session.unix_seconds),
            program: format!("{} (commit {})", session.version, session.commit),
            device: session.device.clone(),
            kernel: format!("{}, {} threads", session.kernel, session.threads),
        })
        .collect()
}

fn checkpoints(history: &History) -> Vec<Checkpoint> {
    let best = history.checkpoints.last().and_then(|state| state.best).map(|best| best.step);
    history
        .checkpoints
        .iter()
        .map(|state| Checkpoint {
            step: thousands(state.step),
            val_loss: state.val_loss.map_or_else(String::new, |loss| format!("{loss:.4}")),
            best: best == Some(state.step),
            sha256: state.files.get("model.safetensors").cloned().unwrap_or_default(),
        })
        .collect()
}

/// `2026-11-21 14:03 UTC` (days to a date after Hinnant, "chrono-compatible low-level date algorithms").
fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400 + 719_468, unix_seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3_600, seconds % 3_600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_269_780), "2026-11-21 14:03 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59 UTC");
    }
}
