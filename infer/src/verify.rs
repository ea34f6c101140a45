//! What a packed file is: the verifier reads the file, never the trainer.
//!
//! The *declared* matrices are the linear layers of the blocks, and the head where the config has `ternary_head`, under a
//! config that has a quantizer. Each gets a verdict of its own ([`matrix`]), and the file gets the first of these that
//! holds:
//!
//! 1. *collapsed*: a declared matrix is collapsed: a scale is not positive or is below the floor of
//!    `1e-2 / sqrt(d_input)`, or no weight is other than zero;
//! 2. *not ternary*: nothing is declared, or a declared matrix only rounds to ternary, or some are exactly ternary
//!    and some are not;
//! 3. *latent*: all declared matrices are floats of many magnitudes, from which nobody has taken trits yet;
//! 4. *projected*: all are exactly ternary, and at least one is stored as floats;
//! 5. *packed*: all are stored as trits.
//!
//! Exactly means to the bit: the values `-s`, `0` and `s` for one float `s`. No tolerance: a tolerance is how a dead
//! model passes for a ternary one.

pub mod matrix;
mod two_four;

use std::path::Path;

use serde::Serialize;
use tern_format::config::{Architecture, ModelConfig};
use tern_format::packed::{Encoding, PackedModel, Tensor};

use crate::decoder::Model;
use crate::error::{Error, Result};
use crate::loss::mean_loss;
use crate::packed_file::PackedFile;
use matrix::{Trits, judge};
pub use two_four::TwoFour;

/// How far the loss of the packed file may be from the trainer's, in nats per token.
///
/// Where the trainer computes with the embeddings as the file rounds them, weight-only models agree to 1e-5. The rounding
/// itself, and activations of eight bits, of which the float steps between the layers may flip a code, cost more.
pub const LOSS_THRESHOLD: f64 = 1e-3;

/// What a file is, in one word; the module says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Trits, stored as trits.
    Packed,
    /// Trits, stored as floats.
    Projected,
    /// Floats of many magnitudes.
    Latent,
    /// A scale or the trits of a matrix have vanished.
    Collapsed,
    /// Not ternary, or not all of it.
    NotTernary,
}

/// Everything that the verifier found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the file is.
    pub verdict: Verdict,
    /// The declared tensors that decided it, if not all did.
    pub because: Vec<String>,
    /// The preset.
    pub architecture: Architecture,
    /// How trits are packed.
    pub encoding: Encoding,
    /// Parameters; a tied head counts once, a scale is none.
    pub parameters: u64,
    /// Parameters that are exactly ternary, however they are stored.
    pub ternary_parameters: u64,
    /// Size of the whole file.
    pub size_bytes: u64,
    /// `8 * size_bytes / parameters`: header, tokenizer, embeddings and all.
    pub bits_per_weight: f64,
    /// Bits that a weight of the exactly ternary matrices takes, scales included; absent if there are none.
    pub bits_per_ternary_weight: Option<f64>,
    /// The trits of all those matrices together; absent if there are none.
    pub trits: Option<Trits>,
    /// The groups of four of all those matrices together; absent if there are none, or a row ends inside a group.
    pub two_four: Option<TwoFour>,
    /// The tensors, in the order of the forward pass.
    pub tensors: Vec<TensorReport>,
    /// The file's loss against the trainer's.
    pub loss: LossReport,
    /// The checksum that the file carries, and that its bytes have; absent if it carries none.
    pub file_sha256: Option<String>,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// `[d_output, d_input]` of a matrix.
    pub shape: Vec<usize>,
    /// How it is stored: `t2`, `t5`, `s24`, `s24n`, `f32`, `f16` or `bf16`.
    pub stored: &'static str,
    /// Bytes of its data, scales included.
    pub size_bytes: u64,
    /// `8 * size_bytes / parameters`.
    pub bits_per_weight: f64,
    /// Whether the config declares it ternary.
    pub declared: bool,
    /// What it is; absent if it is not declared.
    pub verdict: Option<Verdict>,
    /// The scale of trits, or the one magnitude of an exact projection; of other declared matrices the mean magnitude.
    pub scale: Option<f32>,
    /// `1e-2 / sqrt(d_input)`: a declared matrix with a scale below it is collapsed.
    pub collapse_floor: Option<f64>,
    /// Its trits; absent unless it is exactly ternary.
    pub trits: Option<Trits>,
    /// Its groups of four; absent unless it is exactly ternary and its rows end with a group.
    pub two_four: Option<TwoFour>,
}

/// The loss of the file on the tokens that it carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum LossReport {
    /// The file carries no tokens: an import, or an older export.
    Absent,
    /// It was measured.
    Measured {
        /// What the trainer wrote, nats per token.
        trainer: f64,
        /// What this file gives, nats per token.
        file: f64,
        /// `|file - trainer|`.
        difference: f64,
        /// The most that it may be.
        threshold: f64,
        /// Whether it is at most that.
        agrees: bool,
        /// How many predictions the mean is over.
        predictions: usize,
    },
}

impl Report {
    /// Whether the file is what a packed model should be: ternary, with the trainer's loss. A file that carries no
    /// tokens to measure the loss on does not pass: whoever changes a file could leave them out.
    pub fn passes(&self) -> bool {
        self.is_ternary() && matches!(self.loss, LossReport::Measured { agrees: true, .. })
    }

    /// Whether the verdict is packed or projected.
    pub fn is_ternary(&self) -> bool {
        matches!(self.verdict, Verdict::Packed | Verdict::Projected)
    }
}

/// Verifies a file.
///
/// # Errors
///
/// A file that cannot be read as a packed model (a code that is no trit among others), a tokenizer in it that cannot be
/// read or does not fit, or a kernel that is not to be had.
pub fn verify(path: &Path) -> Result<Report> {
    let PackedFile { model: packed, sha256: file_sha256, size_bytes, .. } = PackedFile::open(path)?;
    let report = verify_model(packed, size_bytes).map_err(|error| match error {
        Error::Format(source) => source.in_file(path).into(),
        other => other,
    })?;
    Ok(Report { file_sha256, ..report })
}

/// Verifies the bytes of a file.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_bytes(bytes: &[u8]) -> Result<Report> {
    let (packed, file_sha256) = PackedModel::parse(bytes::Bytes::copy_from_slice(bytes))?;
    Ok(Report { file_sha256, ..verify_model(packed, bytes.len() as u64)? })
}

/// Verifies a model in memory, whose file has so many bytes.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_model(packed: PackedModel, size_bytes: u64) -> Result<Report> {
    packed.validate()?;
    // Else a file would pass that cannot write a word.
    packed.metadata.read_tokenizer()?;
    let config = packed.config().clone();
    let mut tensors = Vec::new();
    for (name, _) in config.tensors() {
        if let Some(tensor) = packed.tensors.get(&name) {
            tensors.push(tensor_report(&config, name, tensor)?);
        }
    }
    let (verdict, because) = overall(&tensors);
    let exact: Vec<_> = tensors.iter().filter(|tensor| tensor.trits.is_some()).collect();
    let ternary_parameters = exact.iter().map(|tensor| count(&tensor.shape)).sum();
    let ternary_bytes: u64 = exact.iter().map(|tensor| tensor.size_bytes).sum();
    let parameters = packed.parameters();
    Ok(Report {
        verdict,
        because,
        architecture: config.architecture,
        encoding: packed.metadata.encoding,
        parameters,
        ternary_parameters,
        size_bytes,
        bits_per_weight: bits(size_bytes, parameters),
        bits_per_ternary_weight: (ternary_parameters > 0)
            .then(|| bits(ternary_bytes, ternary_parameters)),
        trits: exact.iter().filter_map(|tensor| tensor.trits).reduce(Trits::and),
        two_four: exact
            .iter()
            .map(|tensor| tensor.two_four)
            .reduce(|a, b| Some(a?.and(b?)))
            .flatten(),
        tensors,
        loss: loss(packed)?,
        file_sha256: None,
    })
}

fn tensor_report(config: &ModelConfig, name: String, tensor: &Tensor) -> Result<TensorReport> {
    let declared = config.is_ternary_matrix(&name);
    let judged = declared.then(|| judge(tensor)).transpose()?;
    let (shape, size_bytes) = (tensor.shape(), tensor.size_bytes());
    Ok(TensorReport {
        stored: match tensor {
            Tensor::Ternary(ternary) => ternary.encoding.name(),
            Tensor::Float(float) => float.dtype.name(),
        },
        size_bytes,
        bits_per_weight: bits(size_bytes, count(&shape)),
        declared,
        verdict: judged.as_ref().map(|judged| judged.verdict),
        trits: judged.as_ref().and_then(|judged| judged.trits),
        two_four: judged.as_ref().and_then(|judged| judged.two_four),
        collapse_floor: judged.as_ref().map(|judged| judged.floor),
        scale: judged.map(|judged| judged.scale),
        name,
        shape,
    })
}

/// The verdict on the file, and the tensors that decided it.
fn overall(tensors: &[TensorReport]) -> (Verdict, Vec<String>) {
    let names = |which: &dyn Fn(Verdict) -> bool| -> Vec<String> {
        let decisive = tensors.iter().filter(|tensor| tensor.verdict.is_some_and(which));
        decisive.map(|tensor| tensor.name.clone()).collect()
    };
    let of = |verdict| names(&|each| each == verdict);
    let declared = names(&|_| true);
    let (collapsed, imitations) = (of(Verdict::Collapsed), of(Verdict::NotTernary));
    let (latent, projected) = (of(Verdict::Latent), of(Verdict::Projected));
    if !collapsed.is_empty() {
        (Verdict::Collapsed, collapsed)
    } else if declared.is_empty() || !imitations.is_empty() {
        (Verdict::NotTernary, imitations)
    } else if latent.len() == declared.len() {
        (Verdict::Latent, Vec::new())
    } else if !latent.is_empty() {
        (Verdict::NotTernary, latent)
    } else if !projected.is_empty() {
        let all = projected.len() == declared.len();
        (Verdict::Projected, if all { Vec::new() } else { projected })
    } else {
        (Verdict::Packed, Vec::new())
    }
}

fn loss(mut packed: PackedModel) -> Result<LossReport> {
    let Some(check) = packed.metadata.check.take() else {
        return Ok(LossReport::Absent);
    };
    let file = mean_loss(&Model::load(packed)?, &check.windows)?;
    let difference = (file - check.loss).abs();
    Ok(LossReport::Measured {
        trainer: check.loss,
        file,
        difference,
        threshold: LOSS_THRESHOLD,
        // A loss that is no number agrees with nothing.
        agrees: difference <= LOSS_THRESHOLD,
        predictions: check.predictions(),
    })
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().map(|&side| side as u64).product()
}

fn bits(size_bytes: u64, parameters: u64) -> f64 {
    size_bytes as f64 * 8.0 / parameters.max(1) as f64
}

#[cfg(test)]
mod tests;
