//! What a mistyped `--out` must not cost.

use std::io::Read;
use std::path::Path;

use anyhow::{Result, ensure};
use tern_format::regular_file::open_regular;

/// Refuses a file that is there, has content, and does not begin like `what` we would write.
pub(crate) fn refuse_to_replace(path: &Path, beginning: &[u8], what: &str) -> Result<()> {
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
