//! `hf://datasets/OWNER/NAME@REVISION/PATH`: which files of the hub are meant.

use std::fmt;
use std::str::FromStr;

use hf_hub::RepoType;

use crate::error::Error;

/// Files of one repository at one revision.
///
/// `hf://OWNER/NAME/PATH` is a file of a model, `hf://datasets/OWNER/NAME/PATH` one of a data set. `@REVISION` behind
/// the name is a branch, tag or commit (a `/` in it is written `%2F`); without it the branch `main` is meant. `*` in
/// the path stands for any characters, `/` included, and no path means all files.
#[derive(Clone, Debug)]
pub struct Address {
    pub(super) kind: RepoType,
    /// `OWNER/NAME`
    pub(super) repository: String,
    pub(super) revision: String,
    /// A path, or a pattern; empty for all files.
    path: String,
}

impl Address {
    /// What every address begins with.
    pub const SCHEME: &str = "hf://";

    /// The path, if the address names one file.
    pub(super) fn single(&self) -> Option<&str> {
        (!self.path.is_empty() && !self.path.contains('*')).then_some(self.path.as_str())
    }

    /// Whether a path of the repository is meant.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.path.is_empty() || matches(&self.path, path)
    }

    /// The full name of a file of the repository.
    pub(super) fn name(&self, path: &str) -> String {
        Self { path: path.to_owned(), ..self.clone() }.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.kind, RepoType::Dataset) { "datasets/" } else { "" };
        write!(f, "{}{kind}{}", Self::SCHEME, self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision.replace('/', "%2F"))?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Address {}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse =
            |rule: &str| Error::HubAddress { address: text.to_owned(), rule: rule.to_owned() };
        let form = "must read hf://OWNER/NAME/FILE or hf://datasets/OWNER/NAME/FILE, with @REVISION behind NAME or not";
        let rest = text.strip_prefix(Self::SCHEME).ok_or_else(|| refuse(form))?;
        let (kind, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (RepoType::Dataset, rest),
            None => (RepoType::Model, rest),
        };
        let mut parts = rest.splitn(3, '/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return Err(refuse(form));
        };
        let path = parts.next().unwrap_or_default();
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let revision = revision.replace("%2F", "/").replace("%2f", "/");
        if !is_name(owner) || !is_name(name) {
            return Err(refuse(form));
        }
        if !revision.split('/').all(is_name) {
            return Err(refuse("the revision must be a branch, a tag or a commit"));
        }
        if !path.is_empty()
            && let Some(rule) = path_fault(path)
        {
            return Err(refuse(rule));
        }
        Ok(Self { kind, repository: format!("{owner}/{name}"), revision, path: path.to_owned() })
    }
}

/// A name that is one part of a URL and of a path, and leads nowhere else.
fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(legal)
}

/// The rule that a path inside a repository breaks.
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    let legal = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !path.split('/').all(legal) || path.contains('\\') {
        return Some("the path must not lead out of the repository, nor have empty parts");
    }
    let odd = |c: char| c.is_control() || c.is_whitespace() || "?#%".contains(c);
    path.contains(odd).then_some("the path must be free of white space and of ? # %")
}

/// Whether `*` in the pattern can stand for something that makes it the text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    // The first place for each middle part leaves the most to those behind it.
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for text in [
            "hf://o/n",
            "hf://o/n/tokenizer.json",
            "hf://datasets/o/n@v1.0/data/train-*.parquet",
            "hf://datasets/o/n@refs%2Fconvert%2Fparquet/default/a.parquet",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let address: Address = "hf://datasets/o/n@refs%2Fpr%2F1/a".parse().unwrap();
        assert_eq!((address.revision.as_str(), address.repository.as_str()), ("refs/pr/1", "o/n"));
        assert_eq!("hf://o/n@main/a".parse::<Address>().unwrap().to_string(), "hf://o/n/a");
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "hf://",
            "hf://gpt2",
            "hf://datasets/o",
            "hf://o/n@",
            "hf://../n/a",
            "hf://o/n@../a",
            "hf://o/n/../../a",
            "hf://o/n//a",
            "hf://o/n/a?b",
            "hf://o/n/a b",
            "hf://o/n@a%2F..%2Fb/c",
            "https://huggingface.co/o/n",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text) in [
            ("*.parquet", "data/a.parquet"),
            ("a*b*c", "abbc"),
            ("*", ""),
            ("data/train-*", "data/train-0"),
            ("**/x", "a/x"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*a", "a"), ("*.txt", "a.txt.gz"), ("a*b*c", "acb"), ("a", "ab")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
