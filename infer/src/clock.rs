//! Time, where the system has any.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const STANDS_STILL: bool = cfg!(all(target_family = "wasm", target_os = "unknown"));

/// The time of day; where there is none, the beginning of 1970.
pub(crate) fn now() -> SystemTime {
    if STANDS_STILL { UNIX_EPOCH } else { SystemTime::now() }
}

/// Runs from its start on. WebAssembly in a browser has no clock of its own: there it stands still.
pub(crate) struct Clock(Option<Instant>);

impl Clock {
    pub(crate) fn start() -> Self {
        Self((!STANDS_STILL).then(Instant::now))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |start| start.elapsed())
    }
}
