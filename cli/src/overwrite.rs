//! What a mistyped `--out` must not cost.

use std::io::Read;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use tern_format::packed::PackedModel;
use tern_format::regular_file::{open_regular, refuse_pipe};

/// Refuses a file that is there, has content, and does not begin like the kind that would be written.
pub(crate) fn only_what_begins_with(path: &Path, beginning: &[u8], what: &str) -> Result<()> {
    refuse_pipe(path)?;
    let mut start = Vec::new();
    if let Ok((file, _)) = open_regular(path) {
        file.take(beginning.len() as u64).read_to_end(&mut start)?;
    }
    ensure!(
        start.is_empty() || start.eq_ignore_ascii_case(beginning),
        "{}: is no {what} and is not overwritten: choose another --out",
        path.display()
    );
    Ok(())
}

/// Refuses a file that is there, has content, and is no packed model.
pub(crate) fn only_a_packed_model(path: &Path) -> Result<()> {
    refuse_pipe(path)?;
    let full =
        std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
    if full && let Err(error) = PackedModel::read(path) {
        bail!("{error}; so it is no packed model and is not overwritten: choose another --out");
    }
    Ok(())
}
