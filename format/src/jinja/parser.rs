//! Tokens to a tree.

use std::rc::Rc;

use super::Fault;
use super::lexer::Token;
use super::syntax::{Expression, For, Id, Kind, Macro, Statement, Target, Template};
use super::text::Text;

/// The deepest that tags and brackets may be nested.
const DEEPEST: usize = 64;

pub(super) type Result<T> = std::result::Result<T, Fault>;

pub(super) fn parse(tokens: Vec<(Token, usize)>) -> Result<Template> {
    let template = Template { body: Vec::new(), expressions: Vec::new(), macros: Vec::new() };
    let mut parser = Parser { tokens, at: 0, depth: 0, template };
    let (body, _) = parser.body(&[])?;
    Ok(Template { body, ..parser.template })
}

pub(super) struct Parser {
    pub(super) tokens: Vec<(Token, usize)>,
    pub(super) at: usize,
    depth: usize,
    template: Template,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |&(_, line)| line)
    }

    pub(super) fn fault<T>(&self, rule: impl Into<String>) -> Result<T> {
        Err(Fault::new(self.line(), rule))
    }

    /// Whether the next token is this one, which is then taken.
    fn take(&mut self, token: &Token) -> bool {
        let there = self.peek() == Some(token);
        self.at += usize::from(there);
        there
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub(super) fn take_operator(&mut self, operator: &str) -> bool {
        let there = self.is_operator(operator);
        self.at += usize::from(there);
        there
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn take_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        self.at += usize::from(there);
        there
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.take_operator(operator) {
            Ok(())
        } else {
            self.unexpected(&format!("`{operator}`"))
        }
    }

    fn expect_end_of_tag(&mut self) -> Result<()> {
        if self.take(&Token::EndTag) { Ok(()) } else { self.unexpected("the end of the tag") }
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(Token::Data(_)) => "text".to_owned(),
            Some(Token::BeginOutput) => "`{{`".to_owned(),
            Some(Token::EndOutput) => "`}}`".to_owned(),
            Some(Token::BeginTag) => "`{%`".to_owned(),
            Some(Token::EndTag) => "`%}`".to_owned(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Text(text)) => format!("{text:?}"),
            Some(Token::Integer(number)) => number.to_string(),
            Some(Token::Float(number)) => number.to_string(),
            Some(Token::Operator(operator)) => format!("`{operator}`"),
        };
        self.fault(format!("there should be {expected}, is {found}"))
    }

    pub(super) fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self
                .fault(format!("tags and brackets may be nested {DEEPEST} deep, are deeper"));
        }
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    pub(super) fn add(&mut self, expression: Expression) -> Id {
        let expressions = &mut self.template.expressions;
        expressions.push(expression);
        // A template has at most a megabyte.
        (expressions.len() - 1) as Id
    }

    /// Statements up to a tag of one of these names, which is taken but for its own contents; all of them for no names.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str)> {
        self.nested(|parser| {
            let mut statements = Vec::new();
            loop {
                let line = parser.line();
                let Some((token, _)) = parser.tokens.get(parser.at) else {
                    return match ends {
                        [] => Ok((statements, "")),
                        _ => parser.fault(format!("`{}` is missing", ends.join("` or `"))),
                    };
                };
                let kind = match token {
                    Token::Data(text) => {
                        let text = Rc::new(Text::written(text.as_str()));
                        parser.at += 1;
                        Kind::Data(text)
                    }
                    Token::BeginOutput => {
                        parser.at += 1;
                        let output = parser.tuple(true)?;
                        if !parser.take(&Token::EndOutput) {
                            return parser.unexpected("`}}`");
                        }
                        Kind::Output(output)
                    }
                    _ => {
                        parser.at += 1;
                        let tag = parser.name()?;
                        if let Some(end) = ends.iter().find(|end| **end == tag) {
                            return Ok((statements, end));
                        }
                        parser.statement(&tag)?
                    }
                };
                statements.push(Statement { line, kind });
            }
        })
    }

    /// A body that ends with a tag of its own and nothing else in it.
    fn closed(&mut self, end: &'static str) -> Result<Vec<Statement>> {
        self.expect_end_of_tag()?;
        let (body, _) = self.body(&[end])?;
        self.expect_end_of_tag()?;
        Ok(body)
    }

    fn statement(&mut self, tag: &str) -> Result<Kind> {
        match tag {
            "if" => self.if_tag(),
            "for" => self.for_tag(),
            "set" => self.set_tag(),
            "macro" => self.macro_tag(),
            "with" => self.with_tag(),
            "filter" => {
                let mut filters = vec![self.filter()?];
                while self.take_operator("|") {
                    filters.push(self.filter()?);
                }
                Ok(Kind::FilterBlock(filters, self.closed("endfilter")?))
            }
            // transformers marks what the assistant said with it; the text is the same.
            "generation" => Ok(Kind::Plain(self.closed("endgeneration")?)),
            "break" | "continue" => {
                self.expect_end_of_tag()?;
                Ok(if tag == "break" { Kind::Break } else { Kind::Continue })
            }
            _ => self.fault(format!("there is no tag `{tag}` here")),
        }
    }

    fn if_tag(&mut self) -> Result<Kind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(true)?;
            self.expect_end_of_tag()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end {
                "elif" => {}
                "else" => return Ok(Kind::If(branches, self.closed("endif")?)),
                _ => {
                    self.expect_end_of_tag()?;
                    return Ok(Kind::If(branches, Vec::new()));
                }
            }
        }
    }

    fn for_tag(&mut self) -> Result<Kind> {
        let target = self.target()?;
        if !self.take_name("in") {
            return self.unexpected("`in`");
        }
        // Not a conditional expression: an `if` here chooses items.
        let over = self.tuple(false)?;
        let condition = if self.take_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return self.fault("loops cannot be recursive here");
        }
        self.expect_end_of_tag()?;
        let (body, end) = self.body(&["else", "endfor"])?;
        let or_else = if end == "else" {
            self.closed("endfor")?
        } else {
            self.expect_end_of_tag()?;
            Vec::new()
        };
        Ok(Kind::For(Box::new(For { target, over, condition, body, or_else })))
    }

    fn set_tag(&mut self) -> Result<Kind> {
        let target = self.target()?;
        if self.take_operator("=") {
            let value = self.tuple(true)?;
            self.expect_end_of_tag()?;
            return Ok(Kind::Set(target, value));
        }
        let mut filters = Vec::new();
        while self.take_operator("|") {
            filters.push(self.filter()?);
        }
        Ok(Kind::SetBlock(target, filters, self.closed("endset")?))
    }

    fn with_tag(&mut self) -> Result<Kind> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::EndTag)) {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target_name()?;
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Kind::With(values, self.closed("endwith")?))
    }

    fn macro_tag(&mut self) -> Result<Kind> {
        let name = self.name()?;
        self.expect_operator("(")?;
        let mut parameters = Vec::new();
        while !self.take_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let parameter = self.name()?;
            let default = if self.take_operator("=") { Some(self.expression()?) } else { None };
            parameters.push((parameter, default));
        }
        let body = self.closed("endmacro")?;
        self.template.macros.push(Macro { name, parameters, body });
        Ok(Kind::Macro(self.template.macros.len() - 1))
    }

    fn target_name(&mut self) -> Result<Target> {
        let name = self.name()?;
        if self.take_operator(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    fn target(&mut self) -> Result<Target> {
        let closed = self.take_operator("(");
        let first = self.target_name()?;
        let target = match first {
            Target::Name(first) if self.is_operator(",") => {
                let mut names = vec![first];
                while self.take_operator(",") {
                    names.push(self.name()?);
                }
                Target::Names(names)
            }
            single => single,
        };
        if closed {
            self.expect_operator(")")?;
        }
        Ok(target)
    }
}
