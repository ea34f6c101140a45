//! Memory between two steps of a product, kept for the next product of the thread: neither asked for nor cleared each time.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::pages::Line;

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Lines of anything.
pub(crate) struct Scratch {
    kept: Vec<Line>,
    lines: usize,
}

impl Scratch {
    /// Lines to be written before they are read: they may hold what others left.
    pub(crate) fn take(lines: usize) -> Self {
        let mut kept = KEPT.take();
        // Never cut short: what grows again would be cleared again.
        if kept.len() < lines {
            kept.resize(lines, Line([0; 64]));
        }
        Self { kept, lines }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Of two that were held at once the larger is kept.
        let other = KEPT.take();
        let own = std::mem::take(&mut self.kept);
        KEPT.set(if other.len() > own.len() { other } else { own });
    }
}

impl Deref for Scratch {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.kept[..self.lines]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [Line] {
        &mut self.kept[..self.lines]
    }
}
