//! A file that one process at a time holds.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};
use crate::regular_file::open_regular;

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, making the file if need be; none if another process has it.
    ///
    /// # Errors
    ///
    /// As [`open_regular`] for a file that is there, and what the system says, with the path.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        if path.exists() {
            open_regular(path)?;
        }
        let take = || {
            let file = File::options().write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(Self { _file: file })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        take().map_err(|error| Error::from(error).in_file(path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::take(&path).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&path).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&path).unwrap().is_some());
        let error = Lock::take(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("must be a regular file"), "{error}");
    }
}
