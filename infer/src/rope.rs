//! Rotary positions.

use std::ops::Range;

use tern_kernels::rope::{angles, frequencies, rotate};

/// RoPE (arXiv:2104.09864), half-split.
///
/// Only the frequencies are kept: a table for the whole context would be as large as the config says, whatever
/// the size of the file, and the angles of one token cost less than a thousandth of it.
#[derive(Debug)]
pub struct Rope {
    frequencies: Vec<f64>,
}

/// Cosines and sines for a run of positions, `[seq, head_dim / 2]` each.
#[derive(Debug)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rope {
    /// `theta^(-2i / head_dim)` for each pair `i` of a head, which a position multiplies (arXiv:2104.09864).
    pub fn new(head_dim: usize, theta: f64) -> Self {
        Self { frequencies: frequencies(head_dim, theta) }
    }

    /// The frequencies that another program rounds.
    #[cfg(test)]
    pub(crate) fn frequencies_mut(&mut self) -> &mut [f64] {
        &mut self.frequencies
    }

    /// The angles of some positions, for all blocks.
    pub fn angles(&self, positions: Range<usize>) -> Angles {
        let (cos, sin) = angles(&self.frequencies, positions);
        Angles { cos, sin, half: self.frequencies.len() }
    }
}

impl Angles {
    /// Rotates the first heads of every token.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, width]`, of which `heads * head_dim` are rotated
    pub fn rotate(&self, x: &mut [f32], width: usize, heads: usize) {
        let rows = self.cos.chunks_exact(self.half).zip(self.sin.chunks_exact(self.half));
        for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(rows) {
            rotate(&mut x[..heads * 2 * self.half], cos, sin);
        }
    }
}
