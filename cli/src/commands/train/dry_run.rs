//! `tern train --dry-run`: what a run would cost, without one.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use tern_datasets::config::{DataConfig, Place};
use tern_datasets::prepare::Summary;
use tern_format::regular_file::open_regular;
use tern_train::config::RunConfig;
use tern_train::plan::Plan;
use tern_train::rehearsal::Rehearsal;

use crate::Ending;
use crate::terminal::{Terminal, bytes, duration, thousands};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    device: &'a str,
    #[serde(flatten)]
    rehearsal: Rehearsal,
    /// How many times the run reads the training text; none before the data are prepared.
    passes: Option<f64>,
}

/// Opens every file of this machine that the data would be made from; those of the hub wait for the run.
pub(crate) fn check_sources(data: &DataConfig, base: &Path) -> Result<()> {
    for source in data.mixture() {
        for (key, names) in [("train", source.train), ("valid", source.valid.unwrap_or_default())] {
            for name in names {
                check_place(key, &name, base)?;
            }
        }
    }
    data.tokenizer.file.iter().try_for_each(|name| check_place("tokenizer.file", name, base))
}

fn check_place(key: &'static str, name: &str, base: &Path) -> Result<()> {
    if let Place::Local(path) = Place::resolve(key, name, base)? {
        open_regular(&path)?;
    }
    Ok(())
}

/// Says what the run would cost; `data` is where its tokens are, or will be.
pub(crate) fn run(
    config: &RunConfig,
    device_name: &str,
    data: &Path,
    terminal: &Terminal,
) -> Result<Ending> {
    let plan = Plan::new(config);
    let device = tern_model::device::find(device_name)?.autodiff();
    terminal.detail("timing two micro-batches");
    let rehearsal = Rehearsal::measure(config, &device);
    let prepared = Summary::read(data).ok().filter(|made| made.check(&config.data, data).is_ok());
    let passes = prepared.map(|made| plan.passes(made.train().tokens));
    let mut text = String::new();
    for (name, value) in [
        ("parameters", thousands(plan.parameters)),
        ("  of them ternary", thousands(plan.ternary_parameters)),
        ("steps", thousands(plan.steps)),
        ("sequences per step", thousands(plan.sequences_per_step as u64)),
        ("tokens per step", thousands(plan.tokens_per_step)),
        ("tokens in all", thousands(plan.tokens)),
        (
            "passes over the text",
            passes.map_or_else(|| "not prepared yet".into(), |passes| format!("{passes:.2}")),
        ),
        ("memory, estimated", bytes(plan.memory_bytes)),
        ("  weights and optimizer", bytes(plan.state_bytes)),
        ("  activations", bytes(plan.activation_bytes)),
        ("  temporaries", bytes(plan.temporary_bytes)),
        ("disk for checkpoints", bytes(plan.checkpoint_bytes)),
        ("tokens a second, timed", thousands(rehearsal.tokens_per_second as u64)),
        ("training time", duration(rehearsal.training_seconds)),
    ] {
        text.push_str(&format!("{name:<25}{value:>16}\n"));
    }
    text.push_str(&format!(
        "\nTimed on {device_name} with two micro-batches of random tokens; validations and samples come on top.\n"
    ));
    terminal.result(&Report { plan: &plan, device: device_name, rehearsal, passes }, &text)?;
    Ok(Ending::Done)
}
