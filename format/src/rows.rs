//! What the encodings of trits have in common: a matrix is packed row by row, each row into whole bytes.

use crate::error::{Error, Result};

/// Checks that trits are the rows of a matrix.
///
/// # Panics
///
/// If `d_input` is 0 or does not divide the number of trits.
pub(crate) fn check_trits(trits: &[i8], d_input: usize) {
    assert!(
        d_input > 0 && trits.len().is_multiple_of(d_input),
        "{} trits make no rows of {d_input}",
        trits.len()
    );
}

/// Checks the number of bytes of a matrix.
///
/// # Errors
///
/// [`Error::Count`].
pub(crate) fn check_bytes(bytes: &[u8], d_output: usize, row_bytes: usize) -> Result<()> {
    let (expected, found) = (d_output as u64 * row_bytes as u64, bytes.len() as u64);
    match expected == found {
        true => Ok(()),
        false => Err(Error::Count { unit: "bytes", expected, found }),
    }
}

/// The packed rows of a matrix, in order.
pub(crate) fn packed(bytes: &[u8], row_bytes: usize) -> std::slice::ChunksExact<'_, u8> {
    bytes.chunks_exact(row_bytes.max(1))
}

/// The trits of a matrix that has been checked: of each row the first `d_input` that `trits` gives for it.
pub(crate) fn unpack<'a, I: Iterator<Item = i8>>(
    bytes: &'a [u8],
    [d_output, d_input]: [usize; 2],
    row_bytes: usize,
    trits: impl Fn(&'a [u8]) -> I,
) -> Vec<i8> {
    // Bounded: the product has been compared with the bytes that there are.
    let mut all = Vec::with_capacity(d_output * d_input);
    for row in packed(bytes, row_bytes) {
        all.extend(trits(row).take(d_input));
    }
    all
}
