//! Reading a packed model: first the header against the config that it carries, then the data.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::entries::{FILE_SHA256, SENTENCEPIECE};
use super::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor};
use crate::checksum::hex;
use crate::config::ModelConfig;
use crate::error::{Error, Result, quoted};
use crate::regular_file::open_regular;
use crate::safetensors::{Contents, Dtype, Header, Place, View};
use crate::tokenizer::TokenizerSource;

impl PackedModel {
    /// Reads a file. The data are read only if the header is that of a model: a file that claims twenty gigabytes
    /// for nothing costs no more than its header.
    ///
    /// # Errors
    ///
    /// [`Error::In`] with the path, around what the file system reports or what [`Self::parse`] refuses.
    pub fn read(path: &Path) -> Result<Self> {
        let (mut file, size_bytes) = open_regular(path)?;
        let read = || {
            let mut header = Header::read(&mut file, size_bytes)?;
            header.metadata.remove(FILE_SHA256);
            check(&mut header)?;
            file.rewind()?;
            let mut bytes = Vec::new();
            file.take(size_bytes).read_to_end(&mut bytes)?;
            Ok(Self::parse(bytes.into())?.0)
        };
        read().map_err(|error: Error| error.in_file(path))
    }

    /// Reads the bytes of a file, and checks every one of them.
    ///
    /// # Errors
    ///
    /// The first thing that breaks a rule, with the tensor or the key and the value found.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Ok(Self::parse(Bytes::copy_from_slice(bytes))?.0)
    }

    /// Reads the bytes of a file, and checks every one of them; nothing is copied, so a file that is mapped into memory
    /// stays there. With the `file_sha256` that the bytes were held to, if they carry one.
    ///
    /// # Errors
    ///
    /// As [`Self::from_bytes`].
    pub fn parse(bytes: Bytes) -> Result<(Self, Option<String>)> {
        let (mut header, data) = Header::split(&bytes)?;
        let checksum = header.metadata.remove(FILE_SHA256);
        let metadata = check(&mut header)?;
        let head = &bytes[..bytes.len() - data.len()];
        let contents = header.contents(data)?;
        // The checksum takes as long as all else.
        let (model, checked) = together(
            || load(metadata, contents, &bytes),
            || check_checksum(checksum.as_deref(), head, data),
        );
        let model = model?;
        checked?;
        Ok((model, checksum))
    }
}

/// Does both, at once where there are threads.
fn together<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    let (one, there) = std::thread::scope(|scope| {
        let there = std::thread::Builder::new().spawn_scoped(scope, &other);
        (one(), there.ok().and_then(|thread| thread.join().ok()))
    });
    (one, there.unwrap_or_else(other))
}

/// Holds the header with its length, and the data, to the `file_sha256` of the file, if it has one. What breaks a rule by
/// itself has been named before.
fn check_checksum(expected: Option<&str>, head: &[u8], data: &[u8]) -> Result<()> {
    let refuse = |rule: String| Err(Error::Metadata { key: FILE_SHA256.into(), rule });
    let Some(expected) = expected else { return Ok(()) };
    // Inside a text quotation marks have a backslash, so this is the key itself.
    let written = format!("\"{FILE_SHA256}\":\"{expected}\"");
    let place = head.windows(written.len()).position(|part| part == written.as_bytes());
    let (Some(place), 64) = (place, expected.len()) else {
        let rule = "must be 64 hexadecimal digits, written without white space around";
        return refuse(format!("{rule}, is {}", quoted(expected)));
    };
    let end = place + written.len() - 1;
    let mut hash = Sha256::new();
    hash.update(&head[..end - 64]);
    hash.update([b'0'; 64]);
    hash.update(&head[end..]);
    hash.update(data);
    let found = hex(&hash.finalize());
    if expected != found {
        let expected = quoted(expected);
        return refuse(format!(
            "must be {found} for this file, is {expected}: it was changed or damaged"
        ));
    }
    Ok(())
}

/// Checks all but the data, and takes the metadata out. The bytes of a SentencePiece model, which are data, are still
/// missing in it.
fn check(header: &mut Header) -> Result<Metadata> {
    let mut places: BTreeMap<&str, &Place> =
        header.tensors.iter().map(|(name, place)| (name.as_str(), place)).collect();
    let sentencepiece = places.remove(SENTENCEPIECE);
    if let Some(place) = sentencepiece {
        check_bytes(place).map_err(|error| error.in_tensor(SENTENCEPIECE))?;
    }
    let entries = std::mem::take(&mut header.metadata);
    let metadata = Metadata::from_entries(entries, sentencepiece.is_some())?;
    for (name, shape) in expected(&metadata.config, places.len())? {
        let checked = check_place(&mut places, &metadata, &name, &shape);
        checked.map_err(|error| error.in_tensor(&name))?;
    }
    match places.pop_first() {
        Some((name, _)) => Err(Error::Extra.in_tensor(name)),
        None => Ok(metadata),
    }
}

/// The config's tensors, unless their list would be longer than the file can answer for.
fn expected(config: &ModelConfig, present: usize) -> Result<Vec<(String, Vec<usize>)>> {
    let layers = config.num_hidden_layers;
    if layers > present {
        let rule =
            format!("num_hidden_layers is {layers}, but the file has only {present} tensors");
        return Err(Error::Metadata { key: "config".into(), rule });
    }
    Ok(config.tensors())
}

/// Takes the place of one tensor of the config, and of its scale where it is ternary, and checks type and shape.
fn check_place(
    places: &mut BTreeMap<&str, &Place>,
    Metadata { config, encoding, .. }: &Metadata,
    name: &str,
    shape: &[usize],
) -> Result<()> {
    let place = places.remove(name).ok_or(Error::Missing)?;
    if FloatType::from_dtype(place.dtype).is_some() {
        return check_shape(place, shape);
    }
    let found = place.dtype;
    let (true, &[d_output, d_input]) = (config.is_ternary_matrix(name), shape) else {
        return Err(Error::Dtype { expected: "F32, F16 or BF16", found });
    };
    if found != Dtype::U8 {
        return Err(Error::Dtype { expected: "U8, F32, F16 or BF16", found });
    }
    check_shape(place, &[d_output, encoding.row_bytes(d_input)?])?;
    let scale = scale(name);
    let checked = places.remove(scale.as_str()).ok_or(Error::Missing).and_then(check_scale);
    checked.map_err(|error| error.in_tensor(&scale))
}

fn check_scale(place: &Place) -> Result<()> {
    if place.dtype != Dtype::F32 {
        return Err(Error::Dtype { expected: "F32", found: place.dtype });
    }
    check_shape(place, &[1])
}

fn check_shape(place: &Place, expected: &[usize]) -> Result<()> {
    if place.shape == expected {
        return Ok(());
    }
    Err(Error::Shape { expected: expected.to_vec(), found: place.shape.clone() })
}

/// Checks that a tensor is a plain sequence of bytes.
fn check_bytes(place: &Place) -> Result<()> {
    if place.dtype != Dtype::U8 {
        return Err(Error::Dtype { expected: "U8", found: place.dtype });
    }
    check_shape(place, &[place.shape.iter().product()])
}

fn scale(name: &str) -> String {
    format!("{name}_scale")
}

/// Takes the tensors out of a file whose header [`check`] has passed.
fn load(mut metadata: Metadata, mut contents: Contents<'_>, file: &Bytes) -> Result<PackedModel> {
    if let Some(view) = contents.tensors.remove(SENTENCEPIECE) {
        metadata.tokenizer = TokenizerSource::SentencePiece(view.bytes.to_vec());
    }
    let mut tensors = BTreeMap::new();
    for (name, shape) in metadata.config.tensors() {
        let tensor = load_tensor(&mut contents.tensors, file, &metadata, &name, &shape);
        tensors.insert(name.clone(), tensor.map_err(|error| error.in_tensor(&name))?);
    }
    Ok(PackedModel { metadata, tensors })
}

/// Takes one tensor of the config, and its scale where it is ternary, and checks the values.
fn load_tensor(
    views: &mut BTreeMap<String, View<'_>>,
    file: &Bytes,
    metadata: &Metadata,
    name: &str,
    shape: &[usize],
) -> Result<Tensor> {
    let encoding = metadata.encoding;
    let view = views.remove(name).ok_or(Error::Missing)?;
    let bytes = file.slice_ref(view.bytes);
    let tensor = match (FloatType::from_dtype(view.dtype), shape) {
        (None, &[d_output, d_input]) => {
            let name = scale(name);
            let scales = views.remove(&name).ok_or(Error::Missing).and_then(|view| view.floats());
            // The header's check wants one.
            let scale = scales.map_err(|error| error.in_tensor(&name))?[0];
            Tensor::Ternary(TernaryTensor { encoding, d_output, d_input, bytes, scale })
        }
        (dtype, _) => {
            let dtype =
                dtype.ok_or(Error::Dtype { expected: "F32, F16 or BF16", found: view.dtype })?;
            Tensor::Float(FloatTensor { dtype, bytes, shape: view.shape })
        }
    };
    tensor.check(shape, metadata.config.is_ternary_matrix(name).then_some(encoding))?;
    Ok(tensor)
}
