//! What a template computes with.

use std::cell::RefCell;
use std::rc::Rc;

use super::text::Text;

/// The deepest that lists and dictionaries may be nested: they are dropped by recursion.
const DEEPEST: u32 = 64;

/// A value of a template. Nothing but a namespace changes once it is made.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A name or key that is not there, as it was asked for.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Rc<Text>),
    List(Rc<List>),
    Dict(Rc<Dict>),
    Namespace(Rc<Namespace>),
    Macro(usize),
    Function(&'static str),
    /// `loop`
    Loop(Rc<Loop>),
}

#[derive(Debug)]
pub(crate) struct List {
    pub(super) items: Vec<Value>,
    /// Python's tuples are lists that look different.
    pub(super) is_tuple: bool,
    depth: u32,
}

#[derive(Debug)]
pub(crate) struct Dict {
    /// In the order in which they were made; no key twice.
    pub(super) entries: Vec<(Value, Value)>,
    depth: u32,
}

/// It may hold anything but another namespace, so no chain of them can close.
#[derive(Debug, Default)]
pub(crate) struct Namespace(pub(super) RefCell<Vec<(String, Value)>>);

#[derive(Debug)]
pub(crate) struct Loop {
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index: usize,
    pub(super) depth: usize,
}

impl Value {
    pub(crate) fn text(text: Text) -> Self {
        Self::Text(Rc::new(text))
    }

    /// Text of the template, or of whoever calls it.
    pub(crate) fn written(text: impl Into<String>) -> Self {
        Self::text(Text::written(text))
    }

    /// Of a name only so much is kept as an error shows: a list may hold many.
    pub(super) fn undefined(name: &str) -> Self {
        let shown = name.char_indices().nth(60).map_or(name, |(end, _)| &name[..end]);
        Self::Undefined(shown.into())
    }

    /// # Errors
    ///
    /// Items nested too deep.
    pub(crate) fn list(items: Vec<Self>) -> Result<Self, String> {
        let depth = deeper(items.iter())?;
        Ok(Self::List(Rc::new(List { items, is_tuple: false, depth })))
    }

    /// # Errors
    ///
    /// Items nested too deep.
    pub(super) fn tuple(items: Vec<Self>) -> Result<Self, String> {
        let depth = deeper(items.iter())?;
        Ok(Self::List(Rc::new(List { items, is_tuple: true, depth })))
    }

    /// # Errors
    ///
    /// Values nested too deep.
    pub(crate) fn dict(entries: Vec<(Self, Self)>) -> Result<Self, String> {
        let depth = deeper(entries.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Self::Dict(Rc::new(Dict { entries, depth })))
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(list) => list.depth,
            Self::Dict(dict) => dict.depth,
            // In a list it could come to hold itself.
            Self::Namespace(_) | Self::Loop(_) => DEEPEST,
            _ => 0,
        }
    }

    /// Whether a namespace may hold it.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::Namespace(_) | Self::Loop(_))
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => text.len() > 0,
            Self::List(list) => !list.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Namespace(_) | Self::Macro(_) | Self::Function(_) | Self::Loop(_) => true,
        }
    }

    /// What Python calls its kind.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined",
            Self::None => "none",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Namespace(_) => "a namespace",
            Self::Macro(_) | Self::Function(_) => "a function",
            Self::Loop(_) => "`loop`",
        }
    }

    /// How an error names it.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Undefined(name) => format!("`{name}` (undefined)"),
            other => other.kind().to_owned(),
        }
    }

    /// A boolean counts as a number, as in Python.
    pub(super) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_integer().map(|value| value as f64),
        }
    }

    pub(super) fn as_text(&self) -> Option<&Rc<Text>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn deeper<'a>(values: impl Iterator<Item = &'a Value>) -> Result<u32, String> {
    let deepest = values.map(Value::depth).max().unwrap_or(0);
    if deepest >= DEEPEST {
        return Err(format!("lists must be nested at most {DEEPEST} deep, and hold no namespace"));
    }
    Ok(deepest + 1)
}
