//! The template language of plots and phrases.
//!
//! | Written | Means |
//! |---|---|
//! | `{toy}` | a word of the class `toy`: drawn where it stands first, the same ever after |
//! | `{toy2}` | another word of that class |
//! | `{fruit.s}` | a form of the word (here its plural) |
//! | `{Toy}`, `{friend.He}` | with a capital |
//! | `{he}`, `{him}`, `{his}` | the hero's pronouns, short for `{hero.he}` and so on |
//! | `[a\|b\|2:c]` | one of these, the last twice as likely as each other |
//! | `<glad>` | the phrase of that name |
//! | `a` | the article, `an` before a vowel |

use super::cast::Hero;
use super::lexicon::{Lexicon, weighted};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Slot { slot: usize, form: usize, capital: bool },
    Choice(Vec<(u32, Vec<Node>)>),
}

/// A place that one word fills for the whole story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: String,
    /// Where its class is in the lexicon.
    pub(super) class: usize,
    /// The forms that the plot shows. Words that differ in no shown form are one choice, or a story
    /// would hold bits that nobody can see.
    pub(super) shown: Vec<usize>,
}

/// Reads templates against a lexicon and collects their slots.
pub(super) struct Parser<'a> {
    lexicon: &'a Lexicon,
    hero: Hero,
    pub(super) slots: Vec<Slot>,
}

/// Phrases may hold phrases, this deep.
const DEPTH: usize = 8;

impl<'a> Parser<'a> {
    /// The hero's slot is always the first.
    pub(super) fn new(lexicon: &'a Lexicon, hero: Hero) -> Result<Self, String> {
        let mut parser = Self { lexicon, hero, slots: Vec::new() };
        parser.slot("hero")?;
        Ok(parser)
    }

    /// Reads a whole template; says what is wrong and where.
    pub(super) fn parse(&mut self, template: &str) -> Result<Vec<Node>, String> {
        self.parse_at(template, 0)
    }

    fn parse_at(&mut self, template: &str, depth: usize) -> Result<Vec<Node>, String> {
        if depth > DEPTH {
            return Err(format!("phrases nested too deep: {template}"));
        }
        let mut rest = template;
        let nodes = self.sequence(&mut rest, depth)?;
        if rest.is_empty() { Ok(nodes) } else { Err(format!("a stray bracket before: {rest}")) }
    }

    /// Reads up to the end, or up to a `|` or `]` that is left in `rest`.
    fn sequence(&mut self, rest: &mut &str, depth: usize) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        while let Some(at) = rest.find(['[', ']', '|', '{', '}', '<', '>']) {
            if at > 0 {
                nodes.push(Node::Text(rest[..at].to_owned()));
                *rest = &rest[at..];
            }
            match rest.as_bytes()[0] {
                b'[' => nodes.push(self.choice(rest, depth)?),
                b'{' => nodes.push(self.reference(enclosed(rest, '}')?)?),
                b'<' => {
                    let name = enclosed(rest, '>')?;
                    let phrase = self.lexicon.phrase(name);
                    let phrase = phrase.ok_or_else(|| format!("unknown phrase <{name}>"))?;
                    nodes.extend(self.parse_at(phrase, depth + 1)?);
                }
                b'|' | b']' => return Ok(nodes),
                _ => return Err(format!("a stray bracket: {rest}")),
            }
        }
        if !rest.is_empty() {
            nodes.push(Node::Text((*rest).to_owned()));
            *rest = "";
        }
        Ok(nodes)
    }

    fn choice(&mut self, rest: &mut &str, depth: usize) -> Result<Node, String> {
        let start = *rest;
        let mut branches = Vec::new();
        while !rest.starts_with(']') {
            // Past `[` or `|`.
            let (weight, branch) = weighted(&rest[1..]);
            // A colon further on belongs to the text, or to an inner choice.
            *rest = branch;
            branches.push((weight, self.sequence(rest, depth)?));
            if rest.is_empty() {
                return Err(format!("an open [: {start}"));
            }
        }
        *rest = &rest[1..];
        Ok(Node::Choice(branches))
    }

    /// Reads the inside of `{slot.form}`.
    fn reference(&mut self, inside: &str) -> Result<Node, String> {
        let lower = inside.to_ascii_lowercase();
        let capital = inside.chars().any(|c| c.is_ascii_uppercase());
        let (name, form) = match lower.as_str() {
            "he" | "him" | "his" => ("hero", lower.as_str()),
            _ => lower.split_once('.').unwrap_or((&lower, "")),
        };
        let slot = self.slot(name)?;
        let class = &self.lexicon.classes[self.slots[slot].class];
        let form = class.forms.iter().position(|f| f == form);
        let form = form.ok_or_else(|| format!("{{{inside}}}: no such form"))?;
        if !self.slots[slot].shown.contains(&form) {
            self.slots[slot].shown.push(form);
        }
        Ok(Node::Slot { slot, form, capital })
    }

    fn slot(&mut self, name: &str) -> Result<usize, String> {
        if let Some(slot) = self.slots.iter().position(|slot| slot.name == name) {
            return Ok(slot);
        }
        let class = self.hero.class_of(name.trim_end_matches(|c: char| c.is_ascii_digit()));
        let class = self.lexicon.class(&class).ok_or_else(|| format!("unknown slot {{{name}}}"))?;
        self.slots.push(Slot { name: name.to_owned(), class, shown: Vec::new() });
        Ok(self.slots.len() - 1)
    }
}

/// Takes `{…}` or `<…>` off the front and returns what is inside.
fn enclosed<'t>(rest: &mut &'t str, close: char) -> Result<&'t str, String> {
    let end = rest.find(close).ok_or_else(|| format!("no {close}: {rest}"))?;
    let inside = &rest[1..end];
    *rest = &rest[end + 1..];
    Ok(inside)
}
