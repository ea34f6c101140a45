//! `tern inspect`

mod contents;
mod directory;

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use tern_format::error::printable;

use crate::Ending;
use crate::terminal::{Terminal, bytes, thousands};

/// Say what a file or directory is, and what is in it.
///
/// Knows packed models, safetensors and their indices, GGUF files, PyTorch state dicts (which are read without executing
/// them), tokenizers (tokenizer.json, SentencePiece), token files, and directories: of transformers, runs, checkpoints.
/// Weights are not loaded: a file costs about as much as its header. With -v every tensor is listed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern inspect runs/quickstart/model.safetensors
  tern inspect -v ggml-model-i2_s.gguf
  tern --json inspect ~/models/bitnet-b1.58-2B-4T")]
pub(crate) struct Arguments {
    /// The file or directory.
    path: PathBuf,
}

/// What was found.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    /// What it is, in words.
    kind: &'static str,
    size_bytes: u64,
    /// What it says of itself: keys and values as it has them.
    metadata: Map<String, Value>,
    /// The architecture, every part stated, where the kind says one that this program knows.
    config: Option<Value>,
    /// Why there is no such architecture.
    refused: Option<String>,
    parameters: Option<u64>,
    tensors: Vec<Tensor>,
    tokenizer: Option<TokenizerFacts>,
}

/// One tensor.
#[derive(Serialize)]
struct Tensor {
    name: String,
    stored: String,
    shape: Vec<usize>,
    size_bytes: u64,
}

#[derive(Serialize)]
struct TokenizerFacts {
    kind: &'static str,
    size_bytes: u64,
    vocab_size: usize,
    bos: Option<String>,
    eos: Option<String>,
}

impl Report {
    fn new(path: PathBuf, kind: &'static str, size_bytes: u64) -> Self {
        Self {
            path,
            kind,
            size_bytes,
            metadata: Map::new(),
            config: None,
            refused: None,
            parameters: None,
            tensors: Vec::new(),
            tokenizer: None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let path = &arguments.path;
    let report = if path.is_dir() { directory::inspect(path)? } else { contents::inspect(path)? };
    terminal.result(&report, &text(&report, terminal.is_verbose()))?;
    Ok(Ending::Done)
}

/// The most characters of a value that are shown.
const MOST_OF_A_VALUE: usize = 100;

/// Everything from the file passes `printable`: its names may hold commands for a terminal.
fn text(report: &Report, lists_tensors: bool) -> String {
    let mut text = format!("kind        {}\n", report.kind);
    text.push_str(&format!(
        "size        {} ({} bytes)\n",
        bytes(report.size_bytes),
        thousands(report.size_bytes)
    ));
    if let Some(parameters) = report.parameters {
        text.push_str(&format!("parameters  {}\n", thousands(parameters)));
    }
    if let Some(tokenizer) = &report.tokenizer {
        text.push_str(&format!(
            "tokenizer   {}, {}: {} tokens",
            tokenizer.kind,
            bytes(tokenizer.size_bytes),
            thousands(tokenizer.vocab_size as u64)
        ));
        for (name, token) in [("BOS", &tokenizer.bos), ("EOS", &tokenizer.eos)] {
            if let Some(token) = token {
                text.push_str(&format!(", {name} {}", printable(token, 40)));
            }
        }
        text.push('\n');
    }
    if let Some(refused) = &report.refused {
        text.push_str(&format!("not run     {}\n", printable(refused, 400)));
    }
    for (heading, entries) in [
        ("metadata", Some(&report.metadata)),
        ("config", report.config.as_ref().and_then(Value::as_object)),
    ] {
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { continue };
        let width = entries.keys().map(|key| printable(key, 60).chars().count()).max().unwrap_or(0);
        text.push_str(&format!("\n{heading}\n"));
        for (key, value) in entries {
            let value = match value {
                Value::String(value) => printable(value, MOST_OF_A_VALUE),
                value => printable(&value.to_string(), MOST_OF_A_VALUE),
            };
            text.push_str(&format!("  {:width$}  {value}\n", printable(key, 60)));
        }
    }
    if lists_tensors {
        text.push_str(&table(&report.tensors));
    } else if !report.tensors.is_empty() {
        text.push_str(&format!(
            "\n{} tensors, {}; -v lists them\n",
            thousands(report.tensors.len() as u64),
            bytes(report.tensors.iter().map(|tensor| tensor.size_bytes).sum())
        ));
    }
    text
}

fn table(tensors: &[Tensor]) -> String {
    if tensors.is_empty() {
        return String::new();
    }
    let names: Vec<String> = tensors.iter().map(|tensor| printable(&tensor.name, 100)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
    let mut text =
        format!("\n{:width$}  {:>6} {:>16} {:>14}\n", "tensor", "type", "shape", "bytes");
    for (tensor, name) in tensors.iter().zip(names) {
        let shape: Vec<_> = tensor.shape.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            "{name:width$}  {:>6} {:>16} {:>14}\n",
            tensor.stored,
            shape.join("x"),
            thousands(tensor.size_bytes)
        ));
    }
    let all: u64 = tensors.iter().map(|tensor| tensor.size_bytes).sum();
    text.push_str(&format!(
        "{:width$}  {:>6} {:>16} {:>14}\n",
        tensors.len(),
        "",
        "",
        thousands(all)
    ));
    text
}
