//! SHA-256 in hexadecimal, as records and reports show it.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::regular_file::open_regular;

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file and its length in bytes, read in pieces.
///
/// # Errors
///
/// As [`open_regular`]; and what the system says, with the path.
pub fn sha256_file(path: &Path) -> Result<(String, u64)> {
    sha256_file_with(path, &mut |_| ())
}

/// As [`sha256_file`]; `on_bytes` is told the length of each piece.
///
/// # Errors
///
/// As [`sha256_file`].
pub fn sha256_file_with(path: &Path, on_bytes: &mut dyn FnMut(u64)) -> Result<(String, u64)> {
    const PIECE: usize = 1 << 20;
    let (mut file, _) = open_regular(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let read =
            file.read(&mut piece).map_err(|error| crate::Error::from(error).in_file(path))?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), bytes));
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
        on_bytes(read as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_checksum_of_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
        assert_eq!(sha256_file(&path).unwrap(), (expected.into(), 3));
        let error = sha256_file(&directory.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }
}
