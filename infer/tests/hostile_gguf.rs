//! Hostile GGUF files by way of the import: an error or a model that can be written, never a panic, never memory beyond a
//! multiple of the file. The valid files are the seeds of the fuzz target (`fuzz/corpus/gguf`).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tern_format::gguf::Gguf;
use tern_format::packed::PackedModel;
use tern_infer::import::gguf;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the process, so the tests here take turns, each from its first line to its last.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an import may take whatever the file: buffers, caches and tables of the tokenizers' crates.
const CONSTANT_BYTES: usize = 4 << 20;

/// Bytes of memory for one of the file: tokens are texts in maps, three times over.
const MOST_PER_BYTE: usize = 512;

fn seeds() -> Vec<Vec<u8>> {
    let corpus: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gguf");
    let mut paths: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Imports with the memory counted; whether there is a model.
fn import(bytes: &[u8]) -> bool {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let imported = gguf(bytes);
    let peak = MEMORY.peak_usage().saturating_sub(before);
    let most = CONSTANT_BYTES + MOST_PER_BYTE * bytes.len();
    assert!(peak <= most, "{} bytes took {peak} bytes of memory", bytes.len());
    let Ok(imported) = imported else { return false };
    let written = imported.model.to_bytes().unwrap();
    assert_eq!(PackedModel::from_bytes(&written).unwrap(), imported.model);
    true
}

#[test]
fn every_model_among_the_seeds_imports_and_none_of_its_beginnings_does() {
    let _turn = turn();
    let mut models = 0;
    for seed in seeds() {
        // One is a tensor of each type, and no model.
        let model = Gguf::parse(&seed).unwrap().metadata.contains_key("general.architecture");
        assert_eq!(import(&seed), model);
        models += usize::from(model);
        for length in (0..seed.len() - 1).step_by(1 + seed.len() / 300) {
            assert!(!import(&seed[..length]), "{length}");
        }
    }
    assert!(models >= 4, "{models}");
}

/// A change of a file: bytes written over it, numbers that promise much, pieces taken out or twice.
#[derive(Clone, Debug)]
enum Change {
    Bytes(Index, Vec<u8>),
    Number(Index, u64, bool),
    Cut(Index, usize),
    Twice(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let lies = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 62),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        0..70_000u64,
    ];
    prop_oneof![
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Bytes(at, bytes)),
        (any::<Index>(), lies, any::<bool>()).prop_map(|(at, n, wide)| Change::Number(at, n, wide)),
        (any::<Index>(), 1..64usize).prop_map(|(at, count)| Change::Cut(at, count)),
        (any::<Index>(), 1..64usize).prop_map(|(at, count)| Change::Twice(at, count)),
    ]
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        if file.is_empty() {
            return;
        }
        let over = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            let end = file.len().min(at + bytes.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        };
        match self {
            Self::Bytes(at, bytes) => over(file, at.index(file.len()), bytes),
            Self::Number(at, number, wide) => {
                let bytes = number.to_le_bytes();
                let at = at.index(file.len());
                over(file, at, &bytes[..if *wide { 8 } else { 4 }]);
            }
            Self::Cut(at, count) => {
                let at = at.index(file.len());
                let end = file.len().min(at + count);
                file.drain(at..end);
            }
            Self::Twice(at, count) => {
                let at = at.index(file.len());
                let end = file.len().min(at + count);
                let piece = file[at..end].to_vec();
                file.splice(at..at, piece);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_file_is_refused_or_imported_within_its_bounds(
        seed in any::<Index>(),
        changes in vec(change(), 1..5),
        // Most of the structure stands in the header.
        in_header in any::<bool>(),
    ) {
        let _turn = turn();
        let mut file = seed.get(&seeds()).clone();
        let tail = if in_header { file.split_off(file.len().min(1500)) } else { Vec::new() };
        changes.iter().for_each(|change| change.apply(&mut file));
        file.extend(tail);
        import(&file);
    }
}

/// The bytes of a file with `count` tokens that `token` makes, and nothing else that would cost anything.
fn vocabulary(model: &str, count: usize, token: impl Fn(usize) -> String) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let entry = |key: &str, kind: u32, value: &[u8]| {
        [&text(&format!("tokenizer.ggml.{key}"))[..], &kind.to_le_bytes(), value].concat()
    };
    let array = |kind: u32, elements: Vec<u8>| {
        [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &elements].concat()
    };
    let tokens: Vec<u8> = (0..count).flat_map(|id| text(&token(id))).collect();
    let entries = [
        entry("model", 8, &text(model)),
        entry("pre", 8, &text("gpt-2")),
        entry("tokens", 9, &array(8, tokens)),
        entry("merges", 9, &array(8, (0..count).flat_map(|_| text("a b")).collect())),
        entry("scores", 9, &array(6, vec![0; 4 * count])),
    ];
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0u64.to_le_bytes());
    file.extend((entries.len() as u64).to_le_bytes());
    file.extend(entries.concat());
    file
}

#[test]
fn vocabularies_of_many_or_long_tokens_cost_a_multiple_of_the_file() {
    use tern_format::gguf::tokenizer::TokenizerParts;
    use tern_format::tokenizer::Tokenizer;
    type Token = fn(usize) -> String;
    let _turn = turn();
    let cases: [(&str, usize, Token, bool); 7] = [
        ("gpt2", 100_000, |id| format!("{id:x}"), true),
        ("gpt2", 3, |id| ["a", "b", "ab"][id].into(), true),
        ("gpt2", 50_000, |_| "same".into(), false),
        // One token of megabytes: a control character takes six bytes in JSON.
        ("gpt2", 1, |_| "\0".repeat(4 << 20), false),
        ("llama", 1, |_| "a".repeat(4 << 20), false),
        ("t5", 5000, |id| format!("{}{id}", "x".repeat(1000)), false),
        ("llama", 100_000, |id| format!("{id:x}"), false),
    ];
    for (model, count, token, loads) in cases {
        let bytes = vocabulary(model, count, token);
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let read = || {
            let parts = TokenizerParts::new(&Gguf::parse(&bytes)?)?;
            Tokenizer::from_source(&parts.tokenizer)
        };
        let loaded = read().is_ok();
        let peak = MEMORY.peak_usage().saturating_sub(before);
        assert_eq!(loaded, loads, "{model} {count}");
        assert!(peak <= CONSTANT_BYTES + 200 * bytes.len(), "{model} {count}: {peak}");
    }
}
