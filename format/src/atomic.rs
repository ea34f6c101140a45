//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::regular_file::refuse_pipe;

/// Enough that a large model takes few system calls.
const BUFFER_BYTES: usize = 1 << 20;

/// How the name of a temporary file begins.
const TEMPORARY: &str = ".tern-";

/// Writes a file so that a reader, or a crash, never sees half of it.
///
/// The bytes go to a temporary file in the same directory, which is flushed to the disk and then renamed. A
/// target that is a device or a stream of this process (`/dev/full`, `/dev/stdout`) has no half state, and is written
/// directly; any other pipe is refused.
///
/// # Errors
///
/// [`Error::In`] with the path, around what `write` or the file system reports. The target is then what it was,
/// and the temporary file is gone.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    refuse_pipe(path)?;
    write_or_leave(path, write).map_err(|error| Error::Io(error).in_file(path))
}

fn write_or_leave(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // Through a symbolic link the file behind it is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let existing = fs::metadata(&target).ok();
    if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if existing.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        let mut out =
            BufWriter::with_capacity(BUFFER_BYTES, OpenOptions::new().write(true).open(&target)?);
        write(&mut out)?;
        return out.flush();
    }
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // The default is private to the user, which a model meant to be shared is not; the umask still holds.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(directory).map_err(without_temporary_name)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary.as_file_mut());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    if let Some(metadata) = existing {
        temporary.as_file().set_permissions(metadata.permissions())?;
    }
    temporary.persist(&target).map_err(|error| error.error)?;
    sync_directory(directory);
    Ok(())
}

/// Removes the temporary files that killed writers left in a directory.
///
/// # Errors
///
/// What the system says of the directory or of one of the files.
pub fn remove_temporaries(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let left = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        if left && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What the system said, of an error of the crate `tempfile`, which hides it in a text that names a file that nobody
/// asked for.
pub fn without_temporary_name(error: io::Error) -> io::Error {
    let text = error.to_string();
    let code = text.split_once("(os error ").and_then(|(_, rest)| rest.split_once(')'));
    let code = code.and_then(|(code, _)| code.parse().ok());
    code.map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Makes a new name in a directory survive a power cut. The file is in place already, and some systems refuse to flush
/// a directory, so a failure here is none of the caller's.
pub fn sync_directory(directory: &Path) {
    if cfg!(unix) {
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_file_holds_what_was_written_and_stands_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model");
        write_atomically(&path, |out| out.write_all(b"trits")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"trits");
        assert_eq!(names(directory.path()), ["model"]);
    }

    #[test]
    fn a_writer_that_fails_half_way_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, |out| {
            out.write_all(&vec![0; 3 * BUFFER_BYTES])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["model"]);
    }

    #[test]
    fn a_directory_and_a_missing_parent_are_errors_that_name_the_path() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_path_buf(), directory.path().join("absent/model")] {
            let error = write_atomically(&path, |out| out.write_all(b"x")).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert!(!error.to_string().contains(".tern-"), "{error}");
        }
        let error =
            write_atomically(&directory.path().join("absent/model"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_and_stays_a_device() {
        let error =
            write_atomically(Path::new("/dev/full"), |out| out.write_all(b"x")).unwrap_err();
        assert!(error.to_string().starts_with("/dev/full: "), "{error}");
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_kept() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomically(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
