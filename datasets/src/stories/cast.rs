//! The characters: people of the lexicon, with the pronouns that refer to them.

use super::lexicon::{Class, Entry, Lexicon, PERSON};

/// Who the hero of a plot may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hero {
    /// A girl or a boy.
    Child,
    /// An animal with a name.
    Animal,
    /// Either, with equal chance.
    Any,
}

impl Hero {
    /// Reads the word behind a plot's title.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "child" => Some(Self::Child),
            "animal" => Some(Self::Animal),
            "any" => Some(Self::Any),
            _ => None,
        }
    }

    /// The class that a role is drawn from when this is the hero.
    pub(super) fn class_of(self, role: &str) -> String {
        match (role, self) {
            ("hero", Self::Child) => "child".to_owned(),
            ("hero", Self::Animal) => "animal".to_owned(),
            ("hero", Self::Any) => "anyone".to_owned(),
            _ => role.to_owned(),
        }
    }
}

/// Adds the classes of people, made from the lists of names, to a lexicon.
///
/// `child`, `animal`, `anyone`; `friend`, who is of the hero's kind; `pet`; `elder`; `stranger`.
pub(super) fn add_people(lexicon: &mut Lexicon) {
    let mut child = Vec::new();
    let mut animal = Vec::new();
    let mut pet = Vec::new();
    for (names, pets, kind, pronouns) in [
        ("girl", "her-animal", "girl", ["she", "her", "her"]),
        ("boy", "his-animal", "boy", ["he", "him", "his"]),
    ] {
        child.extend(lexicon.words(names).iter().map(|name| person(1, name, kind, pronouns)));
        for name in lexicon.words(pets) {
            animal.extend(lexicon.words("species").iter().map(|s| person(1, &name, s, pronouns)));
            pet.extend(lexicon.words("pets").iter().map(|s| person(1, &name, s, pronouns)));
        }
    }
    let mut elder = Vec::new();
    let mut stranger = Vec::new();
    for (elders, strangers, pronouns) in [
        ("her-elder", "her-stranger", ["she", "her", "her"]),
        ("his-elder", "his-stranger", ["he", "him", "his"]),
    ] {
        elder.extend(lexicon.words(elders).iter().map(|e| person(1, e, e, pronouns)));
        stranger.extend(lexicon.words(strangers).iter().map(|s| person(1, s, s, pronouns)));
    }
    // Equal chances for a child and an animal, whatever the number of names.
    let (children, animals) = (child.len() as u32, animal.len() as u32);
    let weigh = |entries: &[Entry], weight: u32| -> Vec<Entry> {
        entries.iter().map(|e| Entry { weight, forms: e.forms.clone() }).collect()
    };
    let mut anyone = weigh(&child, animals);
    anyone.extend(weigh(&animal, children));
    for (name, entries) in [
        ("child", child),
        ("animal", animal),
        ("friend", anyone.clone()),
        ("anyone", anyone),
        ("pet", pet),
        ("elder", elder),
        ("stranger", stranger),
    ] {
        let forms = PERSON.iter().map(|&form| form.to_owned()).collect();
        lexicon.classes.push(Class { name: name.to_owned(), forms, entries });
    }
}

fn person(weight: u32, name: &str, kind: &str, pronouns: [&str; 3]) -> Entry {
    let forms = [name, kind].into_iter().chain(pronouns).map(str::to_owned).collect();
    Entry { weight, forms }
}

/// Whether someone may join a story beside its hero.
///
/// The two share no name, no kind and no pronoun: "she" is always one person only, for a reader and for a model.
pub(super) fn may_join(role: &str, newcomer: &Entry, hero: &Entry) -> bool {
    let differ = newcomer.forms.iter().zip(&hero.forms).take(3).all(|(a, b)| a != b);
    differ && (role != "friend" || is_child(newcomer) == is_child(hero))
}

fn is_child(person: &Entry) -> bool {
    person.forms.get(1).is_some_and(|kind| kind == "girl" || kind == "boy")
}
