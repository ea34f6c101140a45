//! The whole decoder: ids to logits.

use std::collections::BTreeMap;
use std::path::Path;

use tern_format::config::{
    self, ActivationQuantizer, EMBEDDING, HEAD, LinearShape, ModelConfig, POSITIONS, Position,
};
use tern_format::packed::{FloatTensor, Metadata, PackedModel, Tensor};
use tern_format::safetensors::Dtype;
use tern_format::tokenizer::Tokenizer;
use tern_kernels::ternary::Kernel;

use crate::attention::Attention;
use crate::block::Block;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::linear::{Engine, Linear};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::packed_file::PackedFile;
use crate::rope::Rope;
use crate::rows::Rows;

/// Tokens that pass through all blocks together: enough for every tile and thread, few enough that what
/// lies between the layers stays in the cache.
const CHUNK: usize = 128;

/// A model that is ready to run.
#[derive(Debug)]
pub struct Model {
    metadata: Metadata,
    engine: Engine,
    /// `[vocab_size, hidden]`.
    embed_tokens: Rows,
    /// `[max_position_embeddings, hidden]`, where positions are learned.
    embed_positions: Option<Vec<f32>>,
    layers: Vec<Block>,
    norm: Norm,
    lm_head: Head,
    /// Where queries and keys are rotated.
    pub(crate) rope: Option<Rope>,
}

impl Model {
    /// Reads a packed file, with the kernel that this CPU or `TERN_KERNEL` chooses.
    ///
    /// # Errors
    ///
    /// What the file breaks a rule with, or a kernel that is not to be had.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Engine::detect()?)
    }

    /// Reads a packed file, to be computed so.
    ///
    /// # Errors
    ///
    /// What the file breaks a rule with.
    pub fn open_with(path: &Path, engine: Engine) -> Result<Self> {
        let file = PackedFile::open(path)?;
        Self::build(file.model, engine, &|| file.map.release())
    }

    /// Reads a packed file whose ternary layers take floats, and quantizes their inputs to eight bits as int8 models do: the
    /// products are several times as fast, and the loss is another. `None` if the model has no such layers.
    ///
    /// # Errors
    ///
    /// What the file breaks a rule with.
    pub fn open_with_int8_activations(path: &Path, engine: Engine) -> Result<Option<Self>> {
        let mut file = PackedFile::open(path)?;
        let config = &mut file.model.metadata.config;
        if !config.is_ternary() || config.activation_quantizer != ActivationQuantizer::None {
            return Ok(None);
        }
        config.activation_quantizer = ActivationQuantizer::Int8;
        Self::build(file.model, engine, &|| file.map.release()).map(Some)
    }

    /// Takes over a packed model, with the kernel that this CPU or `TERN_KERNEL` chooses.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn load(packed: PackedModel) -> Result<Self> {
        Self::with_engine(packed, Engine::detect()?)
    }

    /// Takes over a packed model. Trits and floats stay as the file has them: nothing is ternarized again.
    ///
    /// # Errors
    ///
    /// The first entry or tensor that breaks a rule.
    pub fn with_engine(packed: PackedModel, engine: Engine) -> Result<Self> {
        packed.validate()?;
        Self::build(packed, engine, &|| {})
    }

    /// Takes over a model that breaks no rule; `release` is called when its tensors, as far as they were read by then, are
    /// not wanted for a while.
    fn build(packed: PackedModel, engine: Engine, release: &dyn Fn()) -> Result<Self> {
        release();
        let PackedModel { metadata, tensors } = packed;
        let config = &metadata.config;
        let mut tensors = Tensors { config, engine: &engine, tensors };
        let embed_tokens = Rows::new(tensors.float(EMBEDDING)?, config.hidden_size);
        let learned = config.position == Position::Learned;
        let embed_positions = learned.then(|| tensors.floats(POSITIONS)).transpose()?;
        let lm_head = match config.has_head() {
            false => Head::float(embed_tokens.clone(), &engine),
            true => match tensors.take(HEAD)? {
                Tensor::Float(rows) => Head::float(Rows::new(rows, config.hidden_size), &engine),
                ternary => Head::ternary(ternary, config, &engine),
            },
        };
        release();
        let layers = (0..config.num_hidden_layers).map(|layer| tensors.block(layer));
        let layers = layers.collect::<Result<_>>()?;
        let norm = tensors.norm("model.norm", config.final_norm)?;
        release();
        let rope = (!learned).then(|| Rope::new(config.head_dim, config.rope_theta));
        Ok(Self { engine, embed_tokens, embed_positions, layers, norm, lm_head, rope, metadata })
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.metadata.config
    }

    /// What computes.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes of weights that decoding reads for one token.
    pub fn bytes_per_token(&self) -> u64 {
        let layers = self.layers.iter().map(Block::size_bytes).sum::<usize>();
        (layers + self.lm_head.size_bytes()) as u64
    }

    /// The kernel that computes the products.
    pub fn kernel(&self) -> Kernel {
        self.engine.kernel
    }

    /// The tokenizer that the file carries.
    ///
    /// # Errors
    ///
    /// Bytes that are no tokenizer, or one with ids that the model lacks.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(self.metadata.read_tokenizer()?)
    }

    /// An empty cache for one sequence.
    pub fn cache(&self) -> Cache {
        Cache::new(self.config())
    }

    /// Adds tokens to the cache and returns the logits after each: all of them at once, so mind the
    /// size of the vocabulary.
    ///
    /// # Shapes
    ///
    /// - `ids`: `[seq]`; returns `[seq, vocab_size]`
    ///
    /// # Errors
    ///
    /// An id outside the vocabulary, or more tokens than the context has room for; the cache is then as it was.
    ///
    /// # Panics
    ///
    /// If the cache was made for a model of another shape.
    pub fn logits_all(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        self.check(ids, cache)?;
        let mut logits = Vec::with_capacity(ids.len() * self.config().vocab_size);
        for ids in ids.chunks(CHUNK) {
            logits.extend(self.lm_head.logits(&self.engine, &self.forward(ids, cache)));
        }
        Ok(logits)
    }

    /// Adds tokens to the cache and returns the logits after the last; none for no tokens.
    ///
    /// # Shapes
    ///
    /// - `ids`: `[seq]`; returns `[vocab_size]`
    ///
    /// # Errors
    ///
    /// As [`Self::logits_all`].
    ///
    /// # Panics
    ///
    /// As [`Self::logits_all`].
    pub fn logits_last(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        Ok(self.lm_head.logits(&self.engine, &self.last(ids, cache)?))
    }

    /// Adds tokens to the cache and returns the `count` largest logits after the last, and perhaps others, by id; all of
    /// them where `count` is none.
    ///
    /// # Errors
    ///
    /// As [`Self::logits_all`].
    ///
    /// # Panics
    ///
    /// As [`Self::logits_all`].
    pub fn candidates(
        &self,
        ids: &[u32],
        cache: &mut Cache,
        count: Option<usize>,
    ) -> Result<Vec<(u32, f32)>> {
        Ok(self.lm_head.candidates(&self.engine, &self.last(ids, cache)?, count))
    }

    /// The normalized residual stream after the last of some tokens, `[hidden]`; none for no tokens.
    fn last(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        self.check(ids, cache)?;
        let hidden = self.config().hidden_size;
        let mut last = Vec::new();
        for ids in ids.chunks(CHUNK) {
            last = self.forward(ids, cache).split_off((ids.len() - 1) * hidden);
        }
        Ok(last)
    }

    /// `[seq]` ids to the normalized residual stream `[seq, hidden]`.
    fn forward(&self, ids: &[u32], cache: &mut Cache) -> Vec<f32> {
        let hidden = self.config().hidden_size;
        let seen = cache.len();
        let mut x = vec![0.0; ids.len() * hidden]; // [seq, hidden]
        for (&id, x) in ids.iter().zip(x.chunks_exact_mut(hidden)) {
            self.embed_tokens.read(id as usize..id as usize + 1, x);
        }
        if let Some(positions) = &self.embed_positions {
            let here = &positions[seen * hidden..(seen + ids.len()) * hidden];
            x.iter_mut().zip(here).for_each(|(x, position)| *x += position);
        }
        let angles = self.rope.as_ref().map(|rope| rope.angles(seen..seen + ids.len()));
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            layer.forward(&self.engine, &mut x, hidden, angles.as_ref(), seen, cache);
        }
        cache.advance(ids.len());
        self.norm.forward(&x)
    }

    /// Refuses ids that the vocabulary does not have.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.config().vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(position) => Err(Error::TokenId { position, id: ids[position], vocab_size }),
            None => Ok(()),
        }
    }

    fn check(&self, ids: &[u32], cache: &Cache) -> Result<()> {
        let config = self.config();
        assert!(cache.fits(config), "the cache was made for a model of another shape");
        self.check_ids(ids)?;
        let (tokens, most) = (cache.len() + ids.len(), config.max_position_embeddings);
        if tokens > most { Err(Error::Context { tokens, most }) } else { Ok(()) }
    }
}

/// The tensors of a model that [`PackedModel::validate`] has passed, to be taken out part by part.
struct Tensors<'a> {
    config: &'a ModelConfig,
    engine: &'a Engine,
    tensors: BTreeMap<String, Tensor>,
}

impl Tensors<'_> {
    fn take(&mut self, name: &str) -> Result<Tensor> {
        let missing = tern_format::Error::Missing;
        self.tensors.remove(name).ok_or_else(|| about(name, missing))
    }

    /// A tensor that must be float: `validate` lets nothing but linear layers be ternary.
    fn float(&mut self, name: &str) -> Result<FloatTensor> {
        match self.take(name)? {
            Tensor::Float(float) => Ok(float),
            Tensor::Ternary(_) => {
                let expected = "F32, F16 or BF16";
                Err(about(name, tern_format::Error::Dtype { expected, found: Dtype::U8 }))
            }
        }
    }

    fn floats(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.float(name)?.values())
    }

    fn norm(&mut self, name: &str, kind: config::Norm) -> Result<Norm> {
        let gain = self.floats(&format!("{name}.weight"))?;
        Ok(match kind {
            config::Norm::Rms => Norm::rms(gain, self.config.rms_norm_eps),
            config::Norm::Layer => {
                let bias = self.floats(&format!("{name}.bias"))?;
                Norm::layer(gain, bias, self.config.layer_norm_eps)
            }
        })
    }

    /// An RMSNorm that not every model has.
    fn extra_norm(&mut self, there: bool, name: &str) -> Result<Option<Norm>> {
        there.then(|| self.norm(name, config::Norm::Rms)).transpose()
    }

    /// Layers of one input as one.
    fn linear(&mut self, block: &str, parts: &[LinearShape]) -> Result<Linear> {
        let mut tensors = Vec::new();
        let mut bias = Vec::new();
        let mut d_input = 0;
        for part in parts {
            let name = format!("{block}.{}", part.name);
            tensors.push((self.take(&format!("{name}.weight"))?, part.d_output));
            if part.bias {
                bias.extend(self.floats(&format!("{name}.bias"))?);
            }
            d_input = part.d_input;
        }
        let bias = (!bias.is_empty()).then_some(bias);
        let quantizer = self.config.activation_quantizer;
        Ok(Linear::new(self.engine, quantizer, tensors, d_input, bias))
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let config = self.config;
        let name = format!("model.layers.{layer}");
        let part = |part: &str| format!("{name}.{part}");
        let [q, k, v, o] = config.attention_linears();
        let qk_norm = match config.qk_norm {
            false => None,
            true => {
                let of_queries = self.norm(&part("self_attn.q_norm"), config::Norm::Rms)?;
                Some([of_queries, self.norm(&part("self_attn.k_norm"), config::Norm::Rms)?])
            }
        };
        let self_attn = Attention::new(
            self.linear(&name, &[q, k, v])?,
            qk_norm,
            self.extra_norm(config.sub_norm, &part("self_attn.attn_sub_norm"))?,
            self.linear(&name, &[o])?,
            config,
        );
        let (gate, [up, down]) = config.mlp_linears();
        let gate_up: Vec<LinearShape> = gate.into_iter().chain([up]).collect();
        let mlp = Mlp::new(
            self.linear(&name, &gate_up)?,
            self.extra_norm(config.sub_norm, &part("mlp.ffn_sub_norm"))?,
            self.linear(&name, &[down])?,
            config,
        );
        Ok(Block {
            input_layernorm: self.norm(&part("input_layernorm"), config.norm)?,
            self_attn,
            post_attention_layernorm: self.norm(&part("post_attention_layernorm"), config.norm)?,
            mlp,
        })
    }
}

fn about(name: &str, source: tern_format::Error) -> Error {
    tern_format::Error::Tensor { name: name.into(), source: Box::new(source) }.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;
    use tern_format::config::{ActivationQuantizer, Architecture};

    use tern_format::packed::{Encoding, FloatType, TernaryTensor};
    use tern_format::s24::PATTERNS;
    use tern_kernels::pool::Pool;

    use super::*;
    use crate::reference::{self, config, packed};

    fn kernels() -> Vec<Kernel> {
        Kernel::available()
    }

    fn ids(seq: usize) -> Vec<u32> {
        (0..seq as u32).map(|i| i * i * 31 % 258).collect()
    }

    /// The largest difference, as a share of the largest logit.
    fn difference(ours: &[f32], reference: &[Vec<f64>]) -> f64 {
        let most = reference.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
        let pairs = ours.iter().zip(reference.iter().flatten());
        pairs.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / most
    }

    #[test]
    fn logits_are_those_of_the_formulas() {
        for architecture in [Architecture::Bitlm, Architecture::Llama] {
            for tie_word_embeddings in [true, false] {
                let config = ModelConfig { tie_word_embeddings, ..config(architecture) };
                let packed = packed(&config, 7);
                let expected = reference::logits(&packed, &ids(150));
                for kernel in kernels() {
                    let model = Model::with_engine(packed.clone(), kernel.into()).unwrap();
                    let logits = model.logits_all(&ids(150), &mut model.cache()).unwrap();
                    let error = difference(&logits, &expected);
                    assert!(error < 1e-5, "{architecture:?} {}: {error:e}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn int8_logits_are_those_of_the_formulas() {
        // A code may flip at a rounding boundary, in f32 as in f64: 3e-2 in such rows, else 1e-5.
        let mut config = config(Architecture::Bitlm);
        config.activation_quantizer = ActivationQuantizer::Int8;
        let packed = packed(&config, 8);
        let expected = reference::logits(&packed, &ids(40));
        for kernel in kernels() {
            let model = Model::with_engine(packed.clone(), kernel.into()).unwrap();
            let logits = model.logits_all(&ids(40), &mut model.cache()).unwrap();
            let rows = logits.chunks_exact(config.vocab_size).zip(&expected);
            let errors: Vec<f64> = rows
                .map(|(row, expected)| difference(row, std::slice::from_ref(expected)))
                .collect();
            let flipped = errors.iter().filter(|&&error| error > 1e-5).count();
            eprintln!("{}: {flipped} of 40 rows have a flipped code", kernel.name());
            assert!(errors.iter().all(|&error| error < 3e-2), "{errors:?}");
            assert!(flipped < 20, "{errors:?}");
        }
    }

    #[test]
    fn a_projected_float_model_computes_what_the_packed_one_does() {
        for quantizer in [ActivationQuantizer::None, ActivationQuantizer::Int8] {
            let mut config = config(Architecture::Bitlm);
            config.activation_quantizer = quantizer;
            let packed = packed(&config, 9);
            let mut projected = packed.clone();
            for tensor in projected.tensors.values_mut() {
                if let Tensor::Ternary(ternary) = tensor {
                    let value = |&trit: &i8| f32::from(trit) * ternary.scale;
                    let values: Vec<f32> = ternary.trits().unwrap().iter().map(value).collect();
                    let shape = vec![ternary.d_output, ternary.d_input];
                    *tensor = Tensor::Float(FloatTensor::new(shape, FloatType::F32, &values));
                }
            }
            let run = |packed| {
                let model = Model::load(packed).unwrap();
                model.logits_last(&ids(9), &mut model.cache()).unwrap()
            };
            let (ours, theirs) = (run(packed), run(projected));
            let most = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() < 3e-2 * most);
            }
        }
    }

    #[test]
    fn the_encoding_of_the_trits_changes_no_bit() {
        for quantizer in [ActivationQuantizer::None, ActivationQuantizer::Int8] {
            let mut config = config(Architecture::Bitlm);
            (config.hidden_size, config.intermediate_size) = (40, 132);
            config.activation_quantizer = quantizer;
            let mut packed = packed(&config, 12);
            for tensor in packed.tensors.values_mut() {
                if let Tensor::Ternary(ternary) = tensor {
                    // Groups of which none is all zeros.
                    let group = |g: usize| PATTERNS[1 + (g * g * 7 + g / 5) % 32];
                    let count = ternary.d_output * ternary.d_input / 4;
                    let trits: Vec<i8> = (0..count).flat_map(group).collect();
                    *ternary = TernaryTensor::from_trits(&trits, ternary.d_input, ternary.scale);
                }
            }
            for kernel in kernels() {
                let run = |encoding| {
                    let packed = packed.clone().encode_as(encoding).unwrap();
                    let model = Model::with_engine(packed, kernel.into()).unwrap();
                    let mut cache = model.cache();
                    let mut all = model.logits_all(&ids(40), &mut cache).unwrap();
                    all.extend(model.logits_last(&ids(1), &mut cache).unwrap());
                    (all, model.layers.len())
                };
                let expected = run(Encoding::T2);
                for encoding in Encoding::ALL {
                    assert!(run(encoding) == expected, "{} {encoding:?}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn cached_decoding_is_the_full_forward_to_the_bit() {
        for quantizer in [ActivationQuantizer::None, ActivationQuantizer::Int8] {
            let mut config = config(Architecture::Bitlm);
            config.activation_quantizer = quantizer;
            for kernel in kernels() {
                let model = Model::with_engine(packed(&config, 3), kernel.into()).unwrap();
                let ids = ids(200);
                let all = model.logits_all(&ids, &mut model.cache()).unwrap();
                for cuts in [vec![1; 200], vec![5, 128, 1, 66], vec![200]] {
                    let (mut cache, mut start) = (model.cache(), 0);
                    for cut in cuts {
                        let last = model.logits_last(&ids[start..start + cut], &mut cache).unwrap();
                        start += cut;
                        assert_eq!(last, all[(start - 1) * 258..][..258]);
                    }
                    cache.truncate(100);
                    let again = model.logits_last(&ids[100..=100], &mut cache).unwrap();
                    assert_eq!(again, all[100 * 258..][..258]);
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        // Wide enough that the products are shared out.
        let config = ModelConfig {
            hidden_size: 1200,
            intermediate_size: 1800,
            num_hidden_layers: 1,
            ..config(Architecture::Bitlm)
        };
        let run = |threads| {
            let pool = Arc::new(Pool::new(threads));
            let engine = Engine { pool, ..Engine::detect().unwrap() };
            let model = Model::with_engine(packed(&config, 4), engine).unwrap();
            let mut cache = model.cache();
            let mut logits = model.logits_all(&ids(150), &mut cache).unwrap();
            logits.extend(model.logits_last(&[1], &mut cache).unwrap());
            logits
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn bad_tokens_are_refused_and_leave_the_cache_alone() {
        let model = Model::load(packed(&config(Architecture::Bitlm), 1)).unwrap();
        let mut cache = model.cache();
        model.logits_last(&[1, 2, 3], &mut cache).unwrap();
        let error = model.logits_last(&[1, 258], &mut cache).unwrap_err();
        assert!(matches!(error, Error::TokenId { position: 1, id: 258, vocab_size: 258 }));
        let error = model.logits_all(&[0; 298], &mut cache).unwrap_err();
        assert!(matches!(error, Error::Context { tokens: 301, most: 300 }));
        assert_eq!(cache.len(), 3);
        assert!(model.logits_all(&[], &mut cache).unwrap().is_empty());
        assert!(model.logits_last(&[], &mut cache).unwrap().is_empty());
        assert_eq!(model.logits_all(&[0; 297], &mut cache).unwrap().len(), 297 * 258);
    }

    #[test]
    fn a_model_that_breaks_its_config_is_refused() {
        let mut broken = packed(&config(Architecture::Bitlm), 1);
        broken.tensors.remove("model.norm.weight");
        assert!(Model::load(broken).unwrap_err().to_string().contains("model.norm.weight"));
        let mut broken = packed(&config(Architecture::Bitlm), 1);
        broken.metadata.config.hidden_size += 1;
        assert!(Model::load(broken).is_err());
    }
}
