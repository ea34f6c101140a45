//! Input files: opened only where reading them comes to an end.

use std::fs::{self, File};
use std::io::Read;
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

/// Refuses a pipe of the file system as a file to be written: opening one waits until somebody reads it. The streams
/// of this process, under `/dev` and `/proc`, are open already.
///
/// # Errors
///
/// [`Error::In`] with the path, around [`Error::NotAFile`].
#[cfg_attr(not(unix), allow(unused_variables, reason = "only unix has them among its files"))]
pub fn refuse_pipe(path: &Path) -> Result<()> {
    #[cfg(unix)]
    if !["/dev", "/proc"].iter().any(|streams| path.starts_with(streams)) {
        use std::os::unix::fs::FileTypeExt;
        let metadata = fs::metadata(path);
        if metadata.is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(Error::NotAFile.in_file(path));
        }
    }
    Ok(())
}

/// Reads a file whose kind is small.
///
/// # Errors
///
/// As [`open_regular`]; [`Error::TooLarge`] before anything is read.
pub fn read_small(path: &Path, most_bytes: u64) -> Result<Vec<u8>> {
    let (file, size_bytes) = open_regular(path)?;
    let read = || {
        if size_bytes > most_bytes {
            return Err(Error::TooLarge { most: most_bytes, found: size_bytes });
        }
        let mut bytes = Vec::new();
        // A file that grows meanwhile is cut where it ended.
        file.take(size_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: Error| error.in_file(path))
}

/// [`read_small`] of a text.
///
/// # Errors
///
/// As [`read_small`]; bytes that are no UTF-8, with the line of the first.
pub fn read_small_text(path: &Path, most_bytes: u64) -> Result<String> {
    String::from_utf8(read_small(path, most_bytes)?).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + text.iter().filter(|&&byte| byte == b'\n').count();
        Error::NotText { line }.in_file(path)
    })
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
        let error = refuse_pipe(&pipe).unwrap_err().to_string();
        assert!(error.ends_with("pipe: must be a regular file"), "{error}");
        refuse_pipe(Path::new("/dev/stdout")).unwrap();
    }

    #[test]
    fn a_small_file_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(read_small_text(&path, 4).unwrap(), "text");
        let error = read_small(&path, 3).unwrap_err().to_string();
        assert!(error.ends_with("file: must have at most 3 bytes, has 4"), "{error}");
        fs::write(&path, b"te\nx\xfft").unwrap();
        let error = read_small_text(&path, 9).unwrap_err().to_string();
        assert!(error.ends_with("file: line 2 must be UTF-8"), "{error}");
        // A sparse file costs nothing to refuse.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read_small(&path, 1 << 20).is_err());
    }
}
