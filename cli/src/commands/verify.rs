//! `tern verify`

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::Value;
use tern_format::gguf::Gguf;
use tern_format::pytorch;
use tern_infer::import::{self, Latent, Options, weight_files};
use tern_infer::verify::{
    LossReport, Report, TensorReport, TwoFour, Verdict, verify, verify_model,
};
use tern_kernels::mapped_file::MappedFile;

use crate::Ending;
use crate::model::packed_path;
use crate::terminal::{Terminal, bytes, thousands};

/// Read a model's file, nothing else, and say whether it is ternary.
///
/// Reads packed models, and what `tern import` reads: directories of transformers, GGUF files, PyTorch state dicts (with
/// --tokenizer). Weights are judged as the file has them: latent ones are not ternarized first. Such files carry no tokens to
/// check the loss on, so they want --allow-unchecked-loss.
///
/// Verdicts: packed (trits, stored as trits), projected (trits, stored as floats), latent (floats), collapsed (a scale or
/// the trits of a matrix have vanished), not_ternary. Exit code 0 for packed and projected with the trainer's loss, 3
/// for any other verdict or loss and for a file that carries no tokens to check the loss on, 1 for a file that is no
/// model or whose tokenizer is broken.
///
/// The matrices whose scale is nearest to the floor below which they count as collapsed are named; with -v every tensor
/// is listed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern verify runs/quickstart/model.safetensors
  tern verify -v runs/quickstart/model.safetensors
  tern --json verify runs/quickstart/model.safetensors
  tern verify --allow-unchecked-loss ggml-model-i2_s.gguf")]
pub(crate) struct Arguments {
    /// The packed model, the directory of a run that has one, or what `tern import` reads.
    file: PathBuf,
    /// The tokenizer of a PyTorch file, which carries none, or of a directory without.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Let a file pass that carries no tokens to check the loss on, as an import does not.
    #[arg(long)]
    allow_unchecked_loss: bool,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    if let Some(report) = foreign(arguments)? {
        let tokenizer = arguments.tokenizer.as_ref();
        let next = format!(
            "tern import {}{} --out model.safetensors",
            arguments.file.display(),
            tokenizer.map_or_else(String::new, |file| format!(" --tokenizer {}", file.display()))
        );
        return finish(arguments, &report, &next, terminal);
    }
    let file = &packed_path(&arguments.file)?;
    if arguments.tokenizer.is_some() {
        bail!(
            "{}: --tokenizer is for PyTorch files and directories of transformers",
            file.display()
        );
    }
    finish(arguments, &verify(file)?, &format!("tern generate {}", file.display()), terminal)
}

/// The report on a file of another program; none if it is none.
fn foreign(arguments: &Arguments) -> Result<Option<Report>> {
    let Arguments { file, tokenizer, .. } = arguments;
    let files = if file.is_dir() {
        if file.join("config.toml").exists() || !file.join("config.json").exists() {
            return Ok(None);
        }
        weight_files(file)?
    } else {
        let Ok(map) = MappedFile::open(file) else { return Ok(None) };
        if !Gguf::recognize(&map) && !pytorch::recognize(&map) {
            return Ok(None);
        }
        vec![file.clone()]
    };
    let options =
        Options { tokenizer: tokenizer.clone(), latent: Latent::Keep, ..Options::default() };
    let imported = import::open(file, &options)?;
    let sizes = files.iter().map(|file| Ok(std::fs::metadata(file)?.len()));
    let size_bytes = sizes.sum::<std::io::Result<u64>>()?;
    Ok(Some(verify_model(imported.model, size_bytes)?))
}

/// Prints a report, and says whether the file passes, and then the command that may be `next`.
fn finish(
    arguments: &Arguments,
    report: &Report,
    next: &str,
    terminal: &Terminal,
) -> Result<Ending> {
    tracing::debug!(file = %arguments.file.display(), verdict = ?report.verdict, "verified");
    let mut text = overview(report);
    if terminal.is_verbose() {
        text.push_str(&format!("\n{}", table(report)));
    }
    terminal.result(report, &text)?;
    let unchecked = report.is_ternary() && report.loss == LossReport::Absent;
    let passes = report.passes() || unchecked && arguments.allow_unchecked_loss;
    if passes {
        terminal.say(&format!("next: {next}"));
    } else if unchecked {
        terminal.say(
            "ternary, but the loss is not checked; --allow-unchecked-loss lets such a file pass",
        );
    }
    Ok(if passes { Ending::Done } else { Ending::Refused })
}

/// One line: verdict, size, loss.
#[cfg(feature = "train")]
pub(crate) fn summary(report: &Report) -> String {
    let mut text = format!(
        "{}; {} parameters, {} of them ternary; {:.2} bits a weight over all {}",
        word(report.verdict),
        thousands(report.parameters),
        thousands(report.ternary_parameters),
        report.bits_per_weight,
        bytes(report.size_bytes)
    );
    if let LossReport::Measured { file, difference, predictions, .. } = &report.loss {
        text.push_str(&format!(
            "; loss {file:.4} nats/token on the {} tokens that it carries, {difference:.1e} from the trainer's",
            thousands(*predictions as u64)
        ));
    }
    text
}

/// The verdict as JSON spells it.
pub(crate) fn word(verdict: Verdict) -> String {
    match serde_json::to_value(verdict) {
        Ok(Value::String(word)) => word,
        _ => format!("{verdict:?}"),
    }
}

/// What decided a verdict: the matrices, or what the file declares.
pub(crate) fn reasons(report: &Report) -> Vec<String> {
    if report.tensors.iter().any(|tensor| tensor.declared) {
        return report.because.clone();
    }
    vec!["model.quantizer = \"none\": the file declares no matrix ternary".into()]
}

/// Matrices that the summary names.
const SHOWN: usize = 3;

/// The verdict and what it rests on.
fn overview(report: &Report) -> String {
    let mut text = format!("verdict     {}\n", word(report.verdict));
    let reasons = reasons(report);
    for reason in reasons.iter().take(SHOWN) {
        text.push_str(&format!("            because of {reason}\n"));
    }
    if let Some(more) = reasons.len().checked_sub(SHOWN + 1) {
        text.push_str(&format!("            and {} more\n", more + 1));
    }
    text.push_str(&format!(
        "size        {} ({} bytes)\n\
         parameters  {}, of them ternary {} ({:.1} %)\n\
         bits        {:.2} a weight over the whole file, embeddings included",
        bytes(report.size_bytes),
        thousands(report.size_bytes),
        thousands(report.parameters),
        thousands(report.ternary_parameters),
        100.0 * report.ternary_parameters as f64 / report.parameters.max(1) as f64,
        report.bits_per_weight
    ));
    if let Some(bits) = report.bits_per_ternary_weight {
        text.push_str(&format!("; {bits:.3} a ternary weight"));
        if report.verdict == Verdict::Packed {
            text.push_str(&format!(", in {}", report.encoding.name()));
        }
    }
    text.push('\n');
    if let Some(trits) = &report.trits {
        text.push_str(&format!("zeros       {:.1} % of all trits\n", 100.0 * trits.zeros_share));
    }
    if let Some(two_four) = report.two_four.filter(TwoFour::holds) {
        text.push_str(&format!(
            "2:4         holds in all {} groups of four{}\n",
            thousands(two_four.groups),
            match two_four.zero {
                0 => ", of which none is all zeros".into(),
                zero => format!(", of which {} are all zeros", thousands(zero)),
            }
        ));
    }
    text.push_str(&worst(report));
    text.push_str(&match &report.loss {
        LossReport::Absent => "loss        not checked: the file carries no check tokens\n".into(),
        LossReport::Measured { trainer, file, difference, threshold, agrees, predictions } => {
            let agrees = if *agrees { "agrees" } else { "DIFFERS" };
            format!(
                "loss        {file:.6} nats/token on {} fixed tokens; the trainer's was {trainer:.6}:\n            \
                 {agrees} ({difference:.1e}, at most {threshold:.0e})\n",
                thousands(*predictions as u64)
            )
        }
    });
    text.push_str(match &report.file_sha256 {
        Some(_) => "checksum    that of the file's bytes\n",
        None => "checksum    the file carries none: damage to it may go unseen\n",
    });
    text
}

/// The matrices nearest to trouble: those with the scale closest to the floor below which they count as collapsed.
fn worst(report: &Report) -> String {
    let mut matrices: Vec<(f64, &TensorReport)> = report
        .tensors
        .iter()
        .filter_map(|tensor| {
            let margin = f64::from(tensor.scale?) / tensor.collapse_floor?;
            margin.is_finite().then_some((margin, tensor))
        })
        .collect();
    matrices.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut text = String::new();
    for (i, (margin, tensor)) in matrices.iter().take(SHOWN).enumerate() {
        let head = if i == 0 { "weakest" } else { "" };
        let zeros = tensor.trits.as_ref().map_or_else(String::new, |trits| {
            let dead = match trits.dead_rows {
                0 => String::new(),
                rows => format!(", {} dead rows", thousands(rows)),
            };
            format!(", {:.1} % zeros{dead}", 100.0 * trits.zeros_share)
        });
        text.push_str(&format!(
            "{head:<12}{}: scale {margin:.1} times the floor{zeros}\n",
            tensor.name
        ));
    }
    text
}

fn table(report: &Report) -> String {
    let width = report.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:width$} {:>13} {:>8} {:>10} {:>7} {:>8} {:>5} {:>6} {:>6}  verdict\n",
        "tensor", "shape", "stored", "scale", "zeros", "balance", "dead", "bits/t", "bits/w"
    );
    for tensor in &report.tensors {
        text.push_str(&row(tensor, width));
    }
    if let Some(trits) = &report.trits {
        text.push_str(&format!(
            "{:width$} {:>13} {:>8} {:>10} {:>6.2}% {:>+8.4} {:>5} {:>6.3} {:>6.3}\n",
            "all ternary",
            thousands(report.ternary_parameters),
            "",
            "",
            100.0 * trits.zeros_share,
            trits.sign_balance,
            trits.dead_rows,
            trits.entropy_bits,
            report.bits_per_ternary_weight.unwrap_or(0.0)
        ));
    }
    text
}

fn row(tensor: &TensorReport, width: usize) -> String {
    let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    let scale = tensor.scale.map_or_else(String::new, |scale| format!("{scale:.3e}"));
    let trits = tensor.trits.as_ref().map_or_else(
        || format!("{:>7} {:>8} {:>5} {:>6}", "", "", "", ""),
        |trits| {
            format!(
                "{:>6.2}% {:>+8.4} {:>5} {:>6.3}",
                100.0 * trits.zeros_share,
                trits.sign_balance,
                trits.dead_rows,
                trits.entropy_bits
            )
        },
    );
    let verdict = match (tensor.verdict, tensor.declared) {
        (Some(verdict), _) => word(verdict),
        (None, true) => String::new(),
        (None, false) => "float".into(),
    };
    format!(
        "{:width$} {:>13} {:>8} {scale:>10} {trits} {:>6.3}  {verdict}\n",
        tensor.name,
        shape.join("x"),
        tensor.stored,
        tensor.bits_per_weight
    )
}
