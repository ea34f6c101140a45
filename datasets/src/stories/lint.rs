//! Rules that every told story keeps, whatever was drawn.

use std::collections::HashMap;

use super::{draw, plots::Library};

/// What is wrong with a text, if anything.
fn fault(text: &str) -> Option<String> {
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphabetic() && !" \n.,!?\"'".contains(*c)) {
        return Some(format!("the character {c:?}"));
    }
    for pair in [
        "  ", " .", " ,", " !", " ?", "..", ",,", ".,", "\n\n", " \n", "\n ", "\"\"", ".\" said",
        ",\" ,",
    ] {
        if text.contains(pair) {
            return Some(format!("{pair:?}"));
        }
    }
    for paragraph in text.split('\n') {
        if paragraph.matches('"').count() % 2 != 0 {
            return Some(format!("an open quotation: {paragraph}"));
        }
        let mut before = "";
        for (i, piece) in paragraph.split('"').enumerate() {
            let (start, end) = (piece.trim_start(), piece.trim_end());
            if i % 2 == 1
                && (start != piece || end != piece || !end.ends_with(['.', '!', '?', ',']))
            {
                return Some(format!("a quotation {piece:?}"));
            }
            let goes_on = i > 1 && before.ends_with(", ");
            if i % 2 == 1 && !goes_on && !start.starts_with(|c: char| c.is_ascii_uppercase()) {
                return Some(format!("a wrong capital: {before:?} {piece:?}"));
            }
            if i % 2 == 0 && i > 0 && !piece.is_empty() && !piece.starts_with(' ') {
                return Some(format!("no space after a quotation: {piece:?}"));
            }
            before = piece;
        }
        let bare = paragraph.replace('"', "");
        if !bare.ends_with(['.', '!', '?']) {
            return Some(format!("no full stop: {paragraph}"));
        }
        for sentence in bare.split_inclusive(". ").map(str::trim) {
            if !sentence.starts_with(|c: char| c.is_ascii_uppercase()) {
                return Some(format!("no capital: {sentence}"));
            }
            if sentence.split_whitespace().count() > 26 {
                return Some(format!("a long sentence: {sentence}"));
            }
        }
        let words: Vec<&str> = bare.split(' ').collect();
        for pair in words.windows(2) {
            let (word, next) = (pair[0].to_ascii_lowercase(), pair[1].to_ascii_lowercase());
            if word == next && !word.ends_with(',') {
                return Some(format!("{word} twice"));
            }
            let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u']);
            if (word == "a" && vowel) || (word == "an" && !vowel) {
                return Some(format!("{word} {next}"));
            }
            if next.starts_with(|c: char| !c.is_ascii_alphabetic()) {
                return Some(format!("{word} {next}"));
            }
        }
    }
    None
}

#[test]
fn stories_are_well_formed() {
    let plots = &Library::get().plots;
    let mut faults: HashMap<String, String> = HashMap::new();
    for index in 0..20_000 {
        let (plot, story) = draw(21, index);
        if let Some(fault) = fault(&story.text) {
            faults.entry(plots[plot].title.clone()).or_insert(format!("{fault}\n{}", story.text));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_filler_of_every_slot_takes_the_right_article() {
    for class in &Library::get().lexicon.classes {
        for word in class.entries.iter().flat_map(|entry| &entry.forms) {
            assert!(
                !["hour", "honest", "uni", "use", "one"].iter().any(|odd| word.starts_with(odd))
            );
            assert!(!word.is_empty() && word.trim() == word, "{}: {word:?}", class.name);
        }
    }
}

#[test]
fn faults_are_found() {
    for text in [
        "A cat",
        "a cat.",
        "An cat.",
        "\"Hi.",
        "A  cat.",
        "The the cat.",
        "I saw a owl.",
        "\"Hi\" I said.",
    ] {
        assert!(fault(text).is_some(), "{text}");
    }
    assert_eq!(fault("\"Hi,\" said the owl. \"Who are you?\"\nI ran."), None);
}
