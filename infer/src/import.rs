//! Models of other programs as packed models.

mod gguf;
mod slice;
mod state_dict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tern_format::config::{HEAD, Quantizer};
use tern_format::gguf::Gguf;
use tern_format::huggingface::{self, Config, Source, Weights};
use tern_format::packed::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor};
use tern_format::pytorch;
use tern_format::regular_file::{read_small, read_small_text};
use tern_format::safetensors::{Contents, Dtype};
use tern_format::tokenizer::{MOST_BYTES, Tokenizer, TokenizerSource};
use tern_kernels::mapped_file::MappedFile;
use tern_kernels::ternarize::ternarize;

use crate::error::{Error, Result};
use crate::verify::matrix::{one_magnitude, projected};

pub use gguf::gguf;
use slice::Slice;
pub use state_dict::state_dict;

/// The largest JSON file that is read of a directory, in bytes; an index of shards has a line for each tensor.
const MOST_JSON_BYTES: u64 = 1 << 26;

/// What becomes of matrices of many magnitudes that a model ternarizes whenever it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latent {
    /// They are ternarized, once.
    #[default]
    Ternarize,
    /// They are kept: what the verifier wants to see. Such a model cannot be run.
    Keep,
}

/// What a file does not say itself, and what is wanted of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The tokenizer of a state dict, or of a directory that has none.
    pub tokenizer: Option<PathBuf>,
    /// Settings of a state dict's architecture, by the keys of [`tern_format::config::ModelConfig`].
    pub settings: Map<String, Value>,
    /// What becomes of latent weights.
    pub latent: Latent,
    /// The type that float matrices are rounded to; none leaves them as they are, exactly.
    pub floats: Option<FloatType>,
}

/// A model of another program as a packed model.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The model.
    pub model: PackedModel,
    /// What is not as one might expect it: a line each.
    pub notes: Vec<String>,
    /// Names of the matrices that the file has in blocks of fewer bits, and that F32 alone holds exactly.
    pub widened: Vec<String>,
}

impl Imported {
    fn new(model: PackedModel) -> Self {
        Self { model, notes: Vec::new(), widened: Vec::new() }
    }

    /// Bytes of the matrices that were widened, as far as they are F32 still.
    pub fn widened_bytes(&self) -> u64 {
        let tensors = self.widened.iter().filter_map(|name| self.model.tensors.get(name));
        let is_wide =
            |tensor: &&Tensor| matches!(tensor, Tensor::Float(it) if it.dtype == FloatType::F32);
        tensors.filter(is_wide).map(Tensor::size_bytes).sum()
    }
}

/// Reads a model of another program: a directory that `transformers` saved, a GGUF file, or a PyTorch state dict of a model
/// that a preset comes from; or one of ours.
///
/// Matrices that are declared ternary and are so to the bit, but stored as floats, become trits, unless latent weights are
/// to be kept.
///
/// # Errors
///
/// The file, and the key or tensor in it that breaks a rule; an option that the kind of file has no use for.
pub fn open(path: &Path, options: &Options) -> Result<Imported> {
    let mut imported = read(path, options)?;
    if options.latent == Latent::Ternarize {
        let packed = pack_projected(&mut imported.model);
        if packed > 0 {
            let note =
                format!("{packed} matrices of floats are ternary to the bit: packed as trits");
            imported.notes.push(note);
        }
    }
    if let Some(float_type) = options.floats {
        round(&mut imported.model, float_type);
    }
    Ok(imported)
}

fn read(path: &Path, options: &Options) -> Result<Imported> {
    let refuse = |rule: &str| Err(in_file(path)(tern_format::Error::Rule { rule: rule.into() }));
    let map = if path.is_dir() { None } else { Some(map(path)?) };
    if let Some(map) = map.as_ref().filter(|map| pytorch::recognize(map)) {
        let Some(tokenizer) = &options.tokenizer else {
            return refuse("a state dict carries no tokenizer: name the file of one");
        };
        let tokenizer = read_tokenizer(tokenizer)?;
        let read = || {
            let tensors = pytorch::parse(map)?;
            state_dict(&tensors, tokenizer, &options.settings, options.latent)
        };
        return Ok(Imported::new(read().map_err(in_file(path))?));
    }
    if !options.settings.is_empty() {
        return refuse("carries a configuration of its own; only a PyTorch file needs settings");
    }
    if options.tokenizer.is_some() && map.is_some() {
        return refuse("carries a tokenizer of its own; PyTorch files and directories need others");
    }
    match map {
        None => huggingface(path, options),
        Some(map) if Gguf::recognize(&map) => gguf(&map).map_err(in_file(path)),
        Some(_) => Ok(Imported::new(PackedModel::read(path)?)),
    }
}

/// Packs the declared matrices of floats that are `-s`, `0` or `s` for one positive `s`, to the bit; returns how many.
fn pack_projected(model: &mut PackedModel) -> usize {
    let PackedModel { metadata, tensors } = model;
    let mut packed = 0;
    for (name, tensor) in tensors {
        let Tensor::Float(float) = tensor else { continue };
        if !metadata.config.is_ternary_matrix(name) {
            continue;
        }
        if let Some((trits, scale)) = projected(&float.values())
            && scale > 0.0
            && let Ok(ternary) = TernaryTensor::from_trits(&trits, float.shape[1], scale)
                .encode_as(metadata.encoding)
        {
            *tensor = Tensor::Ternary(ternary);
            packed += 1;
        }
    }
    packed
}

/// Whether all values that are not zero have one magnitude, and there are some.
fn has_one_magnitude(tensor: &Tensor) -> bool {
    let Tensor::Float(float) = tensor else { return false };
    one_magnitude(&float.values()).is_some_and(|magnitude| magnitude > 0.0)
}

/// Stores the float matrices in another type.
fn round(model: &mut PackedModel, float_type: FloatType) {
    for tensor in model.tensors.values_mut() {
        if let Tensor::Float(float) = tensor
            && float.shape.len() == 2
            && float.dtype != float_type
        {
            *float = FloatTensor::new(float.shape.clone(), float_type, &float.values());
        }
    }
}

/// Reads a directory that `transformers` saved: `config.json`, the weights (`model.safetensors`, its shards, or
/// `pytorch_model.bin`), the tokenizer (`tokenizer.json` or `tokenizer.model`), and the chat template.
///
/// Trits stay the trits that they are, whatever way they are packed. Latent weights of a model that ternarizes when it runs
/// are ternarized here, once, unless they are to be kept. A model of floats is ternary (has a quantizer) if all layers of its
/// blocks hold floats of one magnitude and zeros.
///
/// # Errors
///
/// The file, and the key or tensor in it that breaks a rule.
pub fn huggingface(directory: &Path, options: &Options) -> Result<Imported> {
    let path = directory.join("config.json");
    let mut config =
        Config::parse(&read_small_text(&path, MOST_JSON_BYTES)?).map_err(in_file(&path))?;
    let (path, store) = Store::open(directory)?;
    let tokenizer = tokenizer(directory, options.tokenizer.as_deref())?;
    let contents = store.contents()?;
    let tensors = tensors(&config, &contents, options.latent).map_err(in_file(&path))?;
    let model = &mut config.model;
    let mut layers = tensors.iter().filter(|(name, _)| model.is_block_linear(name));
    if config.weights == Weights::Float && layers.all(|(_, tensor)| has_one_magnitude(tensor)) {
        model.quantizer = Quantizer::B158;
    }
    let mut tokenizer_config = tokenizer_config(directory)?;
    let (chat_template, notes) = chat_template(directory, &mut tokenizer_config)?;
    let mut metadata = Metadata {
        bos: config.bos,
        eos: config.eos,
        chat_template,
        ..Metadata::new(config.model, tokenizer)
    };
    metadata.add_bos = match (tokenizer_config.get("add_bos_token"), &metadata.tokenizer) {
        (Some(Value::Bool(says)), _) => *says,
        (_, TokenizerSource::Json(_)) => begins_with_bos(&metadata).map_err(in_file(directory))?,
        (_, TokenizerSource::SentencePiece(_)) => true,
    };
    let model = PackedModel { metadata, tensors };
    model.validate().map_err(in_file(directory))?;
    Ok(Imported { notes, ..Imported::new(model) })
}

/// Files that hold tensors.
enum Store {
    Safetensors(Vec<(PathBuf, MappedFile)>),
    PyTorch(BTreeMap<String, pytorch::Tensor>),
}

/// The part of an index of shards that says which there are.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a directory that hold its weights: `model.safetensors`, the shards that an index names, or
/// `pytorch_model.bin`.
///
/// # Errors
///
/// A directory without any, an index that cannot be read, or one that leads out of the directory.
pub fn weight_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let [whole, index, pickled] =
        ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
            .map(|name| directory.join(name));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    if index.exists() {
        let text = read_small_text(&index, MOST_JSON_BYTES)?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|source| tern_format::Error::Json { source })
            .map_err(in_file(&index))?;
        let names: std::collections::BTreeSet<_> = parsed.weight_map.into_values().collect();
        let shard = |name: String| {
            // A name may not lead out of the directory.
            if Path::new(&name).file_name().is_none_or(|file| file != name.as_str()) {
                let rule = "a shard must be a file beside the index".to_owned();
                return Err(in_file(&index)(tern_format::Error::Rule { rule }));
            }
            Ok(directory.join(name))
        };
        return names.into_iter().map(shard).collect();
    }
    if pickled.exists() {
        return Ok(vec![pickled]);
    }
    let rule = "holds no model.safetensors, model.safetensors.index.json or pytorch_model.bin";
    Err(in_file(directory)(tern_format::Error::Rule { rule: rule.into() }))
}

impl Store {
    /// The weights of a directory, and the path that errors name: that of the file, where there is one.
    fn open(directory: &Path) -> Result<(PathBuf, Self)> {
        let files = weight_files(directory)?;
        if let [file] = &files[..]
            && file.extension().is_some_and(|extension| extension == "bin")
        {
            let map = map(file)?;
            let tensors = pytorch::parse(&map).map_err(in_file(file))?;
            return Ok((file.clone(), Self::PyTorch(tensors)));
        }
        let named = if let [file] = &files[..] { file } else { directory };
        let named = named.to_owned();
        let open = |file: PathBuf| {
            let map = map(&file)?;
            Ok((file, map))
        };
        Ok((named, Self::Safetensors(files.into_iter().map(open).collect::<Result<_>>()?)))
    }

    /// All tensors by name.
    fn contents(&self) -> Result<BTreeMap<String, Raw<'_>>> {
        let mut all = BTreeMap::new();
        match self {
            Self::Safetensors(files) => {
                for (path, map) in files {
                    let contents = Contents::parse(map).map_err(in_file(path))?;
                    for (name, view) in contents.tensors {
                        let raw = Raw::Safetensors(view);
                        if all.insert(name.clone(), raw).is_some() {
                            let twice = tern_format::Error::Duplicate;
                            return Err(in_file(path)(twice.in_tensor(&name)));
                        }
                    }
                }
            }
            Self::PyTorch(tensors) => {
                all.extend(
                    tensors.iter().map(|(name, tensor)| (name.clone(), Raw::PyTorch(tensor))),
                );
            }
        }
        Ok(all)
    }
}

/// A tensor of another program.
enum Raw<'a> {
    Safetensors(tern_format::safetensors::View<'a>),
    PyTorch(&'a pytorch::Tensor),
}

impl Raw<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Safetensors(view) => &view.shape,
            Self::PyTorch(tensor) => &tensor.shape,
        }
    }

    fn floats(&self) -> tern_format::Result<(Vec<f32>, FloatType)> {
        let (values, float_type) = match self {
            Self::Safetensors(view) => (
                view.floats()?,
                match view.dtype {
                    Dtype::F16 => FloatType::F16,
                    Dtype::BF16 => FloatType::BF16,
                    _ => FloatType::F32,
                },
            ),
            Self::PyTorch(tensor) => (
                tensor.floats()?,
                match tensor.element_type {
                    pytorch::ElementType::F16 => FloatType::F16,
                    pytorch::ElementType::BF16 => FloatType::BF16,
                    _ => FloatType::F32,
                },
            ),
        };
        Ok((values, float_type))
    }

    /// The bytes of a packed matrix.
    fn bytes(&self) -> tern_format::Result<&[u8]> {
        match self {
            Self::Safetensors(view) if view.dtype == Dtype::U8 => Ok(view.bytes),
            Self::Safetensors(view) => {
                Err(tern_format::Error::Dtype { expected: "U8", found: view.dtype })
            }
            Self::PyTorch(tensor) if tensor.element_type == pytorch::ElementType::U8 => {
                Ok(&tensor.bytes)
            }
            Self::PyTorch(tensor) => {
                let rule = format!("must hold U8, holds {:?}", tensor.element_type);
                Err(tern_format::Error::Rule { rule })
            }
        }
    }
}

/// What models put before the names of their tensors.
const PREFIXES: [&str; 3] = ["", "model.", "transformer."];

/// Tensors that say nothing: tables of positions and masks that older versions saved.
const BUFFERS: [&str; 4] =
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids"];

/// The tensors of the model, and no others.
fn tensors(
    config: &Config,
    contents: &BTreeMap<String, Raw<'_>>,
    latent: Latent,
) -> tern_format::Result<BTreeMap<String, Tensor>> {
    let mut used = std::collections::BTreeSet::new();
    let mut find = |name: &str| {
        let names = PREFIXES.iter().map(|prefix| format!("{prefix}{name}"));
        let (name, raw) = names
            .filter_map(|name| contents.get_key_value(&name))
            .next()
            .ok_or_else(|| tern_format::Error::Missing.in_tensor(name))?;
        used.insert(name.as_str());
        Ok::<_, tern_format::Error>((name.as_str(), raw))
    };
    let mut tensors = BTreeMap::new();
    for (name, shape) in config.model.tensors() {
        let source = huggingface::source(&name, config.model.architecture);
        let (file_name, raw) = find(&source.name)?;
        let tensor = match config.weights {
            Weights::Packed { divides } if config.model.is_ternary_matrix(&name) => {
                let (scale_name, scale) = find(&format!("{}_scale", source.name))?;
                packed(raw, scale, divides, &shape).map_err(|error| match error {
                    error @ tern_format::Error::NotFinite { .. } => error.in_tensor(scale_name),
                    error => error.in_tensor(file_name),
                })?
            }
            weights => {
                let float =
                    float(raw, &source, &shape).map_err(|error| error.in_tensor(file_name))?;
                let ternarizes = weights == Weights::Latent && latent == Latent::Ternarize;
                if ternarizes && config.model.is_ternary_matrix(&name) {
                    let (trits, scale) =
                        ternarize(&float.values(), config.model.quantizer.extra_eps());
                    Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], scale))
                } else {
                    Tensor::Float(float)
                }
            }
        };
        tensors.insert(name, tensor);
    }
    let tied = |name: &str| config.model.tie_word_embeddings && name.ends_with(HEAD);
    let ignored = |name: &str| tied(name) || BUFFERS.iter().any(|buffer| name.ends_with(buffer));
    match contents.keys().find(|name| !used.contains(name.as_str()) && !ignored(name)) {
        Some(name) => Err(tern_format::Error::Extra.in_tensor(name)),
        None => Ok(tensors),
    }
}

/// Trits as they lie in the file, and their scale.
fn packed(
    raw: &Raw<'_>,
    scale: &Raw<'_>,
    divides: bool,
    shape: &[usize],
) -> tern_format::Result<Tensor> {
    let (d_output, d_input) = (shape[0], shape[1]);
    let expected = [d_output / 4, d_input];
    if raw.shape() != expected {
        let found = raw.shape().to_vec();
        return Err(tern_format::Error::Shape { expected: expected.to_vec(), found });
    }
    let trits = huggingface::unpack(raw.bytes()?, d_output, d_input)?;
    let (scales, _) = scale.floats()?;
    let &[stored] = scales.as_slice() else {
        let found = scales.len() as u64;
        return Err(tern_format::Error::Count { unit: "scales", expected: 1, found });
    };
    let scale = if divides { stored.recip() } else { stored };
    if !scale.is_finite() {
        return Err(tern_format::Error::NotFinite { index: 0, dtype: "scale", value: scale });
    }
    Ok(Tensor::Ternary(TernaryTensor::from_trits(&trits, d_input, scale)))
}

/// A float tensor in the order that this program has.
fn float(raw: &Raw<'_>, source: &Source, shape: &[usize]) -> tern_format::Result<FloatTensor> {
    let parts = if source.third.is_some() { 3 } else { 1 };
    let slice = Slice { part: source.third.unwrap_or(0), parts, transposed: source.transposed };
    slice.check(shape, raw.shape())?;
    let (values, float_type) = raw.floats()?;
    Ok(FloatTensor::new(shape.to_vec(), float_type, &slice.cut(shape, &values)))
}

/// The tokenizer of a directory, or the file that is given for one without.
fn tokenizer(directory: &Path, given: Option<&Path>) -> Result<TokenizerSource> {
    let names = ["tokenizer.json", "tokenizer.model"].map(|name| directory.join(name));
    let found = names.iter().find(|path| path.exists());
    let refuse =
        |rule: &str| Err(in_file(directory)(tern_format::Error::Rule { rule: rule.into() }));
    match (found.map(PathBuf::as_path), given) {
        (Some(_), Some(_)) => refuse("carries a tokenizer of its own and needs no other"),
        (None, None) => {
            refuse("holds no tokenizer.json or tokenizer.model: name the file of a tokenizer")
        }
        (Some(path), None) | (None, Some(path)) => read_tokenizer(path),
    }
}

fn read_tokenizer(path: &Path) -> Result<TokenizerSource> {
    TokenizerSource::from_bytes(read_small(path, MOST_BYTES as u64)?).map_err(in_file(path))
}

/// Whether the tokenizer puts BOS before a text; true where the model has none, as nothing is put there either.
fn begins_with_bos(metadata: &Metadata) -> tern_format::Result<bool> {
    let Some(bos) = metadata.bos else { return Ok(true) };
    Tokenizer::from_source(&metadata.tokenizer)?.begins_with(bos)
}

/// One of several templates.
#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// What `tokenizer_config.json` says; nothing where there is none.
fn tokenizer_config(directory: &Path) -> Result<Map<String, Value>> {
    let path = directory.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let json = |source| in_file(&path)(tern_format::Error::Json { source });
    serde_json::from_str(&read_small_text(&path, MOST_JSON_BYTES)?).map_err(json)
}

/// The template of conversations, and what to say of it: a file of its own or, where there is none, a key of
/// `tokenizer_config.json`. Of several, the one that `transformers` takes: it has the name `default`.
fn chat_template(
    directory: &Path,
    tokenizer_config: &mut Map<String, Value>,
) -> Result<(Option<String>, Vec<String>)> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        return Ok((Some(read_small_text(&path, MOST_JSON_BYTES)?), Vec::new()));
    }
    match tokenizer_config.remove("chat_template") {
        Some(Value::String(template)) => Ok((Some(template), Vec::new())),
        Some(list @ Value::Array(_)) => {
            let path = directory.join("tokenizer_config.json");
            let json = |source| in_file(&path)(tern_format::Error::Json { source });
            let all: Vec<Named> = serde_json::from_value(list).map_err(json)?;
            let count = all.len();
            let default = all.into_iter().find(|it| it.name == "default").map(|it| it.template);
            let taken = if default.is_some() { "`default` is taken" } else { "none is `default`" };
            let note = format!("tokenizer_config.json has {count} chat templates: {taken}");
            Ok((default, vec![note]))
        }
        _ => Ok((None, Vec::new())),
    }
}

fn map(path: &Path) -> Result<MappedFile> {
    MappedFile::open(path).map_err(|error| in_file(path)(error.into()))
}

fn in_file(path: &Path) -> impl Fn(tern_format::Error) -> Error + '_ {
    |error| error.in_file(path).into()
}

#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod tests;
