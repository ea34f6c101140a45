//! What several tests need: golden tensors, and models small enough to train in a test.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot read its input must stop, and one that skips must say so"
)]

pub mod names;
pub mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::tensor::{Dtype, SafeTensors};

/// The device of a name, without autodiff.
///
/// None, with the reason printed, where the machine has no adapter for wgpu; with `TERN_CI` set that is a failure.
pub fn device(name: &str) -> Option<Device> {
    match tern_model::device::find(name) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("TERN_CI").is_none() && name.starts_with("wgpu") => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One tensor of a golden; whole numbers and floats alike.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major; exact for every type that the goldens use.
    pub values: Vec<f64>,
}

impl Golden {
    /// The values as f32, which they were written as.
    pub fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }
}

/// The directory of one golden.
pub fn golden_directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// Every tensor of one file of a golden.
pub fn golden(name: &str, file: &str) -> BTreeMap<String, Golden> {
    let path = golden_directory(name).join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a golden is a safetensors file");
    tensors
        .iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => decode(data, |b| f64::from(f32::from_le_bytes(b))),
                Dtype::F64 => decode(data, f64::from_le_bytes),
                Dtype::I64 => decode(data, |b| i64::from_le_bytes(b) as f64),
                Dtype::I32 => decode(data, |b| f64::from(i32::from_le_bytes(b))),
                Dtype::I8 => decode(data, |b| f64::from(i8::from_le_bytes(b))),
                Dtype::U8 => decode(data, |b| f64::from(u8::from_le_bytes(b))),
                other => panic!("no golden has {other:?}"),
            };
            (name.to_string(), Golden { shape: view.shape().to_vec(), values })
        })
        .collect()
}

fn decode<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.chunks_exact(N).map(|chunk| value(chunk.try_into().unwrap())).collect()
}

/// The largest difference, as a share of the largest expected magnitude.
pub fn relative_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(f64::MIN_POSITIVE);
    max_difference(found, expected) / largest
}

/// The largest absolute difference.
pub fn max_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    found.iter().zip(expected).fold(0.0, |m, (&f, &e)| {
        let difference = (f64::from(f) - e).abs();
        assert!(difference.is_finite(), "{f} against {e}");
        m.max(difference)
    })
}
