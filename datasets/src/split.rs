//! On which side of the split a document stands: a matter of its text alone.
//!
//! The embedded stories keep a hash of their own ([`crate::stories::split_of`]): another would move stories across, and
//! with them every result measured on that corpus.

use sha2::{Digest, Sha256};

/// Whether a document validates, for a share of `valid_fraction` of all documents.
///
/// The first 64 bits of SHA-256 of the text, read as a fraction of 2^64, are compared with the
/// share. So neither the order nor the company of documents matters: a rerun on more files moves no
/// document across, equal texts stand on the same side, and a larger share contains a smaller one.
pub fn is_validation(text: &str, valid_fraction: f64) -> bool {
    fraction(text) < valid_fraction
}

/// A number in [0, 1] that depends on the text alone.
pub(crate) fn fraction(text: &str) -> f64 {
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first) as f64 / 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_nested() {
        let texts: Vec<String> = (0..20_000).map(|i| format!("story number {i}")).collect();
        let count = |share| texts.iter().filter(|text| is_validation(text, share)).count();
        assert!((150..250).contains(&count(0.01)), "{}", count(0.01));
        assert!((9_700..10_300).contains(&count(0.5)), "{}", count(0.5));
        assert!(texts.iter().all(|text| !is_validation(text, 0.01) || is_validation(text, 0.02)));
    }

    #[test]
    fn the_side_is_the_same_on_every_machine() {
        // SHA-256 of "abc" begins ba7816bf.
        assert!((fraction("abc") - f64::from(0xba78_16bf_u32) / 2f64.powi(32)).abs() < 1e-9);
    }
}
