//! Words by semantic class, each with its forms, read from `words.txt`.
//!
//! A line is `class(form form) = word/form/form, word/form/form`, or `class = word, word`; `2:word` is
//! twice as likely. A line `<phrase> = template` names a piece of template. `#` starts a remark.

/// The forms of a person, in the order of their columns.
pub(super) const PERSON: [&str; 5] = ["", "kind", "he", "him", "his"];

/// All classes and phrases.
#[derive(Debug, Default)]
pub(super) struct Lexicon {
    pub(super) classes: Vec<Class>,
    pub(super) phrases: Vec<(String, String)>,
}

/// Words that may stand in the same place.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) name: String,
    /// Names of the columns of each entry; the first is the word itself, named "".
    pub(super) forms: Vec<String>,
    pub(super) entries: Vec<Entry>,
}

/// A word and its forms.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) weight: u32,
    pub(super) forms: Vec<String>,
}

impl Lexicon {
    /// Reads the text; names the line that does not fit.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut lexicon = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (head, body) = line.split_once(" = ").ok_or_else(|| format!("no ` = `: {line}"))?;
            if let Some(name) = head.strip_prefix('<').and_then(|h| h.strip_suffix('>')) {
                lexicon.phrases.push((name.to_owned(), body.to_owned()));
            } else {
                lexicon.classes.push(Class::parse(head, body)?);
            }
        }
        Ok(lexicon)
    }

    /// Where the class of this name is.
    pub(super) fn class(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    /// The template that a phrase stands for.
    pub(super) fn phrase(&self, name: &str) -> Option<&str> {
        self.phrases.iter().find(|(n, _)| n == name).map(|(_, template)| template.as_str())
    }

    /// The words of a class; empty if there is no such class.
    pub(super) fn words(&self, name: &str) -> Vec<String> {
        let entries = self.class(name).map_or(&[][..], |i| &self.classes[i].entries);
        entries.iter().filter_map(|entry| entry.forms.first().cloned()).collect()
    }
}

impl Class {
    fn parse(head: &str, body: &str) -> Result<Self, String> {
        let (name, more) = match head.split_once('(') {
            Some((name, more)) => (name, more.trim_end_matches(')')),
            None => (head, ""),
        };
        let forms: Vec<String> =
            std::iter::once("").chain(more.split_whitespace()).map(str::to_owned).collect();
        let entries = body.split(',').map(|e| Entry::parse(e.trim())).collect::<Vec<_>>();
        match entries.iter().find(|entry| entry.forms.len() != forms.len()) {
            Some(odd) => Err(format!("{name}: {odd:?} has not the forms {forms:?}")),
            None => Ok(Self { name: name.to_owned(), forms, entries }),
        }
    }
}

impl Entry {
    fn parse(text: &str) -> Self {
        let (weight, text) = weighted(text);
        Self { weight, forms: text.split('/').map(str::to_owned).collect() }
    }
}

/// Splits `2:text` into its weight and the rest; the weight is 1 where none is written.
pub(super) fn weighted(text: &str) -> (u32, &str) {
    match text.split_once(':') {
        Some((weight, rest)) if !weight.is_empty() && weight.len() < 4 => match weight.parse() {
            Ok(weight) => (weight, rest),
            Err(_) => (1, text),
        },
        _ => (1, text),
    }
}
