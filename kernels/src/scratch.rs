//! Memory between two steps of a product, kept for the next product of the thread: neither asked for nor cleared each time.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::pages::Line;

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Lines of anything.
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// Lines to be written before they are read: they may hold what others left.
    pub(crate) fn take(lines: usize) -> Self {
        let mut kept = KEPT.take();
        kept.resize(lines, Line([0; 64]));
        Self(kept)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        KEPT.set(std::mem::take(&mut self.0));
    }
}

impl Deref for Scratch {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [Line] {
        &mut self.0
    }
}
