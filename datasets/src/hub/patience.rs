//! The wait for a server that says nothing has an end.
//!
//! `hf-hub` sets no time limit and lets nobody set one. So it works on a thread of its own, which is left behind where
//! nothing is heard of it for too long.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tern_format::contain::contain;

/// Told how many bytes are here, and of how many.
pub(super) type Tell = Box<dyn FnMut(u64, u64) + Send>;

/// How work that is waited for ends.
pub(super) enum Ended<T> {
    /// With a value.
    Well(T),
    /// With a panic, in its words.
    Panicked(String),
    /// Not yet: nothing was heard of it for too long.
    Silent,
}

enum Heard<T> {
    Bytes(u64, u64),
    End(Result<T, String>),
}

/// Calls `work`, and passes on what it tells.
pub(super) fn patiently<T: Send + 'static>(
    patience: Duration,
    on_bytes: &mut dyn FnMut(u64, u64),
    work: impl FnOnce(Tell) -> T + Send + 'static,
) -> Ended<T> {
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens to work that was left behind.
        let teller = sender.clone();
        let tell = Box::new(move |bytes, total| drop(teller.send(Heard::Bytes(bytes, total))));
        drop(sender.send(Heard::End(contain(|| work(tell)))));
    });
    loop {
        match heard.recv_timeout(patience) {
            Ok(Heard::Bytes(bytes, total)) => on_bytes(bytes, total),
            Ok(Heard::End(Ok(value))) => return Ended::Well(value),
            Ok(Heard::End(Err(words))) => return Ended::Panicked(words),
            Err(_) => return Ended::Silent,
        }
    }
}
