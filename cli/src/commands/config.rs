//! `tern config`

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use tern_train::config::RunConfig;
use tern_train::reference::{Key, keys, schema};
use tern_train::written::nearest;

use crate::Ending;
use crate::terminal::{Terminal, thousands};

/// Print a configuration with every key resolved, or explain the keys.
///
/// What is printed is what a run would save: presets and overrides applied, every default stated. With --explain every
/// key is listed with its type, default, unit, allowed values and meaning; with --json too, as a JSON Schema, which
/// editors and checkers of TOML read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern config configs/quickstart.toml train.steps=500
  tern config --explain
  tern config --explain train.schedule
  tern --json config --explain > tern.schema.json")]
pub(crate) struct Arguments {
    /// The TOML file of a run.
    #[arg(required_unless_present = "explain", conflicts_with = "explain")]
    config: Option<PathBuf>,
    /// Keys to override, for example train.steps=500 model.quantizer=none.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Explain the key PREFIX, or all keys below it; all keys without it.
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "")]
    explain: Option<String>,
}

/// What `--json` prints of some of the keys.
#[derive(Serialize)]
struct Report<'a> {
    keys: &'a [&'a Key],
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    match (&arguments.config, &arguments.explain) {
        (_, Some(prefix)) => explain(prefix.trim_end_matches('.'), terminal)?,
        (Some(path), None) => {
            let config = RunConfig::read(path, &arguments.overrides)?;
            terminal.result(&config, &config.to_toml())?;
        }
        // clap asks for one of them.
        (None, None) => {}
    }
    Ok(Ending::Done)
}

fn explain(prefix: &str, terminal: &Terminal) -> Result<()> {
    let all = keys();
    let below = |name: &str| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('.'))
    };
    let chosen: Vec<&Key> = all.iter().filter(|key| below(&key.name)).collect();
    if chosen.is_empty() {
        // Tables can be meant as well as keys.
        let mut known: Vec<&str> = Vec::new();
        for key in &all {
            known.extend(key.name.match_indices('.').map(|(end, _)| &key.name[..end]));
            known.push(&key.name);
        }
        let last = |name: &&str| name.rsplit('.').next() == prefix.rsplit('.').next();
        let named = known.iter().copied().find(last);
        let nearest = named.or_else(|| nearest(prefix, known.iter().copied())).unwrap_or_default();
        anyhow::bail!("there is no key `{prefix}`; did you mean `{nearest}`?");
    }
    let pages: Vec<String> = chosen.iter().map(|key| page(key)).collect();
    if terminal.json && prefix.is_empty() {
        return terminal.result(&schema(), "");
    }
    terminal.result(&Report { keys: &chosen }, &pages.join("\n"))
}

/// ```text
/// train.steps = 1000
///     Optimizer steps of the whole run; the schedule spans them.
///     whole number, 1 to 4,294,967,296; unit: steps
/// ```
fn page(key: &Key) -> String {
    let mut text = match (&key.default, key.required) {
        (Some(default), _) => format!("{} = {}\n", key.name, toml(default, key)),
        (None, true) => format!("{}  (required)\n", key.name),
        (None, false) if key.defaults.is_empty() => format!("{}  (may be left out)\n", key.name),
        (None, false) => {
            // Presets that agree share a line's place.
            let mut each: Vec<(String, Vec<&str>)> = Vec::new();
            for (preset, value) in &key.defaults {
                let value = toml(value, key);
                match each.iter_mut().find(|(other, _)| *other == value) {
                    Some((_, presets)) => presets.push(preset),
                    None => each.push((value, vec![preset])),
                }
            }
            let each =
                each.iter().map(|(value, presets)| format!("{value} ({})", presets.join(", ")));
            let text = format!("{} = {}", key.name, each.collect::<Vec<_>>().join(", "));
            wrapped(&text, 100).join("\n        ") + "\n"
        }
    };
    for line in wrapped(&key.meaning, 96) {
        text.push_str(&format!("    {line}\n"));
    }
    let mut facts = vec![key.kind.clone()];
    if !key.words.is_empty() {
        facts = vec!["one of".into()];
    }
    facts.extend(key.range.as_deref().map(grouped));
    facts.extend(key.unit.as_ref().map(|unit| format!("unit: {unit}")));
    text.push_str(&format!("    {}\n", facts.join("; ")));
    let width = key.words.iter().map(|(word, _)| word.len() + 2).max().unwrap_or(0);
    for (word, meaning) in &key.words {
        let word = format!("\"{word}\"");
        for (i, line) in wrapped(meaning, 92 - width).iter().enumerate() {
            let word = if i == 0 { word.as_str() } else { "" };
            text.push_str(&format!("      {word:width$}  {line}\n"));
        }
    }
    text
}

/// A default as a file would have it. A number stored in single precision is shown as it was meant.
fn toml(value: &Value, key: &Key) -> String {
    match value.as_f64() {
        Some(number) if key.kind == "number" => {
            let single = number as f32;
            let exact = f64::from(single) == number;
            if exact { format!("{single:?}") } else { format!("{number:?}") }
        }
        _ => value.to_string(),
    }
}

/// Whole numbers of a range with commas.
fn grouped(range: &str) -> String {
    let word = |word: &str| word.parse().map_or_else(|_| word.into(), thousands);
    range.split(' ').map(word).collect::<Vec<String>>().join(" ")
}

/// Breaks a text into lines of at most `width` characters, at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
