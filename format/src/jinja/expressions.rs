//! Expressions, by the precedence of Jinja's own grammar.

use super::lexer::Token;
use super::parser::{Parser, Result};
use super::syntax::{Arguments, Comparison, Expression, Filter, Id};
use super::value::Value;

impl Parser {
    /// An expression, or several between commas, which are a tuple; conditional ones if so.
    pub(super) fn tuple(&mut self, conditional: bool) -> Result<Id> {
        let one = |parser: &mut Self| if conditional { parser.expression() } else { parser.or() };
        let first = one(self)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_operator(",") {
            let ended = matches!(self.peek(), Some(Token::EndTag | Token::EndOutput));
            if ended || self.is_operator(")") {
                break;
            }
            items.push(one(self)?);
        }
        Ok(self.add(Expression::Tuple(items)))
    }

    pub(super) fn expression(&mut self) -> Result<Id> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let condition = parser.or()?;
                let or_else =
                    if parser.take_name("else") { Some(parser.expression()?) } else { None };
                value = parser.add(Expression::Conditional(value, condition, or_else));
            }
            Ok(value)
        })
    }

    pub(super) fn or(&mut self) -> Result<Id> {
        let mut left = self.and()?;
        while self.take_name("or") {
            let right = self.and()?;
            left = self.add(Expression::Or(left, right));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Id> {
        let mut left = self.not()?;
        while self.take_name("and") {
            let right = self.not()?;
            left = self.add(Expression::And(left, right));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Id> {
        if self.take_name("not") {
            let operand = self.nested(Self::not)?;
            return Ok(self.add(Expression::Not(operand)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Id> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Operator("==")) => Comparison::Equal,
                Some(Token::Operator("!=")) => Comparison::Unequal,
                Some(Token::Operator("<")) => Comparison::Less,
                Some(Token::Operator("<=")) => Comparison::LessOrEqual,
                Some(Token::Operator(">")) => Comparison::Greater,
                Some(Token::Operator(">=")) => Comparison::GreaterOrEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" => {
                    let next = self.tokens.get(self.at + 1).map(|(token, _)| token);
                    if !matches!(next, Some(Token::Name(name)) if name == "in") {
                        break;
                    }
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { self.add(Expression::Compare(first, rest)) })
    }

    /// Operators of one rank, from the left.
    fn chain(
        &mut self,
        operators: &[&'static str],
        operand: impl Fn(&mut Self) -> Result<Id>,
    ) -> Result<Id> {
        let mut left = operand(self)?;
        while let Some(&operator) = operators.iter().find(|operator| self.is_operator(operator)) {
            self.at += 1;
            let right = operand(self)?;
            left = self.add(Expression::Binary(operator, left, right));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Id> {
        self.chain(&["+", "-"], |parser| {
            parser.chain(&["~"], |parser| {
                parser.chain(&["*", "/", "//", "%"], |parser| {
                    parser.chain(&["**"], |parser| parser.unary(true))
                })
            })
        })
    }

    fn unary(&mut self, with_filters: bool) -> Result<Id> {
        let operand = if self.take_operator("-") {
            let operand = self.nested(|parser| parser.unary(false))?;
            self.add(Expression::Negative(operand))
        } else if self.take_operator("+") {
            let operand = self.nested(|parser| parser.unary(false))?;
            self.add(Expression::Positive(operand))
        } else {
            let primary = self.primary()?;
            self.postfix(primary)?
        };
        if with_filters { self.filters(operand) } else { Ok(operand) }
    }

    fn primary(&mut self) -> Result<Id> {
        let Some(token) = self.peek().cloned() else { return self.unexpected("a value") };
        self.at += 1;
        let constant = match token {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Value::Bool(true),
                "false" | "False" => Value::Bool(false),
                "none" | "None" => Value::None,
                _ => return Ok(self.add(Expression::Name(name))),
            },
            Token::Integer(number) => Value::Integer(number),
            Token::Float(number) => Value::Float(number),
            Token::Text(mut text) => {
                // Strings beside each other are one.
                while let Some(Token::Text(next)) = self.peek() {
                    text.push_str(next);
                    self.at += 1;
                }
                Value::written(text)
            }
            Token::Operator("(") => {
                if self.take_operator(")") {
                    return Ok(self.add(Expression::Tuple(Vec::new())));
                }
                let inner = self.nested(|parser| parser.tuple(true))?;
                self.expect_operator(")")?;
                return Ok(inner);
            }
            Token::Operator("[") => {
                let mut items = Vec::new();
                while !self.take_operator("]") {
                    if !items.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                return Ok(self.add(Expression::List(items)));
            }
            Token::Operator("{") => {
                let mut entries = Vec::new();
                while !self.take_operator("}") {
                    if !entries.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_operator(":")?;
                    entries.push((key, self.expression()?));
                }
                return Ok(self.add(Expression::Dict(entries)));
            }
            _ => {
                self.at -= 1;
                return self.unexpected("a value");
            }
        };
        Ok(self.add(Expression::Constant(constant)))
    }

    fn postfix(&mut self, mut value: Id) -> Result<Id> {
        loop {
            if self.take_operator(".") {
                value = match self.peek() {
                    Some(&Token::Integer(index)) => {
                        self.at += 1;
                        let index = self.add(Expression::Constant(Value::Integer(index)));
                        self.add(Expression::Item(value, index))
                    }
                    _ => {
                        let name = self.name()?;
                        self.add(Expression::Attribute(value, name))
                    }
                };
            } else if self.take_operator("[") {
                value = self.subscript(value)?;
            } else if self.take_operator("(") {
                let arguments = self.arguments()?;
                value = self.add(Expression::Call(value, arguments));
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Id) -> Result<Id> {
        let mut parts = [None; 3];
        let mut part = 0;
        loop {
            if self.take_operator("]") {
                break;
            }
            if self.take_operator(":") {
                part += 1;
                if part > 2 {
                    return self.fault("a slice has at most three parts");
                }
            } else if parts[part].is_some() {
                return self.unexpected("`]`");
            } else {
                parts[part] = Some(self.expression()?);
            }
        }
        match (part, parts[0]) {
            (0, Some(index)) => Ok(self.add(Expression::Item(value, index))),
            (0, None) => self.fault("there is nothing between `[` and `]`"),
            _ => Ok(self.add(Expression::Slice(value, parts))),
        }
    }

    /// The arguments of a call, after its `(`.
    fn arguments(&mut self) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.take_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.take_operator(")") {
                    break;
                }
            }
            first = false;
            let next = self.tokens.get(self.at + 1).map(|(token, _)| token);
            match self.peek() {
                Some(Token::Name(name)) if next == Some(&Token::Operator("=")) => {
                    let name = name.clone();
                    self.at += 2;
                    let value = self.expression()?;
                    arguments.named.push((name, value));
                }
                Some(Token::Operator("*" | "**")) => {
                    return self.fault("arguments cannot be unpacked here");
                }
                _ => {
                    let value = self.expression()?;
                    arguments.positional.push(value);
                }
            }
        }
        Ok(arguments)
    }

    pub(super) fn filter(&mut self) -> Result<Filter> {
        let name = self.name()?;
        let arguments =
            if self.take_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { name, arguments })
    }

    fn filters(&mut self, mut value: Id) -> Result<Id> {
        loop {
            if self.take_operator("|") {
                let filter = self.filter()?;
                value = self.add(Expression::Filter(value, filter));
            } else if self.take_name("is") {
                let negated = self.take_name("not");
                let test = self.test()?;
                value = self.add(Expression::Test(value, test, negated));
            } else if self.take_operator("(") {
                let arguments = self.arguments()?;
                value = self.add(Expression::Call(value, arguments));
            } else {
                return Ok(value);
            }
        }
    }

    /// A test, whose one argument may stand without brackets.
    fn test(&mut self) -> Result<Filter> {
        let name = self.name()?;
        let mut arguments = Arguments::default();
        if self.take_operator("(") {
            arguments = self.arguments()?;
        } else {
            let begins = match self.peek() {
                Some(Token::Name(name)) => {
                    !["else", "or", "and", "is", "if", "in", "not", "recursive"]
                        .contains(&name.as_str())
                }
                Some(Token::Text(_) | Token::Integer(_) | Token::Float(_)) => true,
                Some(Token::Operator(operator)) => ["[", "{"].contains(operator),
                _ => false,
            };
            if begins {
                let primary = self.primary()?;
                arguments.positional.push(self.postfix(primary)?);
            }
        }
        Ok(Filter { name, arguments })
    }
}
