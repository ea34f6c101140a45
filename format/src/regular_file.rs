//! Regular files alone: a device may have no end, and a named pipe waits for its other one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file to read, through links.
///
/// # Errors
///
/// What the system says, or [`io::ErrorKind::InvalidInput`] for anything that is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let check = |metadata: fs::Metadata| {
        let refused = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        if metadata.is_file() { Ok(()) } else { Err(refused()) }
    };
    // Asked by name first, because to open a pipe waits; then of what was opened, which may be another by now.
    check(fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

/// Reads a text of at most so many bytes.
///
/// # Errors
///
/// As [`open_regular`]; a longer file, or one that is no UTF-8.
pub fn read_text(path: &Path, most_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    let file = open_regular(path)?;
    let size_bytes = file.metadata()?.len();
    if size_bytes > most_bytes {
        let rule = format!("must have at most {most_bytes} bytes, has {size_bytes}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, rule));
    }
    file.take(most_bytes).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_and_anything_else_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(io::read_to_string(open_regular(&path).unwrap()).unwrap(), "text");
        let error = open_regular(directory.path()).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
        let missing = open_regular(&directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
            let error = open_regular(path).unwrap_err().to_string();
            assert_eq!(error, "not a regular file", "{}", path.display());
        }
    }

    #[test]
    fn a_text_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "text");
        let error = read_text(&path, 3).unwrap_err().to_string();
        assert_eq!(error, "must have at most 3 bytes, has 4");
        // A sparse file costs nothing to refuse.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read_text(&path, 1 << 20).is_err());
    }
}
