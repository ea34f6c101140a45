//! Ctrl-C as a wish instead of an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C was pressed. Where the system has no such signal, it ends the program as ever.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C does nothing but be remembered.
    pub(crate) fn catch() -> Self {
        let flag = Arc::default();
        #[cfg(unix)]
        {
            use signal_hook::{consts::SIGINT, flag};
            // A system that takes no handler is left as it is.
            let _ = flag::register(SIGINT, Arc::clone(&flag));
        }
        Self(flag)
    }

    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
