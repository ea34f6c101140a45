//! From a plot to a text: every slot and every wording is chosen from left to right.

use super::cast::may_join;
use super::chance::Chance;
use super::lexicon::{Entry, Lexicon};
use super::plots::Plot;
use super::template::{Node, Slot};

/// What fills the slots of a plot so far.
pub(super) type Filled<'a> = Vec<Option<&'a Entry>>;

/// Tells a plot; articles are not yet agreed.
pub(super) fn expand(lexicon: &Lexicon, plot: &Plot, chance: &mut Chance) -> String {
    let mut text = String::new();
    let mut filled: Filled<'_> = vec![None; plot.slots.len()];
    tell(lexicon, plot, &plot.nodes, chance, &mut filled, &mut text);
    text
}

fn tell<'a>(
    lexicon: &'a Lexicon,
    plot: &Plot,
    nodes: &[Node],
    chance: &mut Chance,
    filled: &mut Filled<'a>,
    text: &mut String,
) {
    for node in nodes {
        match node {
            Node::Text(words) => text.push_str(words),
            Node::Choice(branches) => {
                let chosen = chance.weighted(branches.iter().map(|(weight, _)| *weight));
                if let Some((_, branch)) = branches.get(chosen) {
                    tell(lexicon, plot, branch, chance, filled, text);
                }
            }
            Node::Slot { slot, form, capital } => {
                if filled[*slot].is_none() {
                    let candidates = candidates(lexicon, plot, *slot, filled);
                    let chosen = chance.weighted(candidates.iter().map(|(weight, _)| *weight));
                    filled[*slot] = candidates.get(chosen).map(|(_, entry)| *entry);
                }
                if let Some(entry) = filled[*slot] {
                    push_word(text, &entry.forms[*form], *capital);
                }
            }
        }
    }
}

/// The words that may fill an empty slot and their weights.
///
/// None that the story holds already, and no second person like the hero; words that the plot shows alike are one.
pub(super) fn candidates<'a>(
    lexicon: &'a Lexicon,
    plot: &Plot,
    slot: usize,
    filled: &Filled<'a>,
) -> Vec<(u32, &'a Entry)> {
    let Slot { class, shown, .. } = &plot.slots[slot];
    let class = &lexicon.classes[*class];
    let is_person = class.forms.iter().any(|form| form == "he");
    let hero = filled.first().copied().flatten().filter(|_| is_person && slot != 0);
    let mut candidates: Vec<(u32, &Entry)> = Vec::new();
    for entry in &class.entries {
        let taken = filled.iter().flatten().any(|other| other.forms[0] == entry.forms[0]);
        if taken || hero.is_some_and(|hero| !may_join(&class.name, entry, hero)) {
            continue;
        }
        let looks_like = |other: &Entry| shown.iter().all(|&f| other.forms[f] == entry.forms[f]);
        match candidates.iter_mut().find(|(_, other)| looks_like(other)) {
            Some((weight, _)) => *weight += entry.weight,
            None => candidates.push((entry.weight, entry)),
        }
    }
    candidates
}

/// Appends a word, with a capital if asked.
pub(super) fn push_word(text: &mut String, word: &str, capital: bool) {
    match word.get(..1) {
        Some(first) if capital => {
            text.push_str(&first.to_ascii_uppercase());
            text.push_str(&word[1..]);
        }
        _ => text.push_str(word),
    }
}

/// Makes every article `a` before a vowel `an`.
///
/// The lexicon holds no word whose first letter and first sound differ ("hour", "unicorn").
pub(super) fn agree_articles(text: &str) -> String {
    let mut agreed = String::with_capacity(text.len() + 8);
    let mut words = text.split_inclusive([' ', '\n']).peekable();
    while let Some(word) = words.next() {
        let is_article = matches!(word.trim_start_matches('"'), "a " | "A ");
        let vowel = words.peek().and_then(|next| next.bytes().next());
        if is_article && vowel.is_some_and(|b| b"aeiou".contains(&b)) {
            agreed.push_str(word.trim_end());
            agreed.push_str("n ");
        } else {
            agreed.push_str(word);
        }
    }
    agreed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_agree_with_the_next_word() {
        assert_eq!(agree_articles("a owl saw a red egg."), "an owl saw a red egg.");
        assert_eq!(agree_articles("\"A apple a day.\"\nA egg"), "\"An apple a day.\"\nAn egg");
        assert_eq!(agree_articles("a"), "a");
    }

    #[test]
    fn words_take_capitals() {
        let mut text = String::new();
        push_word(&mut text, "mom", true);
        push_word(&mut text, "", true);
        push_word(&mut text, "mom", false);
        assert_eq!(text, "Mommom");
    }
}
