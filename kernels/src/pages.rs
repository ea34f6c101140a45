//! Memory for weights: lines of a cache, on huge pages where the system has them.

/// 64 bytes, aligned: a line of the cache, and the widest register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// A buffer of lines.
#[derive(Clone, Debug)]
pub(crate) struct Pages(Vec<Line>);

/// From this size on a buffer asks for huge pages: two of them.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

impl Pages {
    /// Lines of zeros.
    pub(crate) fn new(lines: usize) -> Self {
        let mut buffer = Vec::with_capacity(lines);
        advise_huge(&mut buffer);
        buffer.resize(lines, Line([0; 64]));
        Self(buffer)
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.0
    }

    pub(crate) fn lines_mut(&mut self) -> &mut [Line] {
        &mut self.0
    }
}

/// Asks for huge pages before anything is written: a stream of weights then needs a 512th of the address translations,
/// and reads 10 to 40 % faster from memory.
#[cfg(target_os = "linux")]
fn advise_huge(buffer: &mut Vec<Line>) {
    use rustix::mm::{Advice, madvise};
    const PAGE: usize = 4096;
    let spare = buffer.spare_capacity_mut();
    let bytes = std::mem::size_of_val(spare);
    if bytes < LARGE {
        return;
    }
    let start = spare.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE);
    // SAFETY: whole pages inside a buffer that is ours; the advice changes no byte of them. A refusal costs speed only.
    let _ = unsafe {
        madvise(start.add(skipped).cast(), (bytes - skipped) / PAGE * PAGE, Advice::LinuxHugepage)
    };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: &mut Vec<Line>) {}
