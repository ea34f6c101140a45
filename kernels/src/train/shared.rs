//! One result, written by many tasks.

use std::marker::PhantomData;

/// A slice that tasks write in disjoint parts.
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: a slice of floats may be written from any thread; `slice`'s contract keeps the parts apart.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), marker: PhantomData }
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    ///
    /// Nobody else may hold any of them.
    #[allow(clippy::mut_from_ref, reason = "the caller answers for the parts being disjoint")]
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: within the slice, and exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
