//! What a directory is: told by the files that it holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tern_format::regular_file::read_small;
use tern_format::safetensors::Contents;
use tern_format::tokenizer::{MOST_BYTES, TokenizerSource};
use tern_infer::import::weight_files;
use tern_kernels::mapped_file::MappedFile;

use super::contents::{self, natural, tensors, with_tokenizer};
use super::{Report, Tensor};

/// Describes a directory.
pub(super) fn inspect(path: &Path) -> Result<Report> {
    let has = |name: &str| path.join(name).exists();
    if has("config.toml") {
        let model = path.join("model.safetensors");
        if model.exists() {
            return contents::inspect(&model);
        }
        bail!("{}: the directory of a run that is not exported yet", path.display());
    }
    if has("state.json") {
        return checkpoint(path);
    }
    if has("config.json") {
        return transformers(path);
    }
    bail!("{}: holds no config.json, config.toml or state.json", path.display())
}

/// The tensors of some files, and the bytes of these.
fn read(files: &[PathBuf]) -> Result<(Vec<Tensor>, u64)> {
    let (mut all, mut size_bytes) = (Vec::new(), 0);
    for path in files {
        let described = || -> Result<(Vec<Tensor>, u64)> {
            if path.extension().is_some_and(|extension| extension == "bin") {
                let report = contents::inspect(path)?;
                return Ok((report.tensors, report.size_bytes));
            }
            let map = MappedFile::open(path)?;
            Ok((tensors(&Contents::parse(&map)?), map.len() as u64))
        };
        let (tensors, bytes) = described().with_context(|| path.display().to_string())?;
        all.extend(tensors);
        size_bytes += bytes;
    }
    all.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    Ok((all, size_bytes))
}

/// A directory that transformers saved.
fn transformers(path: &Path) -> Result<Report> {
    let config = contents::inspect(&path.join("config.json"))?;
    let (tensors, size_bytes) = read(&weight_files(path)?)?;
    let kind = "directory of transformers";
    let report = Report { path: path.into(), kind, size_bytes, tensors, ..config };
    let tokenizer = ["tokenizer.json", "tokenizer.model"].map(|name| path.join(name));
    let Some(tokenizer) = tokenizer.iter().find(|file| file.exists()) else { return Ok(report) };
    let source = read_small(tokenizer, MOST_BYTES as u64).and_then(TokenizerSource::from_bytes);
    Ok(with_tokenizer(report, source.map_err(|error| error.in_file(tokenizer))))
}

/// A checkpoint of a run: its state, latent weights and moments.
fn checkpoint(path: &Path) -> Result<Report> {
    let state = path.join("state.json");
    let text = read_small(&state, 1 << 20)?;
    let metadata = serde_json::from_slice(&text).with_context(|| state.display().to_string())?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    let (tensors, size_bytes) = read(&files)?;
    Ok(Report { metadata, tensors, ..Report::new(path.into(), "checkpoint of a run", size_bytes) })
}
