//! Projection: latent weights to trits, once, and the packed model around them.

use std::collections::BTreeMap;

use burn::tensor::Device;
use tern_datasets::batches::ValidationSet;
use tern_format::config::{EMBEDDING, HEAD, ModelConfig};
use tern_format::packed::{
    Check, FloatTensor, FloatType, MOST_CHECK_IDS, Metadata, PackedModel, Provenance, Tensor,
    TernaryTensor,
};
use tern_format::tokenizer::Tokenizer;
use tern_kernels::ternarize::{EPS, ternarize_as_one};
use tern_model::Decoder;
use tern_model::parameters::{HostTensor, export};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::evaluation::mean_loss;
use crate::ranks::Alone;

/// The largest finite f16.
const MOST_F16: f32 = 65_504.0;

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

/// Projects a model: absmean in f64 on the host, each matrix once, or those that are one to the quantizer together.
///
/// The loss on the head of `check`, as the trainer computes it from the latent weights, goes into the file.
///
/// # Errors
///
/// Names a matrix whose weights are not finite or whose absmean is below the quantizer's floor.
pub fn project(
    model: &Decoder,
    surroundings: &Surroundings<'_>,
    check: Option<&ValidationSet>,
    device: &Device,
) -> Result<PackedModel> {
    let Surroundings { config, tokenizer, bos, eos, provenance } = surroundings;
    let check = check.map(|set| {
        let windows = fixed_windows(set, config.data.seq_len);
        let seq_len = windows.first().map_or(0, |window| window.len() - 1);
        let batches = windows.chunks(config.data.micro_batch).map(<[_]>::concat);
        let loss = mean_loss(model, batches, seq_len, device, &Alone);
        Check { windows, loss }
    });
    let tensors = pack(&config.model, latent(model, &config.model))?;
    let metadata = Metadata {
        bos: *bos,
        eos: *eos,
        generation: config.generate.clone(),
        provenance: provenance.clone(),
        check,
        ..Metadata::new(config.model.clone(), tokenizer.source().clone())
    };
    Ok(PackedModel { metadata, tensors })
}

/// The first windows of the validation set, as many as the check may hold, or the head of the first.
fn fixed_windows(set: &ValidationSet, seq_len: usize) -> Vec<Vec<u32>> {
    let rows = (MOST_CHECK_IDS / (seq_len + 1)).max(1);
    let windows = set.batch(0, rows);
    windows
        .chunks_exact(seq_len + 1)
        .map(|window| window[..window.len().min(MOST_CHECK_IDS)].to_vec())
        .collect()
}

/// Every tensor of a model on the host, by name; a ternary head that is tied to the embedding as a copy of that.
pub fn latent(model: &Decoder, config: &ModelConfig) -> BTreeMap<String, HostTensor> {
    let mut all = export(model);
    if config.has_head()
        && config.tie_word_embeddings
        && let Some(embedding) = all.get(EMBEDDING).cloned()
    {
        all.insert(HEAD.into(), embedding);
    }
    all
}

/// Projects every ternary matrix and rounds the rest to what a packed model stores.
///
/// # Errors
///
/// As [`project`].
pub fn pack(
    config: &ModelConfig,
    mut weights: BTreeMap<String, HostTensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut packed = BTreeMap::new();
    for (name, shape) in config.tensors() {
        if !config.is_ternary_matrix(&name) {
            let values = take(&mut weights, &name)?;
            packed.insert(name.clone(), Tensor::Float(rounded(&name, shape, &values)?));
        }
    }
    for group in config.ternary_groups() {
        let values: Vec<_> =
            group.iter().map(|(name, _)| take(&mut weights, name)).collect::<Result<_>>()?;
        let (trits, scale) = ternarize_as_one(&values, config.quantizer.extra_eps());
        for ((name, shape), trits) in group.into_iter().zip(trits) {
            // At the quantizer's floor absmean is no measurement any more.
            if f64::from(scale) <= EPS {
                let rule = format!(
                    "has collapsed: its scale {scale:e} is at the quantizer's floor; nothing was exported"
                );
                return Err(Error::Projection { name, rule });
            }
            let ternary = TernaryTensor::from_trits(&trits, shape[1], scale);
            packed.insert(name, Tensor::Ternary(ternary));
        }
    }
    Ok(packed)
}

/// The values of a tensor, which must be there and finite.
fn take(weights: &mut BTreeMap<String, HostTensor>, name: &str) -> Result<Vec<f32>> {
    let error = |rule| Error::Projection { name: name.into(), rule };
    let (_, values) =
        weights.remove(name).ok_or_else(|| error("is missing from the model".into()))?;
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(place) => {
            Err(error(format!("entry {place} is {}; nothing was exported", values[place])))
        }
    }
}

/// A tensor that is not ternary, as a packed model stores it.
fn rounded(name: &str, shape: Vec<usize>, values: &[f32]) -> Result<FloatTensor> {
    // Gains are few and steer whole layers; the embedding is most of a small file.
    let dtype = if shape.len() == 1 { FloatType::F32 } else { FloatType::F16 };
    let beyond = |v: &f32| dtype == FloatType::F16 && v.abs() > MOST_F16;
    if let Some(place) = values.iter().position(beyond) {
        let rule = format!(
            "entry {place} is {:e}, beyond what a float matrix may be in a packed model ({MOST_F16}); nothing was exported",
            values[place]
        );
        return Err(Error::Projection { name: name.into(), rule });
    }
    Ok(FloatTensor::new(shape, dtype, values))
}
