//! A template to tokens, with Jinja's rules of white space: `trim_blocks` takes the newline after a tag,
//! `lstrip_blocks` the spaces before one that begins a line, `-` everything, `+` nothing.

use super::Fault;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
    Data(String),
    /// `{{`
    BeginOutput,
    /// `}}`
    EndOutput,
    /// `{%`
    BeginTag,
    /// `%}`
    EndTag,
    Name(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Operator(&'static str),
}

/// Longest first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

/// Tokens, each with its line, counted from one.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Fault> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    // Jinja drops one newline at the end.
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer =
        Lexer { source: &source, at: 0, line: 1, at_line_start: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.data()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether what was taken last ended a line.
    at_line_start: bool,
    tokens: Vec<(Token, usize)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Takes so many bytes.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.at += bytes;
        self.line += taken.matches('\n').count();
        if !taken.is_empty() {
            self.at_line_start = taken.ends_with('\n');
        }
        taken
    }

    fn take_if(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.take(text.len());
        }
        there
    }

    fn take_space(&mut self) {
        let rest = self.rest();
        self.take(rest.len() - rest.trim_start().len());
    }

    fn fault<T>(&self, rule: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::new(self.line, rule))
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Text up to a tag, and the tag.
    fn data(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let begins = |&(at, _): &(usize, &str)| rest[at + 1..].starts_with(['{', '%', '#']);
        let tag = rest.match_indices('{').find(begins).map(|(at, _)| at);
        let Some(end) = tag else {
            let all = self.take(rest.len());
            self.push(Token::Data(all.to_owned()));
            return Ok(());
        };
        let kind = rest.as_bytes()[end + 1];
        let sign = rest.as_bytes().get(end + 2).copied();
        let mut text = &rest[..end];
        if sign == Some(b'-') {
            text = text.trim_end();
        } else if sign != Some(b'+') && kind != b'{' {
            let line = text.rfind('\n').map(|newline| newline + 1);
            let begins_line = line.is_some() || self.at_line_start;
            let line = line.unwrap_or(0);
            if begins_line && text[line..].trim().is_empty() {
                text = &text[..line];
            }
        }
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
        let signed = matches!(sign, Some(b'-' | b'+'));
        self.take(end + 2 + usize::from(signed));
        match kind {
            b'#' => self.comment(),
            b'{' => {
                self.push(Token::BeginOutput);
                self.expression("}}", Token::EndOutput)
            }
            _ if self.is_tag("raw") => self.raw(),
            _ => {
                self.push(Token::BeginTag);
                self.expression("%}", Token::EndTag)
            }
        }
    }

    /// Whether this tag is one word.
    fn is_tag(&self, word: &str) -> bool {
        let rest = self.rest().trim_start().strip_prefix(word);
        let end = rest.map(|rest| rest.trim_start());
        end.is_some_and(|end| ["%}", "-%}", "+%}"].iter().any(|tag| end.starts_with(tag)))
    }

    fn comment(&mut self) -> Result<(), Fault> {
        let Some(end) = self.rest().find("#}") else {
            return self.fault("a comment `{#` has no end `#}`");
        };
        let comment = self.take(end);
        self.take(2);
        self.after_tag(comment.as_bytes().last().copied());
        Ok(())
    }

    /// The white space that a tag takes with it.
    fn after_tag(&mut self, sign: Option<u8>) {
        match sign {
            Some(b'-') => self.take_space(),
            Some(b'+') => {}
            _ => {
                self.take_if("\n");
            }
        }
    }

    /// `{% raw %}` to `{% endraw %}`.
    fn raw(&mut self) -> Result<(), Fault> {
        let end = self.rest().find("%}").unwrap_or(0);
        let tag = self.take(end);
        self.take(2);
        if tag.ends_with('-') {
            self.take_space();
        }
        let begin = self.at;
        loop {
            let Some(next) = self.rest().find("{%") else {
                return self.fault("`raw` has no `endraw`");
            };
            self.take(next);
            let end = self.at;
            self.take(2);
            let sign = self.rest().bytes().next().filter(|sign| matches!(sign, b'-' | b'+'));
            self.take(usize::from(sign.is_some()));
            if !self.is_tag("endraw") {
                continue;
            }
            let mut text = &self.source[begin..end];
            match sign {
                Some(b'-') => text = text.trim_end(),
                Some(_) => {}
                None => {
                    let line = text.rfind('\n').map_or(0, |newline| newline + 1);
                    if line > 0 && text[line..].trim().is_empty() {
                        text = &text[..line];
                    }
                }
            }
            self.push(Token::Data(text.to_owned()));
            let close = self.rest().find("%}").unwrap_or(0);
            let tag = self.take(close);
            self.take(2);
            self.after_tag(tag.as_bytes().last().copied());
            return Ok(());
        }
    }

    /// The inside of a tag, up to its end.
    fn expression(&mut self, end: &str, token: Token) -> Result<(), Fault> {
        let mut open = Vec::new();
        loop {
            self.take_space();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return self.fault(format!("a tag has no end `{end}`"));
            };
            if open.is_empty() {
                let sign = rest.bytes().next().filter(|sign| matches!(sign, b'-' | b'+'));
                let signed = usize::from(sign.is_some());
                if rest[signed..].starts_with(end) && (sign != Some(b'+') || end == "%}") {
                    self.take(signed + end.len());
                    self.push(token);
                    match (sign, end) {
                        (Some(b'-'), _) => self.take_space(),
                        (None, "%}") => self.after_tag(None),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            if first.is_alphabetic() || first == '_' {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = self.take(end.unwrap_or(rest.len()));
                self.push(Token::Name(name.to_owned()));
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if matches!(first, '\'' | '"') {
                self.string(first)?;
            } else {
                let Some(&operator) =
                    OPERATORS.iter().find(|operator| rest.starts_with(**operator))
                else {
                    return self.fault(format!("the character {first:?} means nothing in a tag"));
                };
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return self.fault(format!("`{operator}` closes nothing"));
                    }
                    _ => {}
                }
                self.take(operator.len());
                self.push(Token::Operator(operator));
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let digits = |text: &str| {
            text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len()
        };
        let mut end = digits(rest);
        let mut is_float = false;
        if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit())
        {
            is_float = true;
            end += 1 + digits(&rest[end + 1..]);
        }
        if let Some(exponent) = rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            if exponent[sign..].starts_with(|c: char| c.is_ascii_digit()) {
                is_float = true;
                end += 1 + sign + digits(&exponent[sign..]);
            }
        }
        let text = self.take(end).replace('_', "");
        let token = if is_float {
            text.parse().ok().filter(|number: &f64| number.is_finite()).map(Token::Float)
        } else {
            text.parse().ok().map(Token::Integer)
        };
        match token {
            Some(token) => self.push(token),
            None => return self.fault(format!("the number {text} is too large")),
        }
        Ok(())
    }

    /// A string between quotation marks, with Python's escapes.
    fn string(&mut self, mark: char) -> Result<(), Fault> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        chars.next();
        loop {
            let Some((at, c)) = chars.next() else {
                return self.fault("a string has no end");
            };
            if c == mark {
                self.push(Token::Text(text));
                self.take(at + 1);
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((_, escape)) = chars.next() else { continue };
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if digits > 0 {
                let number: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                let c = u32::from_str_radix(&number, 16).ok().and_then(char::from_u32);
                match c.filter(|_| number.len() == digits) {
                    Some(c) => text.push(c),
                    None => {
                        return self.fault(format!("`\\{escape}{number}` is no character"));
                    }
                }
                continue;
            }
            match escape {
                '\n' => {}
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'v' => text.push('\x0b'),
                '0' => text.push('\0'),
                '\\' | '\'' | '"' => text.push(escape),
                _ => text.extend(['\\', escape]),
            }
        }
    }
}
