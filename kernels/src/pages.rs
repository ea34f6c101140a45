//! Memory for weights: lines of a cache, on huge pages where the system has them.
//!
//! Weights are read from end to end for every token. A stream from huge pages needs a 512th of the address translations
//! and is 10 to 40 % faster, but the matrices of a model are smaller than a huge page, or not whole numbers of them. So
//! buffers are cut one after the other from large chunks, in the order in which a model is loaded and read.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// 64 bytes, aligned: a line of the cache, and the widest register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Lines of the first chunk; each has twice as many as the one before, so that a small model takes little.
const FIRST: usize = (64 << 10) / size_of::<Line>();

/// The most lines of a chunk, unless a buffer needs more.
const MOST: usize = (64 << 20) / size_of::<Line>();

/// Memory that buffers are cut from.
struct Chunk {
    start: NonNull<Line>,
    lines: usize,
    layout: Layout,
}

// SAFETY: a chunk is memory alone; who may read or write which of it, `Pages` says.
unsafe impl Send for Chunk {}
// SAFETY: as for `Send`.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(lines: usize) -> Self {
        let bytes = lines.checked_mul(size_of::<Line>()).expect("a size that memory can have");
        let aligned = if bytes < HUGE { align_of::<Line>() } else { HUGE };
        let layout = Layout::from_size_align(bytes, aligned).expect("a size that memory can have");
        // SAFETY: the size is not zero: no chunk has fewer lines than the first.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        if bytes >= HUGE {
            advise_huge(start, bytes / HUGE * HUGE);
        }
        Self { start: start.cast(), lines, layout }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) };
    }
}

/// Asks for huge pages before anything is written.
#[cfg(target_os = "linux")]
fn advise_huge(start: NonNull<u8>, bytes: usize) {
    use rustix::mm::{Advice, madvise};
    // SAFETY: whole pages that are ours; the advice changes no byte of them. A refusal costs speed only.
    let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: NonNull<u8>, _: usize) {}

/// A buffer of lines.
pub(crate) struct Pages {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

/// The chunk that the next buffers are cut from, and how many of its lines are taken.
static NEXT: Mutex<Option<(Weak<Chunk>, usize)>> = Mutex::new(None);

impl Pages {
    /// Lines of zeros.
    pub(crate) fn new(len: usize) -> Self {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let last = next.take().and_then(|(chunk, taken)| Some((chunk.upgrade()?, taken)));
        let (chunk, start) = match last {
            Some((chunk, taken)) if chunk.lines - taken >= len => (chunk, taken),
            Some((chunk, _)) => (Arc::new(Chunk::new(len.max(MOST.min(2 * chunk.lines)))), 0),
            None => (Arc::new(Chunk::new(len.max(FIRST))), 0),
        };
        *next = Some((Arc::downgrade(&chunk), start + len));
        drop(next);
        // SAFETY: lines of the chunk that nobody has; zeros make them lines.
        unsafe { chunk.start.add(start).as_ptr().write_bytes(0, len) };
        Self { chunk, start, len }
    }

    pub(crate) fn lines(&self) -> &[Line] {
        // SAFETY: these lines of the chunk are this buffer's alone, and it is borrowed.
        unsafe { std::slice::from_raw_parts(self.chunk.start.add(self.start).as_ptr(), self.len) }
    }

    pub(crate) fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `lines`, and it is borrowed exclusively.
        unsafe {
            std::slice::from_raw_parts_mut(self.chunk.start.add(self.start).as_ptr(), self.len)
        }
    }
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len);
        copy.lines_mut().copy_from_slice(self.lines());
        copy
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeros_and_apart_and_outlive_each_other() {
        let mut buffers: Vec<Pages> = [0, 1, 1000, MOST, 7].map(Pages::new).into();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.lines().iter().all(|line| line.0 == [0; 64]));
            buffer.lines_mut().fill(Line([i as u8 + 1; 64]));
        }
        let copy = buffers[2].clone();
        buffers.remove(1);
        for (buffer, i) in buffers.iter().zip([0, 2, 3, 4]) {
            assert!(buffer.lines().iter().all(|line| line.0 == [i + 1; 64]));
        }
        drop(buffers);
        assert!(copy.lines().len() == 1000 && copy.lines().iter().all(|line| line.0 == [3; 64]));
        assert!(Pages::new(50).lines().iter().all(|line| line.0 == [0; 64]));
    }
}
