//! Projection: latent weights to trits, once, and the packed model around them.

use std::collections::BTreeMap;

use burn::tensor::Device;
use tern_format::config::{ModelConfig, Quantizer};
use tern_format::packed::{
    Check, Encoding, FloatTensor, FloatType, Metadata, PackedModel, Provenance, Tensor,
    TernaryTensor,
};
use tern_format::t2;
use tern_format::tokenizer::Tokenizer;
use tern_kernels::ternarize::ternarize;
use tern_model::Decoder;
use tern_model::parameters::{HostTensor, export};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::evaluation::mean_loss;

/// Most token ids that a packed file carries for its check.
const CHECK_IDS: usize = 4_096;

/// What a packed model holds besides its weights.
pub struct Surroundings<'a> {
    /// The run's configuration.
    pub config: &'a RunConfig,
    /// Stored whole in the file.
    pub tokenizer: &'a Tokenizer,
    /// Ids that delimit documents.
    pub bos: Option<u32>,
    /// As `bos`.
    pub eos: Option<u32>,
    /// Where the weights come from.
    pub provenance: Option<Provenance>,
}

/// Projects a model: absmean in f64 on the host, each matrix once.
///
/// `check` holds the windows whose loss, as the trainer computes it from the latent weights, goes into the file; empty
/// for none.
///
/// # Errors
///
/// Names a matrix whose weights are not finite or whose absmean is below the quantizer's floor.
pub fn project(
    model: &Decoder,
    surroundings: &Surroundings<'_>,
    check: &[Vec<u32>],
    device: &Device,
) -> Result<PackedModel> {
    let Surroundings { config, tokenizer, bos, eos, provenance } = surroundings;
    let windows = fixed_windows(check);
    let check = (!windows.is_empty()).then(|| {
        let loss = mean_loss(model, windows, config.data.micro_batch, device);
        Check { windows: windows.to_vec(), loss }
    });
    let tensors = pack(&config.model, export(model))?;
    Ok(PackedModel {
        metadata: Metadata {
            format_version: tern_format::packed::FORMAT_VERSION,
            encoding: Encoding::T2,
            config: config.model.clone(),
            tokenizer: tokenizer.source().clone(),
            bos: *bos,
            eos: *eos,
            chat_template: None,
            generation: config.generate.clone(),
            provenance: provenance.clone(),
            check,
        },
        tensors,
    })
}

/// The longest prefix of `windows` that fits the check.
fn fixed_windows(windows: &[Vec<u32>]) -> &[Vec<u32>] {
    let mut ids = 0;
    let fitting = windows
        .iter()
        .take_while(|window| {
            ids += window.len();
            ids <= CHECK_IDS
        })
        .count();
    &windows[..fitting]
}

fn pack(
    config: &ModelConfig,
    mut weights: BTreeMap<String, HostTensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut packed = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let Some((_, values)) = weights.remove(&name) else {
            return Err(Error::Projection { name, rule: "is missing from the model".into() });
        };
        if let Some(place) = values.iter().position(|v| !v.is_finite()) {
            let rule = format!("entry {place} is {}; nothing was exported", values[place]);
            return Err(Error::Projection { name, rule });
        }
        let tensor = if config.is_ternary() && name.contains("_proj.") {
            ternary(config.quantizer, &name, &shape, &values)?
        } else if shape.len() == 1 {
            float(shape, FloatType::F32, values)
        } else {
            float(shape, FloatType::F16, values)
        };
        packed.insert(name, tensor);
    }
    Ok(packed)
}

fn ternary(quantizer: Quantizer, name: &str, shape: &[usize], values: &[f32]) -> Result<Tensor> {
    let extra = if quantizer == Quantizer::Seed1 { 1e-5 } else { 0.0 };
    let (trits, scale) = ternarize(values, extra);
    if scale <= 1e-5 {
        let rule = format!(
            "has collapsed: its scale {scale:e} is at the quantizer's floor; nothing was exported"
        );
        return Err(Error::Projection { name: name.into(), rule });
    }
    Ok(Tensor::Ternary(TernaryTensor {
        d_output: shape[0],
        d_input: shape[1],
        bytes: t2::pack(&trits, shape[1]),
        scales: vec![scale],
    }))
}

fn float(shape: Vec<usize>, dtype: FloatType, values: Vec<f32>) -> Tensor {
    Tensor::Float(FloatTensor::rounded(shape, dtype, values))
}
