//! The methods of Python's strings, lists and dictionaries, and what `loop` has.

use super::Budget;
use super::filters::{self, ITEM, text};
use super::machine::Given;
use super::operators::{entry, equal};
use super::text::Text;
use super::value::{Loop, Value};

type Result<T> = std::result::Result<T, String>;

pub(super) fn of_loop(state: &Loop, name: &str) -> Value {
    let Loop { items, index, depth } = state;
    let (index, length) = (*index, items.len());
    let number = |number: usize| Value::Integer(number as i64);
    let neighbour =
        |index: usize| items.get(index).cloned().unwrap_or_else(|| Value::undefined(name));
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 == length),
        "length" => number(length),
        "depth" => number(*depth),
        "depth0" => number(depth - 1),
        "previtem" => neighbour(index.wrapping_sub(1)),
        "nextitem" => neighbour(index + 1),
        _ => Value::undefined(name),
    }
}

/// The item or character at a place, from the end for negative ones.
pub(super) fn at(of: &Value, index: i64, budget: &mut Budget) -> Result<Value> {
    let place = |length: usize| {
        let index = if index < 0 { index.checked_add(length as i64)? } else { index };
        usize::try_from(index).ok()
    };
    let missing = || Value::undefined(&format!("item {index}"));
    Ok(match of {
        Value::List(list) => place(list.items.len())
            .and_then(|place| list.items.get(place).cloned())
            .unwrap_or_else(missing),
        Value::Text(text) => {
            budget.pay(text.len())?;
            let length = text.as_str().chars().count();
            let found = place(length).and_then(|place| text.as_str().char_indices().nth(place));
            found.map_or_else(missing, |(at, c)| Value::text(text.part(at..at + c.len_utf8())))
        }
        _ => missing(),
    })
}

/// Python's `of[start:end:step]`.
pub(super) fn slice(
    of: &Value,
    [start, end, step]: [Option<i64>; 3],
    budget: &mut Budget,
) -> Result<Value> {
    let items = match of {
        Value::Text(text) if step.unwrap_or(1) == 1 => return slice_text(text, start, end, budget),
        _ => filters::items(of, budget)?,
    };
    let length = items.len() as i64;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err("the step of a slice must not be 0".to_owned());
    }
    // Where Python's own slices begin and end.
    let (least, most) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i64>, or_else: i64| match bound {
        None => or_else,
        Some(bound) if bound < 0 => (bound.saturating_add(length)).max(least),
        Some(bound) => bound.min(most),
    };
    let (first, last) = if step > 0 { (0, length) } else { (length - 1, -1) };
    let (mut at, end) = (bound(start, first), bound(end, last));
    let mut kept = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        kept.extend(usize::try_from(at).ok().and_then(|at| items.get(at).cloned()));
        at = at.saturating_add(step);
    }
    match of {
        Value::Text(_) => filters::join(&kept, &Text::default(), budget),
        _ => Value::list(kept),
    }
}

fn slice_text(
    text: &Text,
    start: Option<i64>,
    end: Option<i64>,
    budget: &mut Budget,
) -> Result<Value> {
    budget.pay(text.len())?;
    let length = text.as_str().chars().count();
    let place = |bound: Option<i64>, or_else: usize| match bound {
        None => or_else,
        Some(bound) if bound < 0 => bound.saturating_add(length as i64).max(0) as usize,
        Some(bound) => (bound as usize).min(length),
    };
    let (start, end) = (place(start, 0), place(end, length));
    let byte =
        |place: usize| text.as_str().char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    Ok(Value::text(if start < end { text.part(byte(start)..byte(end)) } else { Text::default() }))
}

pub(super) fn call(of: &Value, name: &str, given: &Given, budget: &mut Budget) -> Result<Value> {
    let missing = || Err(format!("{} has no method `{name}`", of.described()));
    match of {
        Value::Text(text) => of_text(text, name, given, budget)?.map_or_else(missing, Ok),
        Value::Dict(dict) => match name {
            "items" => filters::pair_tuples(filters::pairs(of, budget)?),
            "keys" => Value::list(filters::items(of, budget)?),
            "values" => {
                let pairs = filters::pairs(of, budget)?;
                Value::list(pairs.into_iter().map(|(_, value)| value).collect())
            }
            "get" => {
                let found = entry(&dict.entries, given.need(0, "key")?, budget)?;
                Ok(found.or(given.get(1, "default")).cloned().unwrap_or(Value::None))
            }
            _ => missing(),
        },
        Value::List(list) => match name {
            "index" | "count" => {
                let item = given.need(0, "value")?;
                let mut count = 0;
                for (i, other) in list.items.iter().enumerate() {
                    if equal(other, item, budget)? {
                        count += 1;
                        if name == "index" {
                            return Ok(Value::Integer(i as i64));
                        }
                    }
                }
                if name == "count" {
                    Ok(Value::Integer(count))
                } else {
                    Err("the list has no such item".to_owned())
                }
            }
            "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "reverse" | "sort" => {
                Err(format!("`{name}` would change a list, which templates may not"))
            }
            _ => missing(),
        },
        Value::Loop(state) if name == "cycle" => {
            let count = given.positional.len();
            if count == 0 {
                return Err("`cycle` needs items".to_owned());
            }
            Ok(given.positional[state.index % count].clone())
        }
        _ => missing(),
    }
}

/// The result of a method of strings; none if there is no such method.
fn of_text(of: &Text, name: &str, given: &Given, budget: &mut Budget) -> Result<Option<Value>> {
    budget.pay(of.len())?;
    let str = of.as_str();
    let cased = |text: String, budget: &mut Budget| {
        budget.pay(text.len())?;
        Ok::<_, String>(Value::text(Text::written(text).given_if(of.has_given())))
    };
    let letters = |holds: fn(char) -> bool| Value::Bool(!str.is_empty() && str.chars().all(holds));
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = given.get(0, "chars").filter(|chars| !matches!(chars, Value::None));
            let chars = chars.map(text).transpose()?.map(Text::as_str);
            budget.pay(str.len().saturating_mul(chars.map_or(0, str::len)))?;
            let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            let mut view = str;
            if name != "rstrip" {
                view = view.trim_start_matches(strips);
            }
            if name != "lstrip" {
                view = view.trim_end_matches(strips);
            }
            Value::text(of.part_of(view))
        }
        "upper" => cased(str.to_uppercase(), budget)?,
        "lower" => cased(str.to_lowercase(), budget)?,
        "title" => cased(titled(str, |c| !c.is_alphabetic()), budget)?,
        "capitalize" => cased(titled(str, |_| false), budget)?,
        "startswith" | "endswith" => {
            let affix = given.need(0, "prefix")?;
            let affixes = match affix {
                Value::List(list) => list.items.as_slice(),
                one => std::slice::from_ref(one),
            };
            let mut holds = false;
            for affix in affixes {
                let affix = text(affix)?.as_str();
                budget.pay(affix.len())?;
                holds |= if name == "startswith" {
                    str.starts_with(affix)
                } else {
                    str.ends_with(affix)
                };
            }
            Value::Bool(holds)
        }
        "removeprefix" => Value::text(
            of.part_of(str.strip_prefix(text(given.need(0, "prefix")?)?.as_str()).unwrap_or(str)),
        ),
        "removesuffix" => Value::text(
            of.part_of(str.strip_suffix(text(given.need(0, "suffix")?)?.as_str()).unwrap_or(str)),
        ),
        "replace" => replaced(of, given, budget)?,
        "split" | "rsplit" => split(of, name == "rsplit", given, budget)?,
        "splitlines" => {
            let lines: Vec<&str> = str.lines().collect();
            budget.pay(lines.len() * ITEM)?;
            Value::list(lines.into_iter().map(|line| Value::text(of.part_of(line))).collect())?
        }
        "join" => filters::join(&filters::items(given.need(0, "items")?, budget)?, of, budget)?,
        "find" | "rfind" | "index" => {
            let wanted = text(given.need(0, "sub")?)?.as_str();
            let found = if name == "rfind" { str.rfind(wanted) } else { str.find(wanted) };
            let place = found.map(|at| str[..at].chars().count() as i64);
            if name == "index" && place.is_none() {
                return Err("the string has no such part".to_owned());
            }
            Value::Integer(place.unwrap_or(-1))
        }
        "count" => {
            let wanted = text(given.need(0, "sub")?)?.as_str();
            Value::Integer(str.matches(wanted).count() as i64)
        }
        "isdigit" | "isnumeric" | "isdecimal" => letters(char::is_numeric),
        "isalpha" => letters(char::is_alphabetic),
        "isalnum" => letters(char::is_alphanumeric),
        "isspace" => letters(is_space),
        "isupper" | "islower" => {
            Value::Bool(filters::test(&name[2..], &Value::text(of.clone()), given, budget)?)
        }
        _ => return Ok(None),
    }))
}

/// What Python counts as white space in a string.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// The first letter of each word large and the others small, where some characters end a word.
pub(super) fn titled(text: &str, ends_word: impl Fn(char) -> bool) -> String {
    let mut titled = String::new();
    let mut begins = true;
    for c in text.chars() {
        if begins {
            titled.extend(c.to_uppercase());
        } else {
            titled.extend(c.to_lowercase());
        }
        begins = ends_word(c);
    }
    titled
}

fn replaced(of: &Text, given: &Given, budget: &mut Budget) -> Result<Value> {
    let (old, new) = (text(given.need(0, "old")?)?, text(given.need(1, "new")?)?);
    let most = given.get(2, "count").and_then(Value::as_integer);
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut all = Text::default();
    let mut kept = 0;
    for (at, found) in of.as_str().match_indices(old.as_str()).take(most) {
        budget.pay(new.len() + 1)?;
        all.push_part(of, kept..at);
        all.push(new);
        kept = at + found.len();
    }
    all.push_part(of, kept..of.len());
    Ok(Value::text(all))
}

fn split(of: &Text, from_right: bool, given: &Given, budget: &mut Budget) -> Result<Value> {
    let str = of.as_str();
    let most = given.get(1, "maxsplit").and_then(Value::as_integer);
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match given.get(0, "sep").filter(|by| !matches!(by, Value::None)) {
        Some(by) => {
            let by = text(by)?.as_str();
            if by.is_empty() {
                return Err("a string cannot be split by nothing".to_owned());
            }
            let most = most.saturating_add(1);
            budget.pay(str.matches(by).count().min(most).saturating_mul(ITEM))?;
            if from_right {
                str.rsplitn(most, by).collect()
            } else {
                str.splitn(most, by).collect()
            }
        }
        None => {
            budget.pay(str.split(is_space).count().saturating_mul(ITEM))?;
            let trim = |text| match from_right {
                true => str::trim_end_matches(text, is_space),
                false => str::trim_start_matches(text, is_space),
            };
            let mut words = Vec::new();
            let mut rest = trim(str);
            while !rest.is_empty() && words.len() < most {
                let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
                let (word, left) = match cut {
                    None => (rest, ""),
                    Some(cut) if from_right => {
                        (rest[cut..].trim_start_matches(is_space), &rest[..cut])
                    }
                    Some(cut) => rest.split_at(cut),
                };
                words.push(word);
                rest = trim(left);
            }
            if !rest.is_empty() {
                words.push(rest);
            }
            words
        }
    };
    if from_right {
        parts.reverse();
    }
    Value::list(parts.into_iter().map(|part| Value::text(of.part_of(part))).collect())
}
