//! Reading a packed model.

use std::collections::BTreeMap;
use std::path::Path;

use super::entries::SENTENCEPIECE;
use super::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor, may_be_ternary};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::safetensors::{Contents, Dtype, View, read_file};
use crate::t2;

impl PackedModel {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::In`] with the path, around what the file system reports or what [`Self::from_bytes`] refuses.
    pub fn read(path: &Path) -> Result<Self> {
        read_file(path)
            .and_then(|bytes| Self::from_bytes(&bytes))
            .map_err(|error| error.in_file(path))
    }

    /// Reads the bytes of a file, and checks every one of them.
    ///
    /// # Errors
    ///
    /// The first thing that breaks a rule, with the tensor or the key and the value found.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut contents = Contents::parse(bytes)?;
        let sentencepiece = contents.tensors.remove(SENTENCEPIECE);
        if let Some(view) = &sentencepiece {
            check_bytes(view).map_err(|error| error.in_tensor(SENTENCEPIECE))?;
        }
        let metadata =
            Metadata::from_entries(contents.metadata, sentencepiece.map(|view| view.bytes))?;
        let mut views = contents.tensors;
        let mut tensors = BTreeMap::new();
        for (name, shape) in expected(&metadata.config, views.len())? {
            let tensor = take(&mut views, &metadata.config, &name, &shape);
            tensors.insert(name.clone(), tensor.map_err(|error| error.in_tensor(&name))?);
        }
        if let Some((name, _)) = views.pop_first() {
            return Err(Error::Extra.in_tensor(&name));
        }
        Ok(Self { metadata, tensors })
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

/// Reads one tensor of the config, and its scale where it is ternary.
fn take(
    views: &mut BTreeMap<String, View<'_>>,
    config: &ModelConfig,
    name: &str,
    shape: &[usize],
) -> Result<Tensor> {
    let view = views.remove(name).ok_or(Error::Missing)?;
    let tensor = if let Some(dtype) = FloatType::from_dtype(view.dtype) {
        check_shape(&view, shape)?;
        Tensor::Float(FloatTensor { dtype, values: view.floats()?, shape: view.shape })
    } else {
        let (true, &[d_output, d_input]) = (may_be_ternary(config, name), shape) else {
            return Err(Error::Dtype { expected: "F32, F16 or BF16", found: view.dtype });
        };
        if view.dtype != Dtype::U8 {
            return Err(Error::Dtype { expected: "U8, F32, F16 or BF16", found: view.dtype });
        }
        check_shape(&view, &[d_output, t2::row_bytes(d_input)])?;
        let scale = format!("{name}_scale");
        let scales = take_scales(views, &scale).map_err(|error| error.in_tensor(&scale))?;
        Tensor::Ternary(TernaryTensor { d_output, d_input, bytes: view.bytes.to_vec(), scales })
    };
    tensor.check(shape, may_be_ternary(config, name))?;
    Ok(tensor)
}

fn take_scales(views: &mut BTreeMap<String, View<'_>>, name: &str) -> Result<Vec<f32>> {
    let view = views.remove(name).ok_or(Error::Missing)?;
    if view.dtype != Dtype::F32 {
        return Err(Error::Dtype { expected: "F32", found: view.dtype });
    }
    check_shape(&view, &[1])?;
    view.floats()
}

fn check_shape(view: &View<'_>, expected: &[usize]) -> Result<()> {
    if view.shape == expected {
        return Ok(());
    }
    Err(Error::Shape { expected: expected.to_vec(), found: view.shape.clone() })
}

fn check_bytes(view: &View<'_>) -> Result<()> {
    if view.dtype != Dtype::U8 {
        return Err(Error::Dtype { expected: "U8", found: view.dtype });
    }
    check_shape(view, &[view.bytes.len()])
}
