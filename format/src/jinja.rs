//! The part of Jinja that chat templates use, on a machine that cannot be overrun.
//!
//! A template comes with a model and is hostile until proven otherwise. It can only compute a text from what it is
//! given, and everything that it does, a step as well as a byte or an entry that it makes, is paid from one
//! [`Budget`]: a loop without end, a string that doubles until memory is full and a list of a billion numbers all end
//! as an error. Nesting is bounded in the parser, in values and in calls, so the stack cannot be overrun either.
//!
//! The meaning is that of Jinja 3 as `transformers` sets it up: `trim_blocks`, `lstrip_blocks`, the loop controls, the
//! methods of Python's strings, lists and dictionaries, and nothing that changes a value in place. `include`, `extends`,
//! `block`, `call` and recursive loops are refused by name.
//!
//! Every text knows which of its bytes were *given*, that is, come from outside the template ([`Text`]), so that whoever
//! turns the result into tokens can tell a control token of the template from the same characters typed by a user.

mod clock;
mod expressions;
mod filters;
mod functions;
mod lexer;
mod machine;
mod methods;
mod operators;
mod parser;
mod syntax;
mod text;
mod value;
mod writing;

pub(crate) use machine::Input;
pub use text::Text;
pub(crate) use value::Value;

use crate::error::{Error, Result};

/// The largest template, in bytes. The largest published ones have some 20,000.
const MOST_BYTES: usize = 1 << 20;

/// A template that was parsed.
#[derive(Debug)]
pub(crate) struct Template(syntax::Template);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        if source.len() > MOST_BYTES {
            let rule = format!("it must have at most {MOST_BYTES} bytes, has {}", source.len());
            return Err(Error::Template { line: 1, rule });
        }
        let tokens = lexer::tokens(source).map_err(Fault::into_error)?;
        parser::parse(tokens).map(Self).map_err(Fault::into_error)
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line and what went wrong there.
    pub(crate) fn render(&self, input: Input) -> Result<Text> {
        machine::run(&self.0, input).map_err(Fault::into_error)
    }
}

/// What is wrong, and the line that it stands in.
#[derive(Debug)]
struct Fault {
    line: usize,
    rule: String,
}

impl Fault {
    fn new(line: usize, rule: impl Into<String>) -> Self {
        Self { line, rule: rule.into() }
    }

    fn into_error(self) -> Error {
        Error::Template { line: self.line, rule: crate::error::printable(&self.rule, 300) }
    }
}

/// What a template may still do.
#[derive(Debug)]
struct Budget {
    all: u64,
    left: u64,
}

impl Budget {
    fn new(all: u64) -> Self {
        Self { all, left: all }
    }

    /// Pays for steps, bytes or entries, before they are made.
    fn pay(&mut self, cost: usize) -> Result<(), String> {
        let Self { all, left } = self;
        *left = left.checked_sub(cost as u64).ok_or_else(|| {
            format!("it may take {all} steps and bytes, takes more: a loop without end?")
        })?;
        Ok(())
    }
}
