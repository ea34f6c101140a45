//! One result, written by many tasks.

use std::marker::PhantomData;

/// A slice that tasks write in disjoint parts.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: the values may be sent to any thread; `slice`'s contract keeps the parts apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), marker: PhantomData }
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    ///
    /// Nobody else may hold any of them.
    #[allow(clippy::mut_from_ref, reason = "the caller answers for the parts being disjoint")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len);
        // SAFETY: within the slice, and exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
