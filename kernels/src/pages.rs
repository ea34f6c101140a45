//! Memory for weights: lines of a cache, on huge pages where the system has them.
//!
//! Weights are read from end to end for every token. A stream from huge pages needs a 512th of the address translations
//! and is 10 to 40 % faster, but the matrices of a model are smaller than a huge page, or not whole numbers of them. So
//! buffers are cut one after the other from large chunks, in the order in which a model is loaded and read.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// 64 bytes, aligned: a line of the cache, and the widest register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Lines of a chunk, unless a buffer needs more.
const CHUNK: usize = (64 << 20) / size_of::<Line>();

/// Lines from which on a buffer has a chunk of its own: it loses less than a huge page.
const LARGE: usize = CHUNK / 2;

/// Memory that buffers are cut from, zeros at first.
struct Chunk {
    start: NonNull<Line>,
    layout: Layout,
}

// SAFETY: a chunk is memory alone; who may read or write which of it, `Pages` says.
unsafe impl Send for Chunk {}
// SAFETY: as for `Send`.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(lines: usize) -> Self {
        let layout = Layout::array::<Line>(lines).and_then(|layout| layout.align_to(HUGE));
        let layout = layout.expect("a size that memory can have").pad_to_align();
        // SAFETY: the size is not zero: a chunk is at least a huge page.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        advise_huge(start, layout.size());
        Self { start: start.cast(), layout }
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
static NEXT: Mutex<Option<(Arc<Chunk>, usize)>> = Mutex::new(None);

impl Pages {
    /// Lines of zeros.
    pub(crate) fn new(len: usize) -> Self {
        if len >= LARGE {
            return Self { chunk: Arc::new(Chunk::new(len)), start: 0, len };
        }
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        // A chunk that nobody else holds has nothing in it that is wanted, but is no longer zeros.
        let (chunk, start) = match next.take() {
            Some((chunk, taken)) if CHUNK - taken >= len && Arc::strong_count(&chunk) > 1 => {
                (chunk, taken)
            }
            _ => (Arc::new(Chunk::new(CHUNK)), 0),
        };
        *next = Some((Arc::clone(&chunk), start + len));
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
        let mut buffers: Vec<Pages> = [0, 1, 1000, LARGE, 7].map(Pages::new).into();
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
