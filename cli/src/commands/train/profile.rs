//! `tern train --profile`: where the time of a step goes.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tern_datasets::prepare::Prepared;
use tern_model::device::guarded;
use tern_train::config::RunConfig;
use tern_train::profile::{Profile, Row};

use crate::Ending;
use crate::terminal::{Terminal, thousands};

/// The device whose operations are fused, and so have rows.
const FUSED: &str = "cpu";

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    /// Whether the tokens were those that the run would see first, or random ones.
    tokens_are_random: bool,
    #[serde(flatten)]
    profile: &'a Profile,
}

/// Takes some steps and shows where their time went; `data` are the prepared tokens.
pub(crate) fn run(
    config: &RunConfig,
    device_name: &str,
    data: Option<&Prepared>,
    steps: u64,
    terminal: &Terminal,
) -> Result<Ending> {
    let device = tern_model::device::find(device_name)?.autodiff();
    let is_fused = device_name == FUSED;
    let batches = data.map(|data| data.batches(&config.data, config.seed)).transpose()?;
    let profile = guarded(device_name, || {
        Profile::measure(config, &device, is_fused, batches.as_ref(), steps)
    })?;
    let mut text = table(&profile);
    let tokens = if data.is_some() { "tokens of the run" } else { "random tokens" };
    let _ = writeln!(
        text,
        "\n{steps} steps of {} {tokens} on {device_name}: {} tokens a second.",
        thousands(config.tokens_per_step()),
        thousands(profile.tokens_per_second as u64),
    );
    if !is_fused {
        let _ = writeln!(
            text,
            "Phases alone: {device_name} composes Burn's operations, which may still compute when they have returned."
        );
    }
    text.push_str(&utilization(&profile));
    terminal.result(
        &Report { device: device_name, tokens_are_random: data.is_none(), profile: &profile },
        &text,
    )?;
    Ok(Ending::Done)
}

/// A line for each phase, and under it one for each operation.
fn table(profile: &Profile) -> String {
    let mut text = format!(
        "{:<42}{:>8}{:>12}{:>10}{:>10}{:>8}\n",
        "a step", "calls", "ms", "GFLOP", "GFLOP/s", "share"
    );
    let mut line = |name: &str, calls: Option<u64>, seconds: f64, flop: u64, share: f64| {
        let steps = profile.steps as f64;
        let calls = calls.map_or_else(String::new, |calls| thousands(calls / profile.steps));
        let flop = flop as f64 / 1e9;
        let or_nothing =
            |x: f64| if flop > 0.0 && seconds > 0.0 { format!("{x:.1}") } else { String::new() };
        let _ = writeln!(
            text,
            "{name:<42}{calls:>8}{:>12.3}{:>10}{:>10}{:>7.1}%",
            1e3 * seconds / steps,
            or_nothing(flop / steps),
            or_nothing(flop / seconds),
            100.0 * share,
        );
    };
    for rows in profile.rows.chunk_by(|a, b| a.phase == b.phase) {
        let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
        let flop = rows.iter().map(|row| row.flop).sum();
        let name = rows[0].phase.unwrap_or("between phases");
        line(name, None, sum(|row| row.seconds), flop, sum(|row| row.share));
        // A phase without operations is its own rest.
        for row in rows.iter().filter(|_| rows.len() > 1) {
            let name = row.operation.as_deref().unwrap_or("between operations");
            let calls = row.operation.is_some().then_some(row.calls);
            line(&format!("  {name}"), calls, row.seconds, row.flop, row.share);
        }
    }
    let flop = profile.rows.iter().map(|row| row.flop).sum();
    line("in all", None, profile.seconds, flop, profile.rows.iter().map(|row| row.share).sum());
    text
}

/// What the model does, and of what.
fn utilization(profile: &Profile) -> String {
    let giga = |flop: f64| format!("{:.1} GFLOP/s", flop / 1e9);
    let mut text = format!(
        "The model takes {:.1} MFLOP for a token, 6 for each weight that is multiplied by and attention's: {}.\n",
        profile.model_flop_per_token as f64 / 1e6,
        giga(profile.model_flop_per_second),
    );
    if let Some(found) = &profile.utilization {
        let bf16 = found.bf16_flop_per_second.map(|bf16| format!(", {} in bf16", giga(bf16)));
        let _ = writeln!(
            text,
            "Model FLOP utilization: {:.1}% in the run's precision; products on {} threads reach {} in f32{}.",
            100.0 * found.of_model,
            found.threads,
            giga(found.f32_flop_per_second),
            bf16.unwrap_or_default(),
        );
    }
    text
}
