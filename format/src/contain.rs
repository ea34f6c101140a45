//! Panics of other people's code, turned into errors.
//!
//! The crates that read tokenizers and Parquet index and unwrap what a file says. What can be checked beforehand is
//! (`tokenizer_json.rs`, `charsmap.rs`); the rest is caught here, in one place. Memory and recursion cannot be
//! caught, so those are always bounded beforehand.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is about to be caught, and should not be reported.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Calls foreign code; a panic in it is the error, in its own words, and prints nothing.
///
/// What the call has borrowed may only hold state that a half-done change cannot break: the tokenizers hold nothing
/// that changes but caches behind locks, which they leave alone once poisoned.
///
/// # Errors
///
/// What the panic said.
pub fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    caught(call).map_err(|panic| words(panic.as_ref()).unwrap_or("it is malformed").to_owned())
}

/// The same with the panic itself as the error.
///
/// # Errors
///
/// What the panic carried.
pub fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !is_contained() {
                report(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(outer);
    result
}

/// Whether a panic of this thread would be caught here: a hook that replaces the one above must not report it.
pub fn is_contained() -> bool {
    CONTAINED.get()
}

/// What a panic said, if it carries words.
pub fn words(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_in_its_own_words_and_a_value_comes_through() {
        assert_eq!(contain(|| 7), Ok(7));
        let empty: [u8; 0] = [];
        let error = contain(|| empty[std::hint::black_box(3)]);
        assert!(error.is_err_and(|words| words.contains("index is 3")));
        assert!(!is_contained() && contain(is_contained) == Ok(true));
        let carried = caught(|| panic::resume_unwind(Box::new(7_u8))).err();
        assert!(carried.is_some_and(|panic| words(panic.as_ref()).is_none() && panic.is::<u8>()));
    }

    #[test]
    fn one_may_be_inside_another() {
        let inner = contain(|| contain(|| panic!("inner")).map(|()| 1));
        assert_eq!(inner, Ok(Err("inner".to_owned())));
        assert_eq!(contain(|| contain(|| 1)), Ok(Ok(1)));
    }
}
