//! `tern verify`

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use tern_infer::verify::{LossReport, Report, TensorReport, Verdict, verify};

use crate::Ending;
#[cfg(feature = "train")]
use crate::terminal::bytes;
use crate::terminal::{Terminal, thousands};

/// Read a packed model, nothing else, and say whether it is ternary.
///
/// Verdicts: packed (trits, stored as trits), projected (trits, stored as floats), latent (floats), collapsed (a scale or
/// the trits of a matrix have vanished), not_ternary. Exit code 0 for packed and projected with the trainer's loss, 3
/// for any other verdict or loss and for a file that carries no tokens to check the loss on, 1 for a file that is no
/// model or whose tokenizer is broken.
///
/// Example: tern verify runs/quickstart/model.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The packed model.
    file: PathBuf,
    /// Let a file pass that carries no tokens to check the loss on, as an import does not.
    #[arg(long)]
    allow_unchecked_loss: bool,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let report = verify(&arguments.file)?;
    terminal.result(&report, &table(&report))?;
    let unchecked = report.is_ternary() && report.loss == LossReport::Absent;
    let passes = report.passes() || unchecked && arguments.allow_unchecked_loss;
    if passes {
        terminal.say(&format!("next: tern generate {}", arguments.file.display()));
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
    if let LossReport::Measured { file, difference, .. } = &report.loss {
        text.push_str(&format!("; loss {file:.4} nats/token, {difference:.1e} from the trainer's"));
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
    text.push_str(&format!(
        "\nparameters  {}, of them ternary {} ({:.2} %)\nfile        {} bytes, {:.3} bits a weight over all of them, embeddings included\n",
        thousands(report.parameters),
        thousands(report.ternary_parameters),
        100.0 * report.ternary_parameters as f64 / report.parameters.max(1) as f64,
        thousands(report.size_bytes),
        report.bits_per_weight
    ));
    text.push_str(&match &report.loss {
        LossReport::Absent => "loss        not checked: the file carries no check tokens\n".into(),
        LossReport::Measured { trainer, file, difference, threshold, agrees, predictions } => {
            let agrees = if *agrees { "agrees" } else { "DIFFERS" };
            format!(
                "loss        {file:.6} nats/token on {predictions} fixed tokens; the trainer's was {trainer:.6}: {agrees} \
                 ({difference:.1e}, at most {threshold:.0e})\n"
            )
        }
    });
    text.push_str(&format!("verdict     {}\n", word(report.verdict)));
    for name in &report.because {
        text.push_str(&format!("            because of {name}\n"));
    }
    text
}

fn row(tensor: &TensorReport, width: usize) -> String {
    let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    let scale = match tensor.scales[..] {
        [] => String::new(),
        [scale] => format!("{scale:.3e}"),
        [first, ..] => format!("{first:.3e}…"),
    };
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
