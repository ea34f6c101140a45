//! The checksum that the hub states for a file, and files under in its cache.

use std::io::Write;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tern_format::checksum::hex;
use tern_format::regular_file::open_regular;

use crate::error::{Error, Result};

/// A checksum in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of a large file.
    Sha256(String),
    /// SHA-1 that git gives a small file: of `blob`, its length, a zero and its bytes.
    GitBlob(String),
}

impl Checksum {
    /// Reads the tag of a file, of which proxies may make a weak one.
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let digits = tag.trim_start_matches("W/").trim_matches('"');
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match digits.len() {
            64 if is_hex => Some(Self::Sha256(digits.to_owned())),
            40 if is_hex => Some(Self::GitBlob(digits.to_owned())),
            _ => None,
        }
    }

    /// The rule that a file breaks which does not have this checksum, with the one found.
    pub(super) fn fault(&self, path: &Path) -> Result<Option<String>> {
        let (mut file, length) = open_regular(path)?;
        let mut digest =
            |hash: &mut dyn Write| std::io::copy(&mut file, hash).map_err(Error::io(path));
        let (kind, expected, found) = match self {
            Self::Sha256(expected) => {
                let mut hash = Sha256::new();
                digest(&mut hash)?;
                ("SHA-256", expected, hex(&hash.finalize()))
            }
            Self::GitBlob(expected) => {
                let mut hash = Sha1::new_with_prefix(format!("blob {length}\0"));
                digest(&mut hash)?;
                ("git blob hash", expected, hex(&hash.finalize()))
            }
        };
        Ok((&found != expected).then(|| format!("its {kind} must be {expected}, is {found}")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_told_apart_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        // `printf abc | git hash-object --stdin`
        let blob = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        for tag in [sha256, blob] {
            let checksum = Checksum::parse(&format!("W/\"{tag}\"")).unwrap();
            assert_eq!(checksum.fault(&path).unwrap(), None);
        }
        std::fs::write(&path, "abd").unwrap();
        let fault = Checksum::parse(blob).unwrap().fault(&path).unwrap().unwrap();
        assert!(fault.starts_with(&format!("its git blob hash must be {blob}, is ")), "{fault}");
        for tag in ["", "../../a", &sha256[1..], &blob.to_uppercase()] {
            assert_eq!(Checksum::parse(tag), None);
        }
    }
}
