//! The terminal while something lives on it, and how it is given back whatever happens.

#[cfg(unix)]
mod relay;
#[cfg(not(unix))]
mod relay {
    pub(super) fn start() -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn stop() {}
}

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::sync::{Mutex, PoisonError};

use crossterm::cursor::Show;
use crossterm::event::DisableMouseCapture;
use crossterm::execute;
use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

/// Whether the whole terminal is taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Switches the terminal to raw mode, in which Ctrl-C still is a signal: the dashboard reads no such key.
///
/// Ctrl-Z and Ctrl-\ do nothing until [`give_back`]: they would leave the shell with a raw terminal.
///
/// # Errors
///
/// What the system said.
pub(super) fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    keep_interrupts().and_then(|()| relay::start()).inspect_err(|_| give_back())
}

#[cfg(unix)]
fn keep_interrupts() -> io::Result<()> {
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let mut modes = tcgetattr(&stdin)?;
    modes.local_modes |= LocalModes::ISIG;
    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        // Zero stands for no key.
        modes.special_codes[key] = 0;
    }
    Ok(tcsetattr(&stdin, OptionalActions::Now, &modes)?)
}

#[cfg(not(unix))]
fn keep_interrupts() -> io::Result<()> {
    Ok(())
}

/// The terminal's modes before a live line.
#[cfg(unix)]
static BEFORE: Mutex<Option<rustix::termios::Termios>> = Mutex::new(None);

/// Lets Ctrl-C leave no `^C` behind a live line, which fills its row: the row would break, and stay on the terminal.
#[cfg(unix)]
pub(super) fn silence_control_characters() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    // Without a terminal to type at there is nothing to silence.
    let Ok(before) = tcgetattr(&stdin) else { return };
    let mut modes = before.clone();
    modes.local_modes.remove(LocalModes::ECHOCTL);
    if tcsetattr(&stdin, OptionalActions::Now, &modes).is_ok() {
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    }
}

/// Undoes [`silence_control_characters`].
#[cfg(unix)]
pub(super) fn show_control_characters() {
    use rustix::termios::{OptionalActions, tcsetattr};
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

#[cfg(not(unix))]
pub(super) fn silence_control_characters() {}

#[cfg(not(unix))]
pub(super) fn show_control_characters() {}

/// Leaves raw mode and shows the cursor; the dashboard has left its screen by itself.
pub(super) fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // The terminal may be gone, and then there is nothing to give back.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), DisableMouseCapture, Show);
        relay::stop();
    }
}

/// Ends the program at once, with the terminal as it was: nothing live is left on it.
pub(super) fn abandon() -> ! {
    // Whoever holds these keeps the other threads from drawing once more.
    let mut out = io::stdout().lock();
    let mut err = io::stderr().lock();
    if TAKEN.load(Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(out, DisableMouseCapture, LeaveAlternateScreen, Show);
        relay::stop();
    } else if err.is_terminal() {
        clear_line(&mut err);
        let _ = execute!(err, Show);
        show_control_characters();
    }
    std::process::exit(130)
}

/// Ends the program at once while no trainer is at work.
pub(super) fn leave() -> ! {
    let mut err = io::stderr().lock();
    if err.is_terminal() {
        clear_line(&mut err);
    }
    let _ = writeln!(err, "interrupted; the same command goes on where this one stood");
    std::process::exit(130)
}

/// Says on a terminal, between two drawings of a live line, that the program will stop soon.
pub(super) fn announce_stop() {
    let mut err = io::stderr().lock();
    if err.is_terminal() && !TAKEN.load(Ordering::SeqCst) {
        clear_line(&mut err);
        let _ =
            writeln!(err, "stopping after this step; Ctrl-C again leaves at once, without saving");
    }
}

/// Whether the terminal is gone, as it is when its window was closed.
#[cfg(unix)]
pub(super) fn is_gone() -> bool {
    use rustix::io::Errno;
    matches!(rustix::termios::tcgetattr(io::stdin()), Err(Errno::IO))
}

#[cfg(not(unix))]
pub(super) fn is_gone() -> bool {
    false
}

/// Empties the line of the cursor.
fn clear_line(err: &mut impl Write) {
    let _ = write!(err, "\r\x1b[2K");
}
