//! A file as a slice of bytes, read by the system page by page.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A read-only memory map of a whole file.
///
/// Whoever changes the file while it is mapped changes the bytes seen here, and whoever truncates it
/// ends the process at the next read beyond its new end. Files that this program writes are replaced
/// by renaming, never changed in place, so a map of one stays what it was.
///
/// A system without memory maps, as WebAssembly's, reads the file instead.
#[derive(Debug)]
pub struct MappedFile(Option<Map>);

#[cfg(not(target_family = "wasm"))]
type Map = memmap2::Mmap;
#[cfg(target_family = "wasm")]
type Map = Vec<u8>;

impl MappedFile {
    /// Maps a file; an empty one gives an empty slice.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Asked first: to open a named pipe waits for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "must be a regular file"));
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        // Some systems refuse to map nothing.
        if metadata.len() == 0 {
            return Ok(Self(None));
        }
        Ok(Self(Some(map(file)?)))
    }

    /// Lets go of the memory of what was read so far; what is read again comes from the file again.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // SAFETY: the map is read-only, so its pages hold what the file does. A refusal costs memory only.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

#[cfg(not(target_family = "wasm"))]
fn map(file: File) -> io::Result<Map> {
    // SAFETY: the map is read-only and private to this value; the type's documentation says what a
    // change of the file by others does. Every reader checks the bytes it finds.
    unsafe { Map::map(&file) }
}

#[cfg(target_family = "wasm")]
fn map(mut file: File) -> io::Result<Map> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_the_file() {
        let path = std::env::temp_dir().join(format!("tern-mapped-{}", std::process::id()));
        std::fs::write(&path, b"trits").unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), b"trits");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), b"");
        std::fs::remove_file(&path).unwrap();
        assert!(MappedFile::open(&path).is_err());
        assert!(MappedFile::open(&std::env::temp_dir()).is_err());
    }
}
