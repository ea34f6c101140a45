//! Input files: opened only where reading them comes to an end.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a file to be read, and says its length in bytes.
///
/// A pipe would block for ever, a device may never end and a directory fails late and obscurely, so all are refused
/// before they are opened. Symbolic links are followed.
///
/// # Errors
///
/// [`Error::In`] with the path, around [`Error::NotAFile`] or what the system says.
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let open = || {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(Error::NotAFile);
        }
        Ok((File::open(path)?, metadata.len()))
    };
    open().map_err(|error: Error| error.in_file(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        let error = open_regular(path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        error
    }

    #[test]
    fn a_file_opens_with_its_length_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(open_regular(&path).unwrap().1, 4);
        assert!(refused(directory.path()).ends_with("must be a regular file"));
        assert!(refused(&directory.path().join("absent")).contains("No such file"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_pipes_are_refused_at_once() {
        assert!(refused(Path::new("/dev/zero")).ends_with("must be a regular file"));
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(refused(&pipe).ends_with("must be a regular file"));
    }
}
