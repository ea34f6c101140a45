//! Jinja as `transformers` sets it up for chat templates, on the crate `minijinja`.
//!
//! A template comes with a model and is hostile until proven otherwise. It can only compute a text from what it is given. Its
//! size, its steps, its calls inside each other, the widths it fills up to and what it writes are bounded, and it has a stack
//! of its own. What a single step takes is not bounded: a chain of `{% set x = x ~ x %}` fills the memory, and a namespace that
//! holds itself fills the stack when it is written.

use std::fmt::Display;
use std::panic::resume_unwind;
use std::thread;
use std::time::SystemTime;
use std::{io, iter};

use chrono::format::StrftimeItems;
use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::names::SENTINELS;
use crate::contain::contain;
use crate::error::{Error, Result, printable};

/// The largest template, in bytes. The largest published ones have some 20,000.
const MOST_BYTES: usize = 1 << 16;
/// The stack of an engine, in bytes. A template of [`MOST_BYTES`] that is one chain of operators takes a quarter of it.
const STACK: usize = 1 << 27;
/// Steps that a template may take, beside [`FUEL_PER_BYTE`] for each byte of the conversation.
const FUEL: u64 = 1 << 16;
const FUEL_PER_BYTE: u64 = 16;
/// Bytes that it may write, beside [`WRITTEN_PER_BYTE`] for each byte of the conversation.
const WRITTEN: usize = 1 << 20;
const WRITTEN_PER_BYTE: usize = 16;
/// The most that a single step may fill up to, in spaces or entries.
const MOST_WIDTH: usize = 1 << 12;

/// The name of a template inside its environment: none that asks for escaping.
const NAME: &str = "chat";

/// A template that was parsed.
#[derive(Debug)]
pub(super) struct Template {
    source: String,
    environment: Environment<'static>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line.
    pub(super) fn parse(source: &str) -> Result<Self> {
        if source.len() > MOST_BYTES {
            let rule = format!("it must have at most {MOST_BYTES} bytes, has {}", source.len());
            return Err(Error::Template { line: 1, rule });
        }
        contained(|| {
            let mut environment = environment()?;
            // Jinja's line feeds.
            let source = source.replace("\r\n", "\n").replace('\r', "\n");
            environment.add_template_owned(NAME, without_generation(&source))?;
            Ok(Self { source, environment })
        })
    }

    /// Its text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Runs it on variables that hold so many bytes of conversation; `now` is what `strftime_now` takes for now.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line and what went wrong there.
    pub(super) fn render(&self, variables: Value, bytes: usize, now: SystemTime) -> Result<String> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * bytes as u64));
        environment.add_function("strftime_now", move |format: &str| strftime(now, format));
        let mut written = Bounded { bytes: Vec::new(), left: WRITTEN + WRITTEN_PER_BYTE * bytes };
        contained(|| {
            let template = environment.get_template(NAME)?;
            template.render_captured_to(variables, &mut written).map(|_| ())
        })?;
        String::from_utf8(written.bytes).map_err(|error| refused(1, &error))
    }
}

/// The environment of `transformers.utils.chat_template_utils`, in debug mode, in which errors name what is undefined.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_debug(true);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    for (name, filter) in [
        ("batch", Value::from_function(filters::batch)),
        ("indent", Value::from_function(filters::indent)),
        ("slice", Value::from_function(filters::slice)),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            check_widths(&args)?;
            filter.call(state, &args)
        });
    }
    environment.add_filter("format", |state: &mut State, format: &Value, args: Rest<_>| {
        check_format(format.as_str().unwrap_or_default())?;
        filters::format(state, format, args)
    });
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, _> {
        Err(invalid(format!("it refuses the conversation: {message}")))
    });
    Ok(environment)
}

/// `{% generation %}` tells a trainer what the model said and is no more than a scope to anyone else.
fn without_generation(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += "{%";
        let tag = part.split("%}").next().unwrap_or_default();
        let name = tag.trim_matches(|c: char| c.is_ascii_whitespace() || "+-".contains(c));
        text += &match name {
            "generation" => part.replacen("generation", "with", 1),
            "endgeneration" => part.replacen("endgeneration", "endwith", 1),
            _ => part.to_owned(),
        };
    }
    text
}

/// Python's methods: those of the crate, and those of strings that it lacks.
fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    match (value.as_str(), name) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        (Some(text), "rsplit") => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            Ok(rsplit(text, separator, most).into_iter().collect())
        }
        (Some(text), "format") => {
            check_format(text)?;
            unknown_method_callback(state, value, name, args)
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// `str.rsplit`: at most so many cuts, from the right; without a separator at white space.
fn rsplit<'a>(text: &'a str, separator: Option<&str>, most: usize) -> Vec<&'a str> {
    let mut parts: Vec<_> = match separator {
        Some(separator) => text.rsplitn(most.saturating_add(1), separator).collect(),
        None => {
            let mut rest = text.trim_end();
            let word = || {
                let (left, word) = rest.rsplit_once(char::is_whitespace).unwrap_or(("", rest));
                rest = left.trim_end();
                (!word.is_empty()).then_some(word)
            };
            let mut parts: Vec<_> = iter::from_fn(word).take(most).collect();
            parts.extend((!rest.is_empty()).then_some(rest));
            parts
        }
    };
    parts.reverse();
    parts
}

/// Refuses numbers, keyword arguments among them, of what would be filled up in a single step.
fn check_widths(args: &[Value]) -> Result<(), minijinja::Error> {
    for arg in args {
        if arg.is_kwargs() {
            let values = arg.try_iter()?.map(|key| arg.get_item(&key));
            check_widths(&values.collect::<Result<Vec<_>, _>>()?)?;
        }
        if let Some(width) = arg.as_usize().filter(|width| *width > MOST_WIDTH) {
            return Err(invalid(format!("a width of {width} is too large")));
        }
    }
    Ok(())
}

/// The same for the numbers in a format.
fn check_format(format: &str) -> Result<(), minijinja::Error> {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter_map(|it| it.parse().ok());
    check_widths(&numbers.map(|width: usize| width.into()).collect::<Vec<_>>())
}

/// `json.dumps`, without escapes of what is not ASCII unless they are asked for.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(invalid("what is undefined has no JSON"));
    }
    let mut json = serde_json::to_value(value).map_err(invalid)?;
    if sorted {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let written = match (indent, separators.as_deref()) {
        (None, None) => {
            let line = OneLine { comma: ", ", colon: ": " };
            json.serialize(&mut Serializer::with_formatter(&mut bytes, line))
        }
        (None, Some([comma, colon])) => {
            let line = OneLine { comma, colon };
            json.serialize(&mut Serializer::with_formatter(&mut bytes, line))
        }
        (Some(indent), None) => {
            check_widths(&[indent.into()])?;
            let spaces = " ".repeat(indent);
            let lines = PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut Serializer::with_formatter(&mut bytes, lines))
        }
        _ => return Err(invalid("`separators` are two texts, and go without `indent`")),
    };
    written.map_err(invalid)?;
    let text = String::from_utf8_lossy(&bytes);
    if !ascii {
        return Ok(text.into_owned().into());
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // Sentinels stay what they are.
        if c.is_ascii() || c >= SENTINELS {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        }
    }
    Ok(escaped.into())
}

/// JSON on one line: Python has a space after each comma and colon.
struct OneLine<'a> {
    comma: &'a str,
    colon: &'a str,
}

impl Formatter for OneLine<'_> {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { self.comma.as_bytes() })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { self.comma.as_bytes() })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.colon.as_bytes())
    }
}

/// The date and time in UTC as C's `strftime` writes them.
fn strftime(now: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    let items = StrftimeItems::new(format)
        .parse()
        .map_err(|_| invalid(format!("strftime_now does not know a directive of `{format}`")))?;
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let time =
        i64::try_from(seconds).ok().and_then(|time| DateTime::<Utc>::from_timestamp(time, 0));
    let time = time.ok_or_else(|| invalid("the clock is beyond the calendar"))?;
    Ok(time.format_with_items(items.iter()).to_string())
}

/// What a template writes, as far as it may.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls the engine; its errors and its panics are those of the template.
fn contained<T: Send>(call: impl FnOnce() -> Result<T, minijinja::Error> + Send) -> Result<T> {
    // An error holds what it is about, nested as that may be.
    let call = || contain(|| call().map_err(|error| told(&error)));
    // Browsers have one stack.
    let called = if cfg!(target_family = "wasm") {
        call()
    } else {
        thread::scope(|scope| {
            let engine = thread::Builder::new().stack_size(STACK);
            let joined =
                engine.spawn_scoped(scope, call).map_err(|error| error.to_string())?.join();
            joined.unwrap_or_else(|panic| resume_unwind(panic))
        })
    };
    called.unwrap_or_else(|reason| Err(refused(1, &reason)))
}

fn told(error: &minijinja::Error) -> Error {
    let line = error.line().unwrap_or(1);
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => refused(line, &"it takes too many steps: a loop without end?"),
        (ErrorKind::WriteFailure, _) => refused(line, &"it writes too much: a loop without end?"),
        (_, Some(detail)) => refused(line, &detail),
        (kind, None) => refused(line, &kind),
    }
}

fn refused(line: usize, rule: &dyn Display) -> Error {
    Error::Template { line, rule: printable(&rule.to_string(), 300) }
}

fn invalid(detail: impl Display) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, detail.to_string())
}
