//! `tern import`

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::{Map, Value};
use tern_format::harmless::escaped;
use tern_format::packed::{Encoding, FloatType};
use tern_infer::import::{Imported, Latent, Options, open};

use crate::Ending;
use crate::model::{packed_path, run_of_checkpoint};
use crate::overwrite::only_a_packed_model;
use crate::terminal::{Terminal, bytes, thousands};

/// Turn a model of another program into a packed model, or pack one of ours anew.
///
/// Reads the directories of Hugging Face's transformers, of three kinds: llama (float, or as packed trits), bitnet (packed
/// with either convention of the scale, or latent weights, which are ternarized once) and gpt2. The directory holds
/// config.json, the weights (model.safetensors, its shards, or pytorch_model.bin, which is read without executing it) and a
/// tokenizer.
///
/// Reads GGUF files of llama.cpp and bitnet.cpp with the architectures llama, bitnet, bitnet-b1.58, bitnet-25 and gpt2, and
/// weights of F32, F16, BF16, Q8_0, Q6_K, Q4_0, TQ1_0, TQ2_0 and I2_S. Trits stay trits; floats lose nothing, unless --floats
/// rounds them: values in blocks of fewer bits may need F32 to be exact. Floats that are ternary to the bit become trits.
///
/// Reads PyTorch state dicts (.pt, .bin) of the models that the presets bitlm, bitgpt and gpt2 come from, under their authors'
/// names, without executing them. Sizes come from the shapes, what these do not show from the preset; --set changes any of it.
/// Latent weights are ternarized, those that are ternary already are taken as they are.
///
/// A key of the configuration that would change the model in a way unknown here is refused by name.
///
/// With --encoding the trits are packed so: t2 (2 bits each) holds any, t5 (1.6 bits) too and is for archives; s24 (1.33 bits)
/// holds those of which each four consecutive have at most two that are not zero, s24n (1.25 bits, the fastest) those of
/// which they have one or two. A packed model may be given instead of a directory: it keeps all that it carries.
///
/// An import carries no tokens to check the loss on, so `tern verify` wants --allow-unchecked-loss.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern import bitnet-b1.58-2B-4T --out bitnet.safetensors
  tern import ~/models/SmolLM-135M-Instruct --out smollm.safetensors
  tern import ggml-model-i2_s.gguf --out bitnet.safetensors
  tern import ggml-model-i2_s.gguf --floats f16 --out bitnet.safetensors
  tern import best.pt --tokenizer tokenizer.model --out bitlm.safetensors
  tern import model.pt --tokenizer tokenizer.json --set num_attention_heads=8 --out model.safetensors
  tern import model.safetensors --encoding s24n --out sparse.safetensors")]
pub(crate) struct Arguments {
    /// The directory, the GGUF or PyTorch file, or the packed model.
    #[arg(value_name = "DIR|FILE")]
    source: PathBuf,
    /// Where to write the packed model.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The tokenizer of a PyTorch file, which carries none, or of a directory without: a tokenizer.json or a SentencePiece
    /// .model.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A setting of a PyTorch file's architecture, by the keys of `model` in a configuration; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Replace a packed model that is there.
    #[arg(long)]
    replace: bool,
    /// How to pack trits [default: t2, or as the packed model has them].
    #[arg(long, value_parser = crate::encoding::parser())]
    encoding: Option<Encoding>,
    /// Round the float matrices, such as the embedding, to this type [default: as the file has them, exactly].
    #[arg(long, value_name = "TYPE", value_parser = float_type_parser())]
    floats: Option<FloatType>,
}

/// What `--floats` takes.
fn float_type_parser() -> impl TypedValueParser<Value = FloatType> {
    let all = [FloatType::F32, FloatType::F16, FloatType::BF16];
    PossibleValuesParser::new(all.map(FloatType::name)).try_map(move |name| {
        all.into_iter().find(|float_type| float_type.name() == name).ok_or("is no type of floats")
    })
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    architecture: serde_json::Value,
    /// How trits are packed; null where there are none.
    encoding: Option<Encoding>,
    parameters: u64,
    ternary_parameters: u64,
    size_bytes: u64,
    notes: Vec<String>,
}

/// `KEY=VALUE`; a value that is no number, truth value or null is text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((key.trim().to_owned(), value))
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let Arguments { source, out, replace, tokenizer, set, encoding, floats } = arguments;
    if out.exists() && !replace {
        bail!("{}: is there already; --replace overwrites it", out.display());
    }
    only_a_packed_model(out)?;
    if source.join("config.toml").exists() {
        // A run has its packed model, or is told how to make it.
        let file = packed_path(source)?;
        bail!(
            "{}: the directory of a run, whose packed model {} runs as it is; import that to pack it anew",
            source.display(),
            file.display()
        );
    }
    if let Some(run) = run_of_checkpoint(source) {
        bail!(
            "{}: a checkpoint of a run; `tern export {}` makes the packed model",
            source.display(),
            run.display()
        );
    }
    let settings: Map<String, Value> = set.iter().cloned().collect();
    let options = Options {
        tokenizer: tokenizer.clone(),
        settings,
        latent: Latent::Ternarize,
        floats: *floats,
    };
    let imported = open(source, &options)?;
    let widened_bytes = imported.widened_bytes();
    let Imported { mut model, mut notes, .. } = imported;
    if widened_bytes > 0 {
        notes.push(format!(
            "floats in blocks of fewer bits became f32, which holds them exactly: {}; --floats f16 rounds them to half of that",
            bytes(widened_bytes)
        ));
    }
    if let Some(encoding) = encoding {
        model = model.encode_as(*encoding)?;
    }
    model.write(out)?;
    let report = Report {
        path: out.clone(),
        architecture: serde_json::to_value(model.config().architecture)?,
        encoding: (model.ternary_parameters() > 0).then_some(model.metadata.encoding),
        parameters: model.parameters(),
        ternary_parameters: model.ternary_parameters(),
        size_bytes: std::fs::metadata(out)?.len(),
        notes,
    };
    let text = format!(
        "{} ({}): {} parameters, {} of them ternary{}\n",
        out.display(),
        bytes(report.size_bytes),
        thousands(report.parameters),
        thousands(report.ternary_parameters),
        report
            .encoding
            .map_or_else(String::new, |encoding| format!(", packed as {}", encoding.name()))
    );
    for note in &report.notes {
        terminal.say(&escaped(note, &[]));
    }
    terminal.result(&report, &text)?;
    terminal.say(&format!("next: tern generate {}", out.display()));
    Ok(Ending::Done)
}
