//! What a template is made of.
//!
//! Expressions lie in one list and name each other by number, so that a chain of a hundred thousand additions is neither
//! built nor dropped by recursion.

use std::rc::Rc;

use super::text::Text;
use super::value::Value;

/// An expression's place in [`Template::expressions`].
pub(super) type Id = u32;

#[derive(Debug)]
pub(super) struct Template {
    pub(super) body: Vec<Statement>,
    pub(super) expressions: Vec<Expression>,
    pub(super) macros: Vec<Macro>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    /// Names, and what they are if not given.
    pub(super) parameters: Vec<(String, Option<Id>)>,
    pub(super) body: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Data(Rc<Text>),
    Output(Id),
    /// Conditions with their bodies, then what is left.
    If(Vec<(Id, Vec<Statement>)>, Vec<Statement>),
    For(Box<For>),
    Set(Target, Id),
    /// What the body writes, through filters.
    SetBlock(Target, Vec<Filter>, Vec<Statement>),
    FilterBlock(Vec<Filter>, Vec<Statement>),
    With(Vec<(Target, Id)>, Vec<Statement>),
    /// A body in the same scope.
    Plain(Vec<Statement>),
    Macro(usize),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Id,
    pub(super) condition: Option<Id>,
    pub(super) body: Vec<Statement>,
    /// For nothing to go over.
    pub(super) or_else: Vec<Statement>,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    /// `namespace.name`
    Attribute(String, String),
    Names(Vec<String>),
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) arguments: Arguments,
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Id>,
    pub(super) named: Vec<(String, Id)>,
}

#[derive(Debug)]
pub(super) enum Expression {
    Constant(Value),
    Name(String),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Attribute(Id, String),
    Item(Id, Id),
    Slice(Id, [Option<Id>; 3]),
    Call(Id, Arguments),
    Filter(Id, Filter),
    /// The last says whether `not` stands before it.
    Test(Id, Filter, bool),
    Not(Id),
    Negative(Id),
    Positive(Id),
    And(Id, Id),
    Or(Id, Id),
    Binary(&'static str, Id, Id),
    /// `a < b == c`
    Compare(Id, Vec<(Comparison, Id)>),
    /// Then, condition, else.
    Conditional(Id, Id, Option<Id>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
