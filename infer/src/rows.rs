//! The rows of a float matrix, in the type that the file stores.

use std::borrow::Cow;
use std::ops::Range;

use tern_format::packed::{FloatTensor, FloatType};
use tern_kernels::pool::PARALLEL;

use crate::linear::Engine;

/// Values of narrow rows that are widened at a time: they stay in the first cache.
const WIDENED: usize = 1 << 13;

/// Tokens that one task takes: a multiple of the four that a kernel's tile takes.
const TOKENS: usize = 16;

/// Outputs that one task takes.
const OUTPUTS: usize = 64;

/// A float matrix, `[count, width]`, perhaps in the file itself. Half the bytes of a narrow type are read where its values
/// are wanted, and widened there; the sums are those of `f32`.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    tensor: FloatTensor,
    width: usize,
}

impl Rows {
    /// # Shapes
    ///
    /// - `tensor`: `[count, width]`
    pub(crate) fn new(tensor: FloatTensor, width: usize) -> Self {
        Self { tensor, width }
    }

    pub(crate) fn count(&self) -> usize {
        self.tensor.count() / self.width
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.tensor.bytes.len()
    }

    /// Writes the values of some rows.
    ///
    /// # Shapes
    ///
    /// - `values`: `[rows, width]`
    pub(crate) fn read(&self, rows: Range<usize>, values: &mut [f32]) {
        self.tensor.dtype.decode(self.bytes(rows), values);
    }

    /// The values of some rows: where they lie, if that is possible.
    fn values(&self, rows: Range<usize>) -> Cow<'_, [f32]> {
        let bytes = self.bytes(rows.clone());
        if cfg!(target_endian = "little")
            && self.tensor.dtype == FloatType::F32
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return Cow::Borrowed(values);
        }
        let mut values = vec![0.0; rows.len() * self.width];
        self.read(rows, &mut values);
        Cow::Owned(values)
    }

    fn bytes(&self, rows: Range<usize>) -> &[u8] {
        let row = self.width * self.tensor.dtype.bytes();
        &self.tensor.bytes[rows.start * row..rows.end * row]
    }

    /// Rows whose values are used while they are at hand.
    fn block(&self) -> usize {
        match self.tensor.dtype {
            FloatType::F32 => self.count().max(1),
            FloatType::F16 | FloatType::BF16 => (WIDENED / self.width).clamp(1, OUTPUTS),
        }
    }

    /// The products with some tokens, over threads where there are many. A kernel's sums depend on nothing beside them, so
    /// neither the cut into tasks nor the number of threads changes a bit.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, width]`; returns `[seq, count]`
    pub(crate) fn dense(&self, engine: &Engine, x: &[f32]) -> Vec<f32> {
        let (seq, count) = (x.len() / self.width, self.count());
        let mut y = vec![0.0; seq * count];
        if seq * count * self.width < PARALLEL {
            self.products(engine, 0..count, x, &mut y);
        } else if seq > 1 {
            engine.pool.write_chunks(&mut y, TOKENS * count, |task, y| {
                let x = &x[task * TOKENS * self.width..][..y.len() / count * self.width];
                self.products(engine, 0..count, x, y);
            });
        } else {
            engine.pool.write_chunks(&mut y, OUTPUTS, |task, y| {
                let start = task * OUTPUTS;
                self.products(engine, start..start + y.len(), x, y);
            });
        }
        y
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, width]`; `y`: `[seq, rows]`
    fn products(&self, engine: &Engine, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
        let (seq, count) = (x.len() / self.width, rows.len());
        let mut part = Vec::new();
        for start in rows.clone().step_by(self.block()) {
            let block = start..rows.end.min(start + self.block());
            let w = self.values(block.clone());
            if block.len() == count {
                return engine.kernel.dense(&w, count, self.width, x, y);
            }
            part.resize(seq * block.len(), 0.0);
            engine.kernel.dense(&w, block.len(), self.width, x, &mut part);
            for (y, part) in y.chunks_exact_mut(count).zip(part.chunks_exact(block.len())) {
                y[start - rows.start..][..block.len()].copy_from_slice(part);
            }
        }
    }

    /// The products of a token with some rows, each as [`Self::dense`] has it.
    ///
    /// # Shapes
    ///
    /// - `rows`, `y`: as many; `x`: `[width]`
    pub(crate) fn some(&self, engine: &Engine, rows: &[usize], x: &[f32], y: &mut [f32]) {
        for (&r, y) in rows.iter().zip(y) {
            self.products(engine, r..r + 1, x, std::slice::from_mut(y));
        }
    }
}
