//! Operators and comparisons, as in Python.

use std::cmp::Ordering;

use super::Budget;
use super::syntax::Comparison;
use super::text::Text;
use super::value::Value;
use super::writing::written;

type Result<T> = std::result::Result<T, String>;

pub(super) fn binary(operator: &str, a: &Value, b: &Value, budget: &mut Budget) -> Result<Value> {
    let refused = || format!("{} `{operator}` {} means nothing", a.described(), b.described());
    if operator == "~" {
        let mut text = written(a, budget)?;
        text.push(&written(b, budget)?);
        return Ok(Value::text(text));
    }
    match (operator, a, b) {
        ("+", Value::Text(a), Value::Text(b)) => {
            budget.pay(a.len() + b.len())?;
            let mut text = Text::clone(a);
            text.push(b);
            return Ok(Value::text(text));
        }
        ("+", Value::List(a), Value::List(b)) => {
            budget.pay((a.items.len() + b.items.len()) * size_of::<Value>())?;
            let items = a.items.iter().chain(&b.items).cloned().collect();
            return if a.is_tuple { Value::tuple(items) } else { Value::list(items) };
        }
        ("*", Value::Text(text), count) | ("*", count, Value::Text(text)) => {
            let count = count.as_integer().ok_or_else(refused)?.max(0) as usize;
            budget.pay(text.len().saturating_mul(count).saturating_add(count))?;
            let mut all = Text::default();
            (0..count).for_each(|_| all.push(text));
            return Ok(Value::text(all));
        }
        ("*", Value::List(list), count) | ("*", count, Value::List(list)) => {
            let count = count.as_integer().ok_or_else(refused)?.max(0) as usize;
            let items = list.items.len().saturating_mul(count).saturating_add(count);
            budget.pay(items.saturating_mul(size_of::<Value>()))?;
            return Value::list((0..count).flat_map(|_| list.items.iter().cloned()).collect());
        }
        _ => {}
    }
    if let (Some(a), Some(b)) = (a.as_integer(), b.as_integer())
        && operator != "/"
        && !(operator == "**" && b < 0)
    {
        return integers(operator, a, b);
    }
    let (Some(a), Some(b)) = (a.as_float(), b.as_float()) else { return Err(refused()) };
    if b == 0.0 && ["/", "//", "%"].contains(&operator) {
        return Err("a division by zero".to_owned());
    }
    let result = match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "//" => (a / b).floor(),
        "%" => a - b * (a / b).floor(),
        _ => a.powf(b),
    };
    Ok(Value::Float(result))
}

fn integers(operator: &str, a: i64, b: i64) -> Result<Value> {
    if b == 0 && ["//", "%"].contains(&operator) {
        return Err("a division by zero".to_owned());
    }
    let result = match operator {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        // Python rounds down, and its remainder has the sign of the divisor.
        "//" => {
            a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
        }
        "%" => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Value::Integer).ok_or_else(|| format!("{a} {operator} {b} is too large a number"))
}

pub(super) fn compare(
    comparison: Comparison,
    a: &Value,
    b: &Value,
    budget: &mut Budget,
) -> Result<bool> {
    Ok(match comparison {
        Comparison::Equal => equal(a, b, budget)?,
        Comparison::Unequal => !equal(a, b, budget)?,
        Comparison::In => contains(b, a, budget)?,
        Comparison::NotIn => !contains(b, a, budget)?,
        Comparison::Less => order(a, b, budget)?.is_lt(),
        Comparison::LessOrEqual => order(a, b, budget)?.is_le(),
        Comparison::Greater => order(a, b, budget)?.is_gt(),
        Comparison::GreaterOrEqual => order(a, b, budget)?.is_ge(),
    })
}

pub(super) fn equal(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool> {
    budget.pay(1)?;
    if let (Some(a), Some(b)) = (a.as_integer(), b.as_integer()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (a.as_float(), b.as_float()) {
        return Ok(a == b);
    }
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => Ok(true),
        (Value::Text(a), Value::Text(b)) => {
            budget.pay(a.len().min(b.len()))?;
            Ok(a.as_str() == b.as_str())
        }
        (Value::List(a), Value::List(b)) => {
            if a.items.len() != b.items.len() || a.is_tuple != b.is_tuple {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, a) in &a.entries {
                match entry(&b.entries, key, budget)? {
                    Some(b) if equal(a, b, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Macro(a), Value::Macro(b)) => Ok(a == b),
        (Value::Function(a), Value::Function(b)) => Ok(a == b),
        _ => Ok(false),
    }
}

/// The value of a key.
pub(super) fn entry<'a>(
    entries: &'a [(Value, Value)],
    key: &Value,
    budget: &mut Budget,
) -> Result<Option<&'a Value>> {
    for (other, value) in entries {
        if equal(other, key, budget)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

pub(super) fn order(a: &Value, b: &Value, budget: &mut Budget) -> Result<Ordering> {
    budget.pay(1)?;
    if let (Some(a), Some(b)) = (a.as_integer(), b.as_integer()) {
        return Ok(a.cmp(&b));
    }
    if let (Some(a), Some(b)) = (a.as_float(), b.as_float()) {
        return Ok(a.total_cmp(&b));
    }
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            budget.pay(a.len().min(b.len()))?;
            Ok(a.as_str().cmp(b.as_str()))
        }
        (Value::List(a), Value::List(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                match order(a, b, budget)? {
                    Ordering::Equal => {}
                    unequal => return Ok(unequal),
                }
            }
            Ok(a.items.len().cmp(&b.items.len()))
        }
        _ => Err(format!("{} and {} have no order", a.described(), b.described())),
    }
}

/// Python's `item in all`.
pub(super) fn contains(all: &Value, item: &Value, budget: &mut Budget) -> Result<bool> {
    match all {
        Value::Text(text) => {
            let Value::Text(item) = item else {
                return Err(format!("a string cannot hold {}", item.described()));
            };
            budget.pay(text.len())?;
            Ok(text.as_str().contains(item.as_str()))
        }
        Value::List(list) => {
            for other in &list.items {
                if equal(other, item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(dict) => Ok(entry(&dict.entries, item, budget)?.is_some()),
        Value::Undefined(_) => Ok(false),
        other => Err(format!("{} holds nothing", other.described())),
    }
}
