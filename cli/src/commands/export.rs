//! `tern export`

#[cfg(feature = "train")]
pub(crate) mod checkpoint;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use tern_format::config::ActivationQuantizer;
use tern_format::gguf::{self, BlockType};
use tern_format::huggingface::{self, Storage};
use tern_format::packed::{FloatType, PackedModel};

use crate::Ending;
use crate::model::packed_path;
use crate::overwrite;
use crate::terminal::{Terminal, bytes};

/// Write the packed model of a run, or a model for other programs.
///
/// --to gguf writes a file for llama.cpp, --to hf a directory for Hugging Face's transformers. What they would read as another
/// model is refused, with what can hold it: docs/formats.md says what goes where. Of a run its checkpoint is projected for it;
/// the packed model that lies there stays as it is.
///
/// A packed model of a run holds everything that inference needs: configuration, trits and scales, tokenizer, generation
/// defaults, where it comes from, and up to 4,096 token ids of the validation text, which anybody can read in it, with the
/// trainer's loss on them, which `tern verify` computes again. Making one of a run takes a program that can train.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern export runs/quickstart
  tern export runs/quickstart --checkpoint last --out story.safetensors
  tern export runs/quickstart --encoding t5 --out archive.safetensors
  tern export story.safetensors --to gguf --out story.gguf
  tern export story.safetensors --to gguf --type f16 --out story.gguf
  tern export story.safetensors --to hf --out story-hf")]
pub(crate) struct Arguments {
    /// The directory of a run, or a packed model.
    model: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Target::Tern)]
    to: Target,
    /// How another program's file stores the linear layers [default: the smallest that holds the model].
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    storage: Option<Type>,
    /// The file or directory to write [default: beside the packed model]. Nothing but a file of the same kind is
    /// overwritten.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Of a run: `best` by validation loss, `last`, or the number of a step [default: best].
    #[cfg(feature = "train")]
    #[arg(long, value_name = "WHICH")]
    checkpoint: Option<String>,
    /// Of a run: directory with its prepared tokens [default: where the run had them].
    #[cfg(feature = "train")]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How a packed model stores trits: t2 (2 bits each), t5 (1.6), or, where of each four at most two are not zero, s24 (1.33)
    /// and, where they are never all zero either, s24n (1.25) [default: t2].
    #[cfg(feature = "train")]
    #[arg(long, value_parser = crate::encoding::parser())]
    encoding: Option<tern_format::packed::Encoding>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    /// Tern's packed model.
    Tern,
    /// One file for llama.cpp.
    Gguf,
    /// A directory for Hugging Face's transformers.
    Hf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Type {
    /// gguf: trits, 2.06 bits each.
    #[value(name = "tq2_0")]
    Tq2_0,
    /// gguf: trits, 1.69 bits each.
    #[value(name = "tq1_0")]
    Tq1_0,
    /// gguf: trits, 2 bits each, for bitnet.cpp.
    #[value(name = "i2_s")]
    I2S,
    /// gguf: eight bits.
    #[value(name = "q8_0")]
    Q8_0,
    /// hf: trits, 2 bits each.
    Packed,
    /// Floats of 16 bits.
    F16,
    /// hf: floats of 16 bits, with the range of f32.
    Bf16,
    /// Floats of 32 bits.
    F32,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    to: Target,
    architecture: String,
    /// As `--type` has it.
    #[serde(rename = "type")]
    storage: String,
    size_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    if arguments.to == Target::Tern {
        return pack(arguments, terminal);
    }
    // Before the work: a wrong pair of options costs nothing.
    let storage = arguments.storage;
    let (block_type, storage) = match arguments.to {
        Target::Gguf => (storage.map(Type::of_gguf).transpose()?, None),
        _ => (None, storage.map(Type::of_directory).transpose()?),
    };
    let (model, file) = source(arguments, terminal)?;
    let report = if arguments.to == Target::Gguf {
        let out = arguments.out.clone().unwrap_or_else(|| file.with_extension("gguf"));
        to_gguf(&model, &out, block_type)
    } else {
        let out = arguments.out.clone().unwrap_or_else(|| beside(&file));
        to_directory(&model, &out, storage)
    };
    let report = report.with_context(|| format!("{}: not exported", arguments.model.display()))?;
    let Report { path, architecture, storage, size_bytes, .. } = &report;
    let text = format!("{architecture}, {storage}: {} ({})\n", path.display(), bytes(*size_bytes));
    terminal.result(&report, &text)?;
    if arguments.to == Target::Gguf {
        say_what_differs(&model, architecture, terminal);
    }
    Ok(Ending::Done)
}

/// What llama.cpp computes in another way than the file says.
fn say_what_differs(model: &PackedModel, architecture: &str, terminal: &Terminal) {
    if architecture == "bitnet-b1.58" {
        terminal.say("bitnet.cpp reads this file; stock llama.cpp has no such architecture");
    } else if model.config().activation_quantizer == ActivationQuantizer::Int8 {
        terminal.say(
            "llama.cpp quantizes activations in its own way, whatever the file says: expect logits near the model's, not \
             equal to them",
        );
    }
}

#[cfg(feature = "train")]
fn pack(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    if arguments.storage.is_some() {
        bail!(
            "--type goes with --to gguf or --to hf; --encoding says how a packed model stores trits"
        );
    }
    let exported = checkpoint::pack(arguments, terminal)?;
    terminal.result(&exported, &checkpoint::describe(&exported))?;
    terminal.say(&format!("next: tern verify {}", exported.path.display()));
    Ok(Ending::Done)
}

#[cfg(not(feature = "train"))]
fn pack(arguments: &Arguments, _: &Terminal) -> Result<Ending> {
    bail!(
        "{}: --to gguf or --to hf is needed: a packed model is made of a run, by a program that can train",
        arguments.model.display()
    )
}

/// The model to convert, and where its packed model lies, or would lie: of a run it is projected anew, and nothing is written.
fn source(
    arguments: &Arguments,
    #[allow(unused, reason = "without training")] terminal: &Terminal,
) -> Result<(PackedModel, PathBuf)> {
    #[cfg(feature = "train")]
    {
        if arguments.encoding.is_some() {
            bail!("--encoding goes with --to tern; --type says how the other formats store trits");
        }
        if checkpoint::is_run(&arguments.model) {
            return checkpoint::project(arguments, terminal);
        }
        for (option, is_given) in
            [("--checkpoint", arguments.checkpoint.is_some()), ("--data", arguments.data.is_some())]
        {
            if is_given {
                bail!(
                    "{}: not the directory of a run, which {option} wants; leave it out to export a packed model",
                    arguments.model.display()
                );
            }
        }
    }
    let file = packed_path(&arguments.model)?;
    Ok((PackedModel::read(&file)?, file))
}

/// `model.safetensors` becomes `model-hf`.
fn beside(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-hf"))
}

fn to_gguf(model: &PackedModel, out: &Path, linear: Option<BlockType>) -> Result<Report> {
    overwrite::only_what_begins_with(out, b"GGUF", "GGUF file")?;
    let export = gguf::export(model, linear)?;
    export.layout.write(out)?;
    Ok(Report {
        path: out.into(),
        to: Target::Gguf,
        architecture: export.architecture.into(),
        storage: format!("{:?}", export.linear).to_lowercase(),
        size_bytes: export.layout.size_bytes(),
    })
}

fn to_directory(model: &PackedModel, out: &Path, storage: Option<Storage>) -> Result<Report> {
    let empty = !out.exists() || std::fs::read_dir(out)?.next().is_none();
    let card = std::fs::read_to_string(out.join("README.md")).unwrap_or_default();
    if !empty && !card.contains(huggingface::SIGNATURE) {
        bail!(
            "{}: is no directory that tern has written and is not overwritten: choose another --out",
            out.display()
        );
    }
    let directory = huggingface::export(model, storage)?;
    directory.write(out)?;
    let size = |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.metadata()?.len());
    Ok(Report {
        path: out.into(),
        to: Target::Hf,
        architecture: directory.model_type.into(),
        storage: match directory.storage {
            Storage::Packed => "packed".into(),
            Storage::Float(float) => float.name().into(),
        },
        size_bytes: std::fs::read_dir(out)?.map(size).sum::<std::io::Result<u64>>()?,
    })
}

impl Type {
    fn of_gguf(self) -> Result<BlockType> {
        Ok(match self {
            Self::Tq2_0 => BlockType::TQ2_0,
            Self::Tq1_0 => BlockType::TQ1_0,
            Self::I2S => BlockType::I2_S,
            Self::Q8_0 => BlockType::Q8_0,
            Self::F16 => BlockType::F16,
            Self::F32 => BlockType::F32,
            Self::Packed | Self::Bf16 => {
                bail!("--to gguf takes --type tq2_0, tq1_0, i2_s, f16, q8_0 or f32")
            }
        })
    }

    fn of_directory(self) -> Result<Storage> {
        Ok(match self {
            Self::Packed => Storage::Packed,
            Self::F32 => Storage::Float(FloatType::F32),
            Self::F16 => Storage::Float(FloatType::F16),
            Self::Bf16 => Storage::Float(FloatType::BF16),
            Self::Tq2_0 | Self::Tq1_0 | Self::I2S | Self::Q8_0 => {
                bail!("--to hf takes --type packed, f32, bf16 or f16")
            }
        })
    }
}
