//! Time, where the system has any.

use std::time::{Duration, Instant};

/// Runs from its start on. WebAssembly in a browser has no clock of its own: there it stands still.
pub(crate) struct Clock(Option<Instant>);

impl Clock {
    pub(crate) fn start() -> Self {
        let stands_still = cfg!(all(target_family = "wasm", target_os = "unknown"));
        Self((!stands_still).then(Instant::now))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |start| start.elapsed())
    }
}
