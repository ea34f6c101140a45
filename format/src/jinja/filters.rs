//! Filters and tests.

use super::Budget;
use super::machine::Given;
use super::methods;
use super::operators::{binary, compare, contains, entry, equal, order};
use super::syntax::Comparison;
use super::text::Text;
use super::value::Value;
use super::writing::{json, written};

/// What an entry of a list costs: more than the memory that it takes.
pub(super) const ITEM: usize = 128;

type Result<T> = std::result::Result<T, String>;

/// What a loop goes over.
pub(super) fn items(value: &Value, budget: &mut Budget) -> Result<Vec<Value>> {
    match value {
        Value::List(list) => {
            budget.pay(list.items.len() * ITEM)?;
            Ok(list.items.clone())
        }
        Value::Dict(dict) => {
            budget.pay(dict.entries.len() * ITEM)?;
            Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
        }
        Value::Text(text) => {
            budget.pay(text.len().saturating_mul(ITEM))?;
            let chars = text.as_str().char_indices();
            Ok(chars.map(|(at, c)| Value::text(text.part(at..at + c.len_utf8()))).collect())
        }
        Value::Undefined(_) => Ok(Vec::new()),
        other => Err(format!("there is nothing to go over in {}", other.described())),
    }
}

/// The keys and values of a dictionary.
pub(super) fn pairs(value: &Value, budget: &mut Budget) -> Result<Vec<(Value, Value)>> {
    match value {
        Value::Dict(dict) => {
            budget.pay(dict.entries.len() * ITEM)?;
            Ok(dict.entries.clone())
        }
        Value::Undefined(_) => Ok(Vec::new()),
        other => Err(format!("{} has no keys", other.described())),
    }
}

/// Pairs as tuples of two.
pub(super) fn pair_tuples(pairs: Vec<(Value, Value)>) -> Result<Value> {
    let pairs = pairs.into_iter().map(|(key, value)| Value::tuple(vec![key, value]));
    Value::list(pairs.collect::<Result<_>>()?)
}

pub(super) fn text(value: &Value) -> Result<&Text> {
    let text = value.as_text();
    text.map(|text| &**text)
        .ok_or_else(|| format!("this must be a string, is {}", value.described()))
}

fn integer(value: &Value) -> Result<i64> {
    value.as_integer().ok_or_else(|| format!("this must be an integer, is {}", value.described()))
}

pub(super) fn filter(
    name: &str,
    value: &Value,
    given: &Given,
    budget: &mut Budget,
) -> Result<Value> {
    match name {
        "default" | "d" => {
            let falsy = given.get(1, "boolean").is_some_and(Value::is_true);
            let missing = value.is_undefined() || (falsy && !value.is_true());
            let or_else = given.get(0, "default_value");
            return Ok(match missing {
                true => or_else.cloned().unwrap_or_else(|| Value::written("")),
                false => value.clone(),
            });
        }
        "title" => {
            let text = written(value, budget)?;
            let titled =
                methods::titled(text.as_str(), |c| c.is_whitespace() || "-({[<".contains(c));
            budget.pay(titled.len())?;
            return Ok(Value::text(Text::written(titled).given_if(text.has_given())));
        }
        "trim" | "upper" | "lower" | "capitalize" | "replace" => {
            let text = Value::text(written(value, budget)?);
            let method = if name == "trim" { "strip" } else { name };
            return methods::call(&text, method, given, budget);
        }
        "length" | "count" => {
            let length = match value {
                Value::Text(text) => {
                    budget.pay(text.len())?;
                    text.as_str().chars().count()
                }
                Value::List(list) => list.items.len(),
                Value::Dict(dict) => dict.entries.len(),
                Value::Undefined(_) => 0,
                other => return Err(format!("{} has no length", other.described())),
            };
            return Ok(Value::Integer(length as i64));
        }
        "string" | "safe" | "e" | "escape" | "forceescape" => {
            let text = written(value, budget)?;
            let escapes = !matches!(name, "string" | "safe");
            return if escapes { escaped(&text, budget) } else { Ok(Value::text(text)) };
        }
        "tojson" => {
            let indent = given.get(0, "indent").filter(|indent| !matches!(indent, Value::None));
            let indent = indent.map(integer).transpose()?;
            return json(value, indent.map(|indent| indent.max(0) as usize), budget)
                .map(Value::text);
        }
        "items" => return pair_tuples(pairs(value, budget)?),
        "int" => return to_integer(value, given, budget),
        "float" => {
            let number = match value {
                Value::Text(text) => text.as_str().trim().parse().ok(),
                other => other.as_float(),
            };
            let or_else = given.get(0, "default").cloned().unwrap_or(Value::Float(0.0));
            return Ok(number.map_or(or_else, Value::Float));
        }
        "abs" => {
            let number = value.as_integer().and_then(i64::checked_abs).map(Value::Integer);
            let float = || value.as_float().map(|number| Value::Float(number.abs()));
            return number.or_else(float).ok_or_else(|| "abs is of numbers".to_owned());
        }
        "round" => {
            let number = value.as_float().ok_or("round is of numbers")?;
            let digits = given.get(0, "precision").map(integer).transpose()?.unwrap_or(0);
            let unit = 10f64.powi(digits.clamp(-300, 300) as i32);
            return Ok(Value::Float((number * unit).round_ties_even() / unit));
        }
        "indent" => return indent(value, given, budget),
        "wordcount" => {
            let text = text(value)?;
            budget.pay(text.len())?;
            return Ok(Value::Integer(text.as_str().split_whitespace().count() as i64));
        }
        _ => {}
    }
    of_list(name, value, given, budget)
}

/// Filters of what a loop can go over.
fn of_list(name: &str, value: &Value, given: &Given, budget: &mut Budget) -> Result<Value> {
    let known = [
        "list",
        "first",
        "last",
        "join",
        "map",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "unique",
        "reverse",
        "sort",
        "dictsort",
        "min",
        "max",
        "sum",
    ];
    if !known.contains(&name) {
        return Err(format!("there is no filter `{name}`"));
    }
    if name == "dictsort" {
        let mut entries = pairs(value, budget)?;
        sort(&mut entries, |(key, _)| key, budget)?;
        return pair_tuples(entries);
    }
    if name == "reverse"
        && let Value::Text(text) = value
    {
        budget.pay(text.len())?;
        let reversed: String = text.as_str().chars().rev().collect();
        return Ok(Value::text(Text::written(reversed).given_if(text.has_given())));
    }
    let mut items = items(value, budget)?;
    match name {
        "list" => Value::list(items),
        "first" => {
            Ok(items.into_iter().next().unwrap_or_else(|| Value::undefined("the first of nothing")))
        }
        "last" => Ok(items.pop().unwrap_or_else(|| Value::undefined("the last of nothing"))),
        "join" => {
            let between = given.get(0, "d").map(|between| written(between, budget)).transpose()?;
            if let Some(attribute) = given.get(1, "attribute") {
                items = items
                    .iter()
                    .map(|item| attribute_of(item, attribute, budget))
                    .collect::<Result<_>>()?;
            }
            join(&items, &between.unwrap_or_default(), budget)
        }
        "map" => {
            let by_name = |name: &str| given.named.iter().find(|(other, _)| other == name);
            if let Some((_, attribute)) = by_name("attribute") {
                let or_else = by_name("default").map(|(_, value)| value);
                let attribute = |item: &Value| {
                    let value = attribute_of(item, attribute, budget)?;
                    Ok(or_else.filter(|_| value.is_undefined()).cloned().unwrap_or(value))
                };
                return Value::list(items.iter().map(attribute).collect::<Result<_>>()?);
            }
            let (name, given) = chosen(given, 0)?;
            let mapped = items.iter().map(|item| filter(&name, item, &given, budget));
            Value::list(mapped.collect::<Result<_>>()?)
        }
        "select" | "reject" | "selectattr" | "rejectattr" => {
            let by_attribute = name.ends_with("attr");
            let attribute =
                if by_attribute { Some(given.need(0, "attribute")?.clone()) } else { None };
            let has_test = given.positional.len() > usize::from(by_attribute);
            let chosen = has_test.then(|| chosen(given, usize::from(by_attribute))).transpose()?;
            let wanted = name.starts_with("select");
            let mut kept = Vec::new();
            for item in items {
                let value = match &attribute {
                    Some(attribute) => attribute_of(&item, attribute, budget)?,
                    None => item.clone(),
                };
                let holds = match &chosen {
                    Some((name, given)) => test(name, &value, given, budget)?,
                    None => value.is_true(),
                };
                if holds == wanted {
                    kept.push(item);
                }
            }
            Value::list(kept)
        }
        "unique" => {
            let mut kept: Vec<Value> = Vec::new();
            for item in items {
                let mut there = false;
                for other in &kept {
                    there |= equal(other, &item, budget)?;
                }
                if !there {
                    kept.push(item);
                }
            }
            Value::list(kept)
        }
        "reverse" => {
            items.reverse();
            Value::list(items)
        }
        "sum" => {
            let mut sum = Value::Integer(0);
            for item in items {
                sum = binary("+", &sum, &item, budget)?;
            }
            Ok(sum)
        }
        _ => {
            sort(&mut items, |item| item, budget)?;
            let mut items = items.into_iter();
            match name {
                "min" => {
                    Ok(items.next().unwrap_or_else(|| Value::undefined("the least of nothing")))
                }
                "max" => {
                    Ok(items.last().unwrap_or_else(|| Value::undefined("the most of nothing")))
                }
                _ if given.get(0, "reverse").is_some_and(Value::is_true) => {
                    Value::list(items.rev().collect())
                }
                _ => Value::list(items.collect()),
            }
        }
    }
}

/// The name of a filter or test among the arguments, and the arguments after it.
fn chosen(given: &Given, place: usize) -> Result<(String, Given)> {
    let name = text(given.need(place, "name")?)?.as_str().to_owned();
    // `map("map", "map", …)` would recurse as deep as its arguments reach, which a call bounds.
    let positional = given.positional[place + 1..].to_vec();
    Ok((name, Given { positional, named: Vec::new() }))
}

/// A value by a path of keys: `a.b.0`.
fn attribute_of(value: &Value, path: &Value, budget: &mut Budget) -> Result<Value> {
    let Value::Text(path) = path else {
        return methods::at(value, integer(path)?, budget);
    };
    let mut value = value.clone();
    for name in path.as_str().split('.') {
        budget.pay(1)?;
        value = match (&value, name.parse()) {
            (Value::List(_), Ok(index)) => methods::at(&value, index, budget)?,
            (Value::Dict(dict), _) => {
                let key = Value::written(name);
                let found = entry(&dict.entries, &key, budget)?;
                found.cloned().unwrap_or_else(|| Value::undefined(name))
            }
            _ => Value::undefined(name),
        };
    }
    Ok(value)
}

/// Texts in a row.
pub(super) fn join(items: &[Value], between: &Text, budget: &mut Budget) -> Result<Value> {
    let mut all = Text::default();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            budget.pay(between.len())?;
            all.push(between);
        }
        all.push(&written(item, budget)?);
    }
    Ok(Value::text(all))
}

/// Sorts by merging, so that an order that contradicts itself is an error at most.
fn sort<T: Clone>(
    items: &mut Vec<T>,
    key: impl Fn(&T) -> &Value + Copy,
    budget: &mut Budget,
) -> Result<()> {
    if items.len() < 2 {
        return Ok(());
    }
    budget.pay(items.len() * ITEM)?;
    let mut right = items.split_off(items.len() / 2);
    sort(items, key, budget)?;
    sort(&mut right, key, budget)?;
    let left = std::mem::take(items);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let from_right = order(key(b), key(a), budget)?.is_lt();
        items.extend(if from_right { right.next() } else { left.next() });
    }
    items.extend(left.chain(right));
    Ok(())
}

fn to_integer(value: &Value, given: &Given, budget: &mut Budget) -> Result<Value> {
    let number = match value {
        Value::Text(text) => {
            budget.pay(text.len())?;
            let text = text.as_str().trim();
            let float = || text.parse().ok().map(|number: f64| number as i64);
            text.parse().ok().or_else(float)
        }
        Value::Float(number) => Some(*number as i64),
        other => other.as_integer(),
    };
    let or_else = given.get(0, "default").cloned().unwrap_or(Value::Integer(0));
    Ok(number.map_or(or_else, Value::Integer))
}

fn escaped(text: &Text, budget: &mut Budget) -> Result<Value> {
    budget.pay(text.len().saturating_mul(5))?;
    let mut all = Text::default();
    for (at, c) in text.as_str().char_indices() {
        let entity = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            _ => {
                all.push_part(text, at..at + c.len_utf8());
                continue;
            }
        };
        all.push(&Text::written(entity).given_if(text.is_given(at..at + 1)));
    }
    Ok(Value::text(all))
}

/// Spaces, or a text, before every line but the first and empty ones.
fn indent(value: &Value, given: &Given, budget: &mut Budget) -> Result<Value> {
    let all = written(value, budget)?;
    let by = match given.get(0, "width") {
        Some(Value::Text(text)) => Text::clone(text),
        width => {
            let width = width.map(integer).transpose()?.unwrap_or(4).max(0) as usize;
            budget.pay(width)?;
            Text::written(" ".repeat(width))
        }
    };
    let first = given.get(1, "first").is_some_and(Value::is_true);
    let blank = given.get(2, "blank").is_some_and(Value::is_true);
    let mut indented = Text::default();
    for (i, line) in all.as_str().split_inclusive('\n').enumerate() {
        let is_blank = line.trim_end_matches('\n').is_empty();
        if if i == 0 { first } else { blank || !is_blank } {
            budget.pay(by.len())?;
            indented.push(&by);
        }
        indented.push(&all.part_of(line));
    }
    Ok(Value::text(indented))
}

pub(super) fn test(name: &str, value: &Value, given: &Given, budget: &mut Budget) -> Result<bool> {
    let other = || given.need(0, "other");
    let comparison = match name {
        "eq" | "equalto" | "==" => Some(Comparison::Equal),
        "ne" | "!=" => Some(Comparison::Unequal),
        "lt" | "lessthan" | "<" => Some(Comparison::Less),
        "le" | "<=" => Some(Comparison::LessOrEqual),
        "gt" | "greaterthan" | ">" => Some(Comparison::Greater),
        "ge" | ">=" => Some(Comparison::GreaterOrEqual),
        _ => None,
    };
    if let Some(comparison) = comparison {
        return compare(comparison, value, other()?, budget);
    }
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Integer(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Integer(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" | "iterable" => {
            matches!(value, Value::Text(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_)),
        "odd" => integer(value)? & 1 == 1,
        "even" => integer(value)? & 1 == 0,
        "divisibleby" => {
            let by = integer(other()?)?;
            integer(value)?.checked_rem(by).ok_or("a division by zero")? == 0
        }
        "in" => contains(other()?, value, budget)?,
        "sameas" => value.kind() == other()?.kind() && equal(value, other()?, budget)?,
        "upper" | "lower" => {
            let text = text(value)?;
            budget.pay(text.len())?;
            let cased = text.as_str().chars().any(|c| c.is_uppercase() || c.is_lowercase());
            let upper = name == "upper";
            cased
                && !text
                    .as_str()
                    .chars()
                    .any(|c| if upper { c.is_lowercase() } else { c.is_uppercase() })
        }
        _ => return Err(format!("there is no test `{name}`")),
    })
}
