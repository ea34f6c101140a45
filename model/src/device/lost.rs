//! A device that fails while it computes.

use std::panic::resume_unwind;

use tern_format::contain::{caught, words};

use super::{ADVICE, DeviceError};

/// Runs `compute` on the device called `name`; where that is not the CPU, a panic becomes [`DeviceError::Lost`].
///
/// Burn reports a lost adapter, or one without memory, by panicking in whatever operation comes next. Nothing that
/// `compute` borrows may be used after an error but what is on the disk. A panic without words is not Burn's, and goes on.
///
/// # Errors
///
/// [`DeviceError::Lost`].
pub fn guarded<T>(name: &str, compute: impl FnOnce() -> T) -> Result<T, DeviceError> {
    if name == "cpu" || name == "ndarray" {
        return Ok(compute());
    }
    // The words go into the error, so nothing prints them as well.
    caught(compute).map_err(|panic| match words(panic.as_ref()) {
        Some(words) => {
            DeviceError::Lost { name: name.into(), message: words.trim().into(), advice: ADVICE }
        }
        None => resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_a_gpu_is_an_error_with_its_message() {
        let lost = guarded("wgpu", || -> u8 { panic!("device lost: {}", 7) });
        let message = lost.err().map_or_else(String::new, |error| error.to_string());
        assert!(message.starts_with("wgpu failed while computing: device lost: 7; "), "{message}");
        assert_eq!(guarded("wgpu", || 3).ok(), Some(3));
    }
}
