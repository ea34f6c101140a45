//! Values as text: as they are put out, as Python's `repr`, as JSON.

use super::Budget;
use super::text::Text;
use super::value::Value;

type Result<T> = std::result::Result<T, String>;

/// The text of a value where it is put out.
pub(super) fn written(value: &Value, budget: &mut Budget) -> Result<Text> {
    if let Value::Text(text) = value {
        budget.pay(text.len())?;
        return Ok(Text::clone(text));
    }
    if value.is_undefined() {
        return Ok(Text::default());
    }
    let mut text = Text::default();
    represent(value, &mut text, budget)?;
    Ok(text)
}

/// Python's `repr`.
fn represent(value: &Value, out: &mut Text, budget: &mut Budget) -> Result<()> {
    let mut put = |text: &str, out: &mut Text| {
        budget.pay(text.len())?;
        out.push(&Text::written(text));
        Ok::<(), String>(())
    };
    match value {
        Value::Undefined(_) => put("Undefined", out),
        Value::None => put("None", out),
        Value::Bool(true) => put("True", out),
        Value::Bool(false) => put("False", out),
        Value::Integer(number) => put(&number.to_string(), out),
        Value::Float(number) => put(&float(*number), out),
        Value::Text(text) => {
            let mark = if text.as_str().contains('\'') && !text.as_str().contains('"') {
                '"'
            } else {
                '\''
            };
            let mut quoted = String::from(mark);
            for c in text.as_str().chars() {
                match c {
                    '\n' => quoted.push_str("\\n"),
                    '\r' => quoted.push_str("\\r"),
                    '\t' => quoted.push_str("\\t"),
                    '\\' => quoted.push_str("\\\\"),
                    c if c == mark => quoted.extend(['\\', c]),
                    c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
                    c => quoted.push(c),
                }
            }
            quoted.push(mark);
            budget.pay(quoted.len())?;
            out.push(&Text::written(quoted).given_if(text.has_given()));
            Ok(())
        }
        Value::List(list) => {
            let [open, close] = if list.is_tuple { ["(", ")"] } else { ["[", "]"] };
            put(open, out)?;
            for (i, item) in list.items.iter().enumerate() {
                if i > 0 {
                    pay_and_push(", ", out, budget)?;
                }
                represent(item, out, budget)?;
            }
            if list.is_tuple && list.items.len() == 1 {
                pay_and_push(",", out, budget)?;
            }
            pay_and_push(close, out, budget)
        }
        Value::Dict(dict) => {
            put("{", out)?;
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    pay_and_push(", ", out, budget)?;
                }
                represent(key, out, budget)?;
                pay_and_push(": ", out, budget)?;
                represent(value, out, budget)?;
            }
            pay_and_push("}", out, budget)
        }
        Value::Namespace(_) | Value::Macro(_) | Value::Function(_) | Value::Loop(_) => {
            Err(format!("{} has no text", value.described()))
        }
    }
}

fn pay_and_push(text: &str, out: &mut Text, budget: &mut Budget) -> Result<()> {
    budget.pay(text.len())?;
    out.push(&Text::written(text));
    Ok(())
}

/// A float as Python writes it.
pub(super) fn float(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        format!("{number:?}")
    }
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` writes it, each level indented by so many spaces if any.
pub(super) fn json(value: &Value, indent: Option<usize>, budget: &mut Budget) -> Result<Text> {
    let mut writer = Json { out: String::new(), indent, given: false, budget };
    writer.value(value, 0)?;
    Ok(Text::written(writer.out).given_if(writer.given))
}

struct Json<'a> {
    out: String,
    indent: Option<usize>,
    given: bool,
    budget: &'a mut Budget,
}

impl Json<'_> {
    fn put(&mut self, text: &str) -> Result<()> {
        self.budget.pay(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn text(&mut self, text: &Text) -> Result<()> {
        self.given |= text.has_given();
        self.put("\"")?;
        for c in text.as_str().chars() {
            match c {
                '"' => self.put("\\\"")?,
                '\\' => self.put("\\\\")?,
                '\n' => self.put("\\n")?,
                '\r' => self.put("\\r")?,
                '\t' => self.put("\\t")?,
                '\x08' => self.put("\\b")?,
                '\x0c' => self.put("\\f")?,
                c if (c as u32) < 0x20 => self.put(&format!("\\u{:04x}", c as u32))?,
                c => self.put(c.encode_utf8(&mut [0; 4]))?,
            }
        }
        self.put("\"")
    }

    /// Between items: the comma, and the line that the next begins.
    fn next(&mut self, comma: bool, level: usize) -> Result<()> {
        match self.indent {
            Some(indent) => {
                self.put(if comma { ",\n" } else { "\n" })?;
                let spaces = indent.saturating_mul(level);
                self.budget.pay(spaces)?;
                self.out.extend(std::iter::repeat_n(' ', spaces));
                Ok(())
            }
            None => self.put(if comma { ", " } else { "" }),
        }
    }

    fn value(&mut self, value: &Value, level: usize) -> Result<()> {
        match value {
            Value::None => self.put("null"),
            Value::Bool(value) => self.put(if *value { "true" } else { "false" }),
            Value::Integer(number) => self.put(&number.to_string()),
            Value::Float(number) => self.put(&float(*number)),
            Value::Text(text) => self.text(text),
            Value::List(list) if list.items.is_empty() => self.put("[]"),
            Value::List(list) => {
                self.put("[")?;
                for (i, item) in list.items.iter().enumerate() {
                    self.next(i > 0, level + 1)?;
                    self.value(item, level + 1)?;
                }
                self.next(false, level)?;
                self.put("]")
            }
            Value::Dict(dict) if dict.entries.is_empty() => self.put("{}"),
            Value::Dict(dict) => {
                self.put("{")?;
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    self.next(i > 0, level + 1)?;
                    match key {
                        Value::Text(key) => self.text(key)?,
                        other => {
                            self.put("\"")?;
                            self.value(other, level)?;
                            self.put("\"")?;
                        }
                    }
                    self.put(": ")?;
                    self.value(value, level + 1)?;
                }
                self.next(false, level)?;
                self.put("}")
            }
            other => Err(format!("{} is no JSON", other.described())),
        }
    }
}
