//! All plots, read once from `plots/*.txt`.
//!
//! A plot is a line `== title (child)` with the kind of its hero (`child`, `animal` or `any`), then
//! its template. Line breaks are spaces; a blank line starts a paragraph.

use std::sync::OnceLock;

use super::cast::{Hero, add_people};
use super::lexicon::Lexicon;
use super::template::{Node, Parser, Slot};

/// A story schema.
#[derive(Debug)]
pub(super) struct Plot {
    /// For messages.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests name a plot"))]
    pub(super) title: String,
    pub(super) slots: Vec<Slot>,
    pub(super) nodes: Vec<Node>,
}

/// The lexicon and the plots written against it.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) lexicon: Lexicon,
    pub(super) plots: Vec<Plot>,
}

/// `words.txt`.
const WORDS: &str = include_str!("words.txt");

/// By theme.
const PLOTS: [&str; 8] = [
    include_str!("plots/lost.txt"),
    include_str!("plots/help.txt"),
    include_str!("plots/learn.txt"),
    include_str!("plots/share.txt"),
    include_str!("plots/make.txt"),
    include_str!("plots/outside.txt"),
    include_str!("plots/home.txt"),
    include_str!("plots/fable.txt"),
];

impl Library {
    /// The one library. A test shows that its texts have no error, so nothing is left out here.
    pub(super) fn get() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let mut lexicon = Lexicon::parse(WORDS).unwrap_or_default();
            add_people(&mut lexicon);
            let plots = sources().filter_map(|(head, body)| read(&lexicon, head, &body).ok());
            let plots = plots.collect();
            Self { lexicon, plots }
        })
    }
}

/// Title line and template of every plot.
fn sources() -> impl Iterator<Item = (&'static str, String)> {
    PLOTS.iter().flat_map(|file| file.split("== ").skip(1)).map(|plot| {
        let (head, body) = plot.split_once('\n').unwrap_or((plot, ""));
        let paragraphs: Vec<String> = body
            .trim()
            .split("\n\n")
            .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        (head.trim(), paragraphs.join("\n"))
    })
}

fn read(lexicon: &Lexicon, head: &str, body: &str) -> Result<Plot, String> {
    let (title, hero) = head
        .strip_suffix(')')
        .and_then(|head| head.split_once(" ("))
        .ok_or_else(|| format!("a title without its (hero): {head}"))?;
    let hero = Hero::parse(hero).ok_or_else(|| format!("{title}: unknown hero ({hero})"))?;
    let mut parser = Parser::new(lexicon, hero)?;
    let nodes = parser.parse(body).map_err(|error| format!("{title}: {error}"))?;
    Ok(Plot { title: title.to_owned(), slots: parser.slots, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_and_plot_is_read() {
        let mut lexicon = Lexicon::parse(WORDS).unwrap_or_else(|error| panic!("{error}"));
        add_people(&mut lexicon);
        let errors: Vec<String> =
            sources().filter_map(|(head, body)| read(&lexicon, head, &body).err()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert_eq!(sources().count(), Library::get().plots.len());
    }

    #[test]
    fn faults_are_named() {
        let lexicon = &Library::get().lexicon;
        for (body, fault) in [
            ("[a|b", "an open ["),
            ("a]", "a stray bracket"),
            ("{hero", "no }"),
            ("{nobody}", "unknown slot"),
            ("{hero.size}", "no such form"),
            ("<nothing>", "unknown phrase"),
        ] {
            let error = read(lexicon, "title (any)", body).map(|_| ()).err().unwrap_or_default();
            assert!(error.contains(fault), "{body}: {error}");
        }
        assert!(read(lexicon, "title", "").is_err() && read(lexicon, "title (king)", "").is_err());
    }
}
