//! A device that fails while it computes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};

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
    // The message goes into the error, so the hook must not print it as well.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(compute));
    set_hook(hook);
    result.map_err(|panic| match message(panic.as_ref()) {
        Some(message) => DeviceError::Lost { name: name.into(), message, advice: ADVICE },
        None => resume_unwind(panic),
    })
}

fn message(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied())?;
    Some(text.trim().into())
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
