//! The grid of a sweep: keys, the values of each, and every combination.

use std::collections::HashSet;

use anyhow::{Result, bail, ensure};
use tern_format::checksum::sha256;

/// More runs than this are a mistake in a list.
const MOST_RUNS: usize = 1_000;
/// Most file systems take names of 255 bytes.
const LONGEST_NAME: usize = 120;

/// A key and its values, as the command line has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    key: String,
    values: Vec<String>,
}

/// One combination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Name of its directory: what it was set to, in letters that need no quoting.
    pub(crate) name: String,
    /// Keys and values.
    pub(crate) settings: Vec<(String, String)>,
}

impl Point {
    /// `key=value` for each setting.
    pub(crate) fn overrides(&self) -> Vec<String> {
        self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

impl Axis {
    /// Parses `key=a,b,c`. Commas inside brackets, braces or quotation marks belong to a value.
    ///
    /// # Errors
    ///
    /// A text without a key, an empty or repeated value, a bracket or quotation mark without its other half.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((key, list)) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty())
        else {
            bail!("`{text}` is not of the form key=value,value,…, for example seed=1,2,3");
        };
        let mut values = vec![String::new()];
        let mut open = Vec::new();
        for c in list.chars() {
            let quoted = matches!(open.last(), Some('"' | '\''));
            match c {
                _ if open.last() == Some(&c) => drop(open.pop()),
                '"' | '\'' if !quoted => open.push(c),
                '[' if !quoted => open.push(']'),
                '{' if !quoted => open.push('}'),
                _ => {}
            }
            match values.last_mut() {
                Some(value) if c != ',' || !open.is_empty() => value.push(c),
                _ => values.push(String::new()),
            }
        }
        if let Some(missing) = open.pop() {
            bail!("`{text}`: a closing `{missing}` is missing");
        }
        let values: Vec<String> = values.iter().map(|value| value.trim().to_owned()).collect();
        ensure!(values.iter().all(|value| !value.is_empty()), "`{text}`: a value is empty");
        let mut seen = HashSet::new();
        if let Some(twice) = values.iter().find(|value| !seen.insert(*value)) {
            bail!("`{text}`: the value {twice} is there twice");
        }
        Ok(Self { key: key.trim().into(), values })
    }
}

/// Every combination; the last axis varies fastest.
///
/// # Errors
///
/// A key that is there twice, or too many combinations.
pub(crate) fn points(axes: &[Axis]) -> Result<Vec<Point>> {
    let mut keys = HashSet::new();
    if let Some(axis) = axes.iter().find(|axis| !keys.insert(&axis.key)) {
        bail!("the key {} is there twice; list all its values in one place", axis.key);
    }
    let count = axes.iter().fold(1_usize, |n, axis| n.saturating_mul(axis.values.len()));
    ensure!(count <= MOST_RUNS, "the grid has {count} runs; a sweep takes at most {MOST_RUNS}");
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for axis in axes {
        let extend = |settings: &Vec<(String, String)>| -> Vec<Vec<(String, String)>> {
            let with = |value: &String| {
                let mut settings = settings.clone();
                settings.push((axis.key.clone(), value.clone()));
                settings
            };
            axis.values.iter().map(with).collect()
        };
        all = all.iter().flat_map(extend).collect();
    }
    let mut points: Vec<Point> =
        all.into_iter().map(|settings| Point { name: name(&settings, axes), settings }).collect();
    let mut names = HashSet::new();
    for point in &mut points {
        if !names.insert(point.name.clone()) {
            // Two values that differ only in letters that a name cannot have.
            point.name = format!("{}-{}", point.name, digest(&point.settings));
        }
    }
    Ok(points)
}

/// `learning_rate=1e-3,seed=2`: the last part of each key, or all of it where two keys end alike.
fn name(settings: &[(String, String)], axes: &[Axis]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let parts: Vec<String> = settings
        .iter()
        .map(|(key, value)| {
            let alike = axes.iter().filter(|axis| last(&axis.key) == last(key)).count() > 1;
            let key = if alike { key.clone() } else { last(key) };
            let value: String = value
                .chars()
                .filter(|c| !matches!(c, '"' | '\'' | '[' | ']' | '{' | '}' | ' '))
                .map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' })
                .collect();
            format!("{key}={value}")
        })
        .collect();
    let mut name = parts.join(",");
    if name.len() > LONGEST_NAME {
        name = format!("{}-{}", &name[..LONGEST_NAME], digest(settings));
    }
    name
}

fn digest(settings: &[(String, String)]) -> String {
    sha256(format!("{settings:?}").as_bytes())[..8].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts.iter().map(|text| Axis::parse(text).unwrap()).collect()
    }

    #[test]
    fn commas_in_brackets_and_quotes_belong_to_a_value() {
        let values = |text: &str| Axis::parse(text).unwrap().values;
        assert_eq!(values("seed=1, 2,3"), ["1", "2", "3"]);
        assert_eq!(values("b=[0.9,0.95],[0.9,0.99]"), ["[0.9,0.95]", "[0.9,0.99]"]);
        assert_eq!(values("t={ a = [1,2], b = 3 },{c=1}"), ["{ a = [1,2], b = 3 }", "{c=1}"]);
        assert_eq!(values("s=\"a,]\",'b,\"'"), ["\"a,]\"", "'b,\"'"]);
        assert_eq!(values("f=a=b"), ["a=b"]);
    }

    #[test]
    fn lists_that_are_none_are_refused_with_what_is_wrong() {
        for (text, words) in [
            ("seed", "key=value"),
            ("=1", "key=value"),
            ("seed=", "empty"),
            ("seed=1,,2", "empty"),
            ("seed=1,1", "twice"),
            ("b=[0.9,0.95", "closing `]`"),
            ("s=\"a", "closing `\"`"),
        ] {
            let error = Axis::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(points(&axes(&["seed=1", "seed=2"])).unwrap_err().to_string().contains("twice"));
        let many: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let (a, b) = (format!("a={}", many.join(",")), format!("b={}", many.join(",")));
        assert!(points(&axes(&[&a, &b])).unwrap_err().to_string().contains("10000 runs"));
    }

    #[test]
    fn every_combination_has_a_name_of_its_own() {
        let names = |texts: &[&str]| -> Vec<String> {
            points(&axes(texts)).unwrap().into_iter().map(|point| point.name).collect()
        };
        let grid = names(&["train.optimizer.learning_rate=1e-3,3e-3", "seed=1,2"]);
        assert_eq!(grid[0], "learning_rate=1e-3,seed=1");
        assert_eq!(grid[1], "learning_rate=1e-3,seed=2");
        assert_eq!(grid.len(), 4);
        assert_eq!(names(&["a.b=[1, 2],x"]), ["b=1_2", "b=x"]);
        assert_eq!(names(&["a.kind=x", "b.kind=y"]), ["a.kind=x,b.kind=y"]);
        for grid in [names(&["a=[1],1"]), names(&["a=x/y,x:y"]), names(&["a=../x"])] {
            assert_eq!(grid.iter().collect::<HashSet<_>>().len(), grid.len(), "{grid:?}");
            assert!(grid.iter().all(|name| !name.contains('/')), "{grid:?}");
        }
        let long = "x".repeat(300);
        assert!(names(&[&format!("a={long},{long}y")]).iter().all(|name| name.len() < 200));
    }
}
