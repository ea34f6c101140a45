//! Standard output and error while a dashboard lives on the terminal.
//!
//! A renderer ends with a panic where it cannot write, and with it the run, before the signal of a closed window comes.
//! So it writes into a pipe, and a thread passes on what comes out for as long as there is a terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::stdio::{dup2_stderr, dup2_stdout};

struct Relay {
    output: OwnedFd,
    error: OwnedFd,
    thread: JoinHandle<()>,
}

static RELAY: Mutex<Option<Relay>> = Mutex::new(None);

/// Leads standard output and error, both of which are the terminal, through the pipe.
///
/// # Errors
///
/// What the system said.
pub(super) fn start() -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let error = io::stderr().as_fd().try_clone_to_owned()?;
    let mut terminal = File::from(output.try_clone()?);
    let pass_on = move || {
        let mut piece = [0; 1 << 16];
        let mut there = true;
        loop {
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => there = there && terminal.write_all(&piece[..bytes]).is_ok(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    };
    let thread = std::thread::Builder::new().name("relay".into()).spawn(pass_on)?;
    *RELAY.lock().unwrap_or_else(PoisonError::into_inner) = Some(Relay { output, error, thread });
    dup2_stdout(&writer)?;
    Ok(dup2_stderr(&writer)?)
}

/// Leads them to the terminal again, once all that was written is there; nowhere if there is no terminal any more.
pub(super) fn stop() {
    let relay = RELAY.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Relay { mut output, mut error, thread }) = relay else { return };
    if super::is_gone()
        && let Ok(nowhere) = File::options().write(true).open("/dev/null")
        && let Ok(twice) = nowhere.try_clone()
    {
        (output, error) = (nowhere.into(), twice.into());
    }
    // With these the last writers of the pipe are closed, and the thread ends.
    if dup2_stdout(&output).is_ok() && dup2_stderr(&error).is_ok() {
        let _ = thread.join();
    }
}
