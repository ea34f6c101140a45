//! The functions that every template may call.

use std::rc::Rc;
use std::time::SystemTime;

use super::filters::{self, ITEM};
use super::machine::Given;
use super::value::{Namespace, Value};
use super::writing::written;
use super::{Budget, clock};

type Result<T> = std::result::Result<T, String>;

/// Their names.
pub(super) const FUNCTIONS: [&str; 5] =
    ["range", "namespace", "dict", "raise_exception", "strftime_now"];

/// Calls one; `now` is what `strftime_now` takes for now.
pub(super) fn call(
    function: &str,
    given: Given,
    now: SystemTime,
    budget: &mut Budget,
) -> Result<Value> {
    match function {
        "range" => {
            let number = |place: usize| -> Result<Option<i64>> {
                let Some(value) = given.positional.get(place) else { return Ok(None) };
                let number = value.as_integer();
                number
                    .map(Some)
                    .ok_or_else(|| format!("a range has integers, not {}", value.described()))
            };
            let (start, end) = match (number(0)?, number(1)?) {
                (Some(end), None) => (0, end),
                (Some(start), Some(end)) => (start, end),
                _ => return Err("a range has an end".to_owned()),
            };
            let step = number(2)?.unwrap_or(1);
            if step == 0 {
                return Err("the step of a range must not be 0".to_owned());
            }
            let distance = if step > 0 {
                i128::from(end) - i128::from(start)
            } else {
                i128::from(start) - i128::from(end)
            };
            let size = i128::from(step.unsigned_abs());
            let count = usize::try_from((distance.max(0) + size - 1) / size).unwrap_or(usize::MAX);
            budget.pay(count.saturating_mul(ITEM))?;
            // The product may pass 64 bits on its way to a sum that does not.
            let number = |i: usize| Value::Integer(start.wrapping_add(step.wrapping_mul(i as i64)));
            Value::list((0..count).map(number).collect())
        }
        "namespace" | "dict" => {
            let mut entries = Vec::new();
            if let Some(from) = given.positional.first() {
                for (key, value) in filters::pairs(from, budget)? {
                    let Value::Text(key) = key else {
                        return Err("its keys must be strings".to_owned());
                    };
                    entries.push((key.as_str().to_owned(), value));
                }
            }
            for (name, value) in given.named {
                budget.pay(entries.len())?;
                entries.retain(|(other, _)| *other != name);
                entries.push((name, value));
            }
            budget.pay(entries.len() * ITEM)?;
            if function == "dict" {
                return Value::dict(
                    entries.into_iter().map(|(key, value)| (Value::written(key), value)).collect(),
                );
            }
            if entries.iter().any(|(_, value)| !value.is_plain()) {
                return Err("a namespace cannot hold a namespace".to_owned());
            }
            Ok(Value::Namespace(Rc::new(Namespace(entries.into()))))
        }
        "strftime_now" => {
            let format = filters::text(given.need(0, "format")?)?;
            budget.pay(format.len().saturating_mul(16))?;
            clock::format(now, format.as_str()).map(Value::written)
        }
        // raise_exception
        _ => {
            let message = given.positional.first().map(|message| written(message, budget));
            let message = message.transpose()?.unwrap_or_default();
            Err(format!("it refuses the conversation: {}", message.as_str()))
        }
    }
}
