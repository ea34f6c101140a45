//! Parses stories back: in how many ways could the grammar have told this text?

use super::expansion::{Filled, candidates, push_word};
use super::plots::{Library, Plot};
use super::template::Node;

/// A list of node sequences still to be matched, innermost first.
struct Todo<'n> {
    nodes: &'n [Node],
    then: Option<&'n Todo<'n>>,
}

/// The number of ways in which a plot tells exactly this text (before its articles are agreed).
fn count<'a>(plot: &Plot, todo: &Todo<'_>, text: &str, filled: &Filled<'a>) -> usize {
    let Some((node, nodes)) = todo.nodes.split_first() else {
        return match todo.then {
            Some(then) => count(plot, then, text, filled),
            None => usize::from(text.is_empty()),
        };
    };
    let rest = Todo { nodes, then: todo.then };
    match node {
        Node::Text(words) => match text.strip_prefix(words.as_str()) {
            Some(text) => count(plot, &rest, text, filled),
            None => 0,
        },
        Node::Choice(branches) => branches
            .iter()
            .map(|(_, branch)| {
                count(plot, &Todo { nodes: branch, then: Some(&rest) }, text, filled)
            })
            .sum(),
        Node::Slot { slot, form, capital } => {
            let options = match filled[*slot] {
                Some(entry) => vec![(1, entry)],
                None => candidates(&Library::get().lexicon, plot, *slot, filled),
            };
            let mut ways = 0;
            for (_, entry) in options {
                let mut word = String::new();
                push_word(&mut word, &entry.forms[*form], *capital);
                if let Some(text) = text.strip_prefix(word.as_str()) {
                    let mut filled = filled.clone();
                    filled[*slot] = Some(entry);
                    ways += count(plot, &rest, text, &filled);
                }
            }
            ways
        }
    }
}

#[test]
fn every_story_has_one_derivation() {
    let library = Library::get();
    for index in 0..1000 {
        let mut chance = super::chance::Chance::new(11, index);
        let plot = chance.weighted(library.plots.iter().map(|_| 1));
        let text = super::expansion::expand(&library.lexicon, &library.plots[plot], &mut chance);
        let ways: usize = library
            .plots
            .iter()
            .map(|plot| {
                let todo = Todo { nodes: &plot.nodes, then: None };
                count(plot, &todo, &text, &vec![None; plot.slots.len()])
            })
            .sum();
        assert_eq!(ways, 1, "{}: {text}", library.plots[plot].title);
    }
}
