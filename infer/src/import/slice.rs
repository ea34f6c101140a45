//! A layer inside a tensor of another program, which may be the transpose, and hold others beside it.

use tern_format::{Error, Result};

/// Where in a tensor a layer stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Which of several layers it is, one after the other along the outputs.
    pub(super) part: usize,
    /// How many these are.
    pub(super) parts: usize,
    /// Whether the tensor has the inputs first. A vector has no transpose.
    pub(super) transposed: bool,
}

impl Slice {
    fn is_transposed(self, shape: &[usize]) -> bool {
        self.transposed && shape.len() == 2
    }

    /// Checks the shape of the tensor against that of the layer.
    ///
    /// # Shapes
    ///
    /// - `shape`: of the layer, `[d_output, d_input]` or `[d_output]`
    /// - `found`: of the tensor, `[parts * d_output, d_input]`, its transpose, or `[parts * d_output]`
    pub(super) fn check(self, shape: &[usize], found: &[usize]) -> Result<()> {
        let mut expected = shape.to_vec();
        expected[0] *= self.parts;
        if self.is_transposed(shape) {
            expected.reverse();
        }
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape { expected, found: found.to_vec() })
    }

    /// The values of the layer, row-major, out of those of a tensor that [`Self::check`] has passed.
    pub(super) fn cut(self, shape: &[usize], values: &[f32]) -> Vec<f32> {
        let first = self.part * shape[0];
        if self.is_transposed(shape) {
            let (d_output, d_input) = (shape[0], shape[1]);
            let width = self.parts * d_output;
            let value = |i: usize| values[i % d_input * width + first + i / d_input];
            return (0..d_output * d_input).map(value).collect();
        }
        let width: usize = shape.iter().skip(1).product();
        values[first * width..][..shape[0] * width].to_vec()
    }
}
