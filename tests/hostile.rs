//! Hostile files: valid ones changed at random, and ones made to do harm. Every loader gives an error or a model that
//! can be used, never panics, and never takes memory beyond a multiple of the file.
//!
//! The valid files are the seeds of the fuzz targets (`fuzz/corpus`); the files beside them are what fuzzing found.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tern_datasets::token_file::{self, TokenFile};
use tern_format::packed::PackedModel;
use tern_format::safetensors::{Contents, parse_f32, read_f32};
use tern_format::tokenizer::{Tokenizer, TokenizerSource};
use tern_infer::verify::{verify, verify_bytes};
use tern_train::checkpoint::{self, State};
use tern_train::config::RunConfig;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the process, so the tests here take turns.
static TURN: Mutex<()> = Mutex::new(());

/// What a loader may take whatever the file: buffers, caches, tables of the crates.
const CONSTANT_BYTES: usize = 4 << 20;

/// A loader of bytes, and how many bytes of memory it may take for one of the file.
struct Loader {
    /// The directory of its valid files.
    corpus: &'static str,
    most_per_byte: usize,
    /// Whether the bytes were loaded.
    load: fn(&[u8]) -> bool,
}

const LOADERS: [Loader; 8] = [
    Loader {
        corpus: "packed_model",
        most_per_byte: 16,
        load: |bytes| {
            let Ok(model) = PackedModel::from_bytes(bytes) else { return false };
            // What loads is a model: it can be written, and reads back as itself.
            assert_eq!(PackedModel::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
            true
        },
    },
    Loader {
        corpus: "packed_model",
        // Its tokenizer is built as well.
        most_per_byte: 512,
        load: |bytes| verify_bytes(bytes).is_ok(),
    },
    Loader {
        corpus: "safetensors",
        most_per_byte: 32,
        load: |bytes| {
            if let Ok((tensors, _)) = parse_f32(bytes) {
                let filled = |(shape, values): &(Vec<usize>, Vec<f32>)| {
                    shape.iter().product::<usize>() == values.len()
                };
                assert!(tensors.values().all(filled));
            }
            Contents::parse(bytes).is_ok()
        },
    },
    Loader {
        corpus: "tokenizer_json",
        most_per_byte: 512,
        load: |bytes| {
            let source = TokenizerSource::from_bytes(bytes.to_vec());
            source
                .and_then(|source| Tokenizer::from_source(&source))
                .is_ok_and(|tokenizer| used(&tokenizer))
        },
    },
    Loader {
        corpus: "sentence_piece",
        most_per_byte: 512,
        load: |bytes| {
            let source = TokenizerSource::SentencePiece(bytes.to_vec());
            Tokenizer::from_source(&source).is_ok_and(|tokenizer| used(&tokenizer))
        },
    },
    Loader {
        corpus: "token_file",
        most_per_byte: 1,
        load: |bytes| token_file::check(bytes).is_ok(),
    },
    Loader {
        corpus: "config",
        most_per_byte: 512,
        load: |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            RunConfig::parse(text, Path::new("run.toml"), &[]).is_ok()
        },
    },
    Loader {
        corpus: "checkpoint",
        most_per_byte: 64,
        load: |bytes| std::str::from_utf8(bytes).is_ok_and(|text| State::parse(text).is_ok()),
    },
];

/// Text to ids and back, or errors.
fn used(tokenizer: &Tokenizer) -> bool {
    for text in ["", "Once upon a time  ab\t\u{fdfa}\0🙂", "</s>aaaa\u{2581}"] {
        let _ = tokenizer.encode_literally(text);
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids);
        }
    }
    true
}

/// The files of a corpus, with their names.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The valid files of a corpus.
fn seeds(loader: &Loader) -> Vec<Vec<u8>> {
    let seeds = corpus(loader.corpus).into_iter().filter(|(name, _)| name.starts_with("seed-"));
    seeds.map(|(_, bytes)| bytes).collect()
}

/// Loads, and holds the memory and the time that it took against their bounds.
fn load(loader: &Loader, bytes: &[u8]) -> bool {
    let most = loader.most_per_byte * bytes.len() + CONSTANT_BYTES;
    let (loaded, peak) = measured(|| (loader.load)(bytes));
    assert!(
        peak <= most,
        "{}: {peak} bytes of memory for a file of {}",
        loader.corpus,
        bytes.len()
    );
    loaded
}

/// What a call gives, and the memory that it had at once, in bytes. No call goes on for ever.
fn measured<T>(call: impl FnOnce() -> T) -> (T, usize) {
    MEMORY.reset_peak_usage();
    let (before, start) = (MEMORY.current_usage(), Instant::now());
    let result = call();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    (result, MEMORY.peak_usage().saturating_sub(before))
}

fn turn() -> impl Drop {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_valid_file_loads_and_every_found_one_does_no_harm() {
    let _turn = turn();
    for loader in &LOADERS {
        let mut valid = 0;
        for (name, bytes) in corpus(loader.corpus) {
            let loaded = load(loader, &bytes);
            if name.starts_with("seed-") {
                assert!(loaded, "{}/{name}", loader.corpus);
                valid += 1;
            }
        }
        assert!(valid > 0, "{} has no seeds", loader.corpus);
    }
}

/// A change of a file, at places that are shares of its length.
#[derive(Clone, Debug)]
enum Change {
    Flip {
        at: Index,
        mask: u8,
    },
    Cut {
        at: Index,
    },
    /// Copies a piece over another.
    Splice {
        from: Index,
        to: Index,
        bytes: usize,
    },
    /// Pushes in so many times a byte.
    Grow {
        at: Index,
        bytes: usize,
        byte: u8,
    },
    /// Writes a number over eight bytes: lengths and offsets lie.
    Lie {
        at: Index,
        number: u64,
    },
    /// Replaces the digits at or after a place: JSON and TOML lie.
    Number {
        at: Index,
        text: &'static str,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let number =
        prop_oneof![any::<u64>(), 0..1000u64, Just(u64::MAX), (0..64u32).prop_map(|bit| 1 << bit)];
    let text = proptest::sample::select(
        &[
            "0",
            "-1",
            "1e999",
            "4294967295",
            "18446744073709551615",
            "1073741824",
            "0.5",
            "null",
            "[[]]",
        ][..],
    );
    prop_oneof![
        (any::<Index>(), 1..=255u8).prop_map(|(at, mask)| Change::Flip { at, mask }),
        any::<Index>().prop_map(|at| Change::Cut { at }),
        (any::<Index>(), any::<Index>(), 1..200usize)
            .prop_map(|(from, to, bytes)| Change::Splice { from, to, bytes }),
        (any::<Index>(), 1..5000usize, proptest::sample::select(&b"\0\xff[{\" a9"[..]))
            .prop_map(|(at, bytes, byte)| Change::Grow { at, bytes, byte }),
        (any::<Index>(), number).prop_map(|(at, number)| Change::Lie { at, number }),
        (any::<Index>(), text).prop_map(|(at, text)| Change::Number { at, text }),
    ]
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        if file.is_empty() {
            return;
        }
        let size = file.len();
        match self {
            Self::Flip { at, mask } => file[at.index(size)] ^= mask,
            Self::Cut { at } => file.truncate(at.index(size)),
            Self::Splice { from, to, bytes } => {
                let (from, to) = (from.index(size), to.index(size));
                let count = (*bytes).min(size - from).min(size - to);
                file.copy_within(from..from + count, to);
            }
            Self::Grow { at, bytes, byte } => {
                let at = at.index(size);
                file.splice(at..at, std::iter::repeat_n(*byte, *bytes));
            }
            Self::Lie { at, number } => {
                // The length of a safetensors header is at the start: lie about it often.
                let at = at.index(size) / 3 * 3 % size.max(9);
                let at = at.min(size);
                let number = number.to_le_bytes();
                let count = number.len().min(size - at);
                file[at..at + count].copy_from_slice(&number[..count]);
            }
            Self::Number { at, text } => {
                let at = at.index(size);
                let Some(start) = file[at..].iter().position(u8::is_ascii_digit) else { return };
                let start = at + start;
                let digits = file[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                file.splice(start..start + digits, text.bytes());
            }
        }
    }
}

#[test]
fn a_changed_file_is_refused_or_loaded_within_its_bounds() {
    let _turn = turn();
    for loader in &LOADERS {
        let seeds = seeds(loader);
        let (loaded, cases) = (Cell::new(0), Cell::new(0));
        let strategy = (any::<Index>(), vec(change(), 1..4));
        let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(&strategy, |(seed, changes)| {
            let mut bytes = seeds[seed.index(seeds.len())].clone();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            cases.set(cases.get() + 1);
            loaded.set(loaded.get() + usize::from(load(loader, &bytes)));
            Ok(())
        });
        println!("{}: {} of {} changed files load", loader.corpus, loaded.get(), cases.get());
        if let Err(error) = run {
            panic!("{}: {error}", loader.corpus);
        }
    }
}

/// Small files that ask for much: many empty tensors, long shapes, text that is all numbers.
#[test]
fn a_file_of_many_small_things_takes_a_multiple_of_its_size() {
    let _turn = turn();
    let container =
        |header: String| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let tensors: Vec<String> = (0..20_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let shape = format!(
        r#"{{"x":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#,
        "0,".repeat(500_000)
    );
    let text: Vec<String> = (0..50_000).map(|i| format!(r#""{i}":"""#)).collect();
    let zeros = format!(r#"{{"model":[{}0]}}"#, "0,".repeat(500_000));
    let objects = format!(r#"{{"model":[{}{{}}]}}"#, "{},".repeat(300_000));
    let words: Vec<String> = (0..50_000).map(|i| format!(r#""{i:x}":{i}"#)).collect();
    let words = format!(
        r#"{{"version":"1.0","model":{{"type":"WordLevel","unk_token":"0","vocab":{{{}}}}}}}"#,
        words.join(",")
    );
    let long: Vec<String> =
        (0..300).map(|i| format!(r#"["{i}{}",-1.0]"#, "x".repeat(1000))).collect();
    let long = format!(
        r#"{{"version":"1.0","model":{{"type":"Unigram","unk_id":0,"vocab":[{}]}}}}"#,
        long.join(",")
    );
    let pieces: Vec<u8> = (0..50_000u32)
        .flat_map(|i| {
            let text = format!("{i:x}");
            let kind = if i == 0 { 2 } else { 1 };
            let piece = [&[0x0a, text.len() as u8], text.as_bytes(), &[0x18, kind]].concat();
            [&[0x0a, piece.len() as u8][..], &piece].concat()
        })
        .collect();
    for (corpus, bytes) in [
        ("safetensors", container(format!("{{{}}}", tensors.join(",")))),
        ("safetensors", container(shape)),
        ("safetensors", container(format!(r#"{{"__metadata__":{{{}}}}}"#, text.join(",")))),
        ("tokenizer_json", zeros.into_bytes()),
        ("tokenizer_json", objects.into_bytes()),
        ("tokenizer_json", words.into_bytes()),
        ("tokenizer_json", long.into_bytes()),
        ("sentence_piece", pieces),
        ("config", format!("x = [{}0]", "0,".repeat(500_000)).into_bytes()),
        ("config", "[a]\n".repeat(100_000).into_bytes()),
        ("checkpoint", format!(r#"{{"files":{{{}}}}}"#, text.join(",")).into_bytes()),
    ] {
        let loader = LOADERS.iter().find(|loader| loader.corpus == corpus).unwrap();
        let (loaded, peak) = measured(|| (loader.load)(&bytes));
        let ratio = peak as f64 / bytes.len() as f64;
        println!(
            "{corpus}: {} bytes, loaded {loaded}, {ratio:.1} bytes of memory for each",
            bytes.len()
        );
        assert!(peak <= loader.most_per_byte * bytes.len() + CONSTANT_BYTES, "{corpus}: {ratio}");
    }
}

/// What each command's loader says of a path.
fn opened(path: &Path) -> [String; 7] {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    [
        PackedModel::read(path).map_err(|error| text(&error)).unwrap_err(),
        verify(path).map_err(|error| text(&error)).unwrap_err(),
        read_f32(path).map_err(|error| text(&error)).unwrap_err(),
        Tokenizer::from_file(path).map_err(|error| text(&error)).unwrap_err(),
        TokenFile::open(path).map_err(|error| text(&error)).unwrap_err(),
        RunConfig::read(path, &[]).map_err(|error| text(&error)).unwrap_err(),
        tern_format::checksum::sha256_file(path).map_err(|error| text(&error)).unwrap_err(),
    ]
}

#[cfg(target_os = "linux")]
#[test]
fn pipes_devices_and_directories_are_refused_at_once() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/full"), directory.path()] {
        let (errors, peak) = measured(|| opened(path));
        assert!(peak < CONSTANT_BYTES, "{peak}");
        for error in errors {
            assert_eq!(error, format!("{}: must be a regular file", path.display()));
        }
    }
}

/// A file of twenty gigabytes that is nothing but its header, and one that is nothing at all.
#[cfg(target_os = "linux")]
#[test]
fn a_sparse_file_costs_no_more_than_its_header() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let size = 20u64 << 30;
    let seed = corpus("packed_model").swap_remove(0).1;
    let (header, _) = seed[8..].split_at(u64::from_le_bytes(*seed.first_chunk().unwrap()) as usize);
    let mut lie: serde_json::Value = serde_json::from_slice(header).unwrap();
    let data = size - 8 - 4096;
    lie.as_object_mut().unwrap().retain(|name, _| name == "__metadata__");
    lie["model.norm.weight"] =
        serde_json::json!({"dtype": "U8", "shape": [data], "data_offsets": [0, data]});
    let lie = format!("{:4096}", lie.to_string());
    for start in [Vec::new(), seed, [&4096u64.to_le_bytes(), lie.as_bytes()].concat()] {
        std::fs::write(&path, start).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
        let (errors, peak) = measured(|| {
            [
                PackedModel::read(&path).unwrap_err().to_string(),
                verify(&path).unwrap_err().to_string(),
            ]
        });
        assert!(peak < CONSTANT_BYTES, "{peak}");
        assert!(errors.iter().all(|error| error.starts_with(path.to_str().unwrap())), "{errors:?}");
        for error in [
            Tokenizer::from_file(&path).unwrap_err().to_string(),
            RunConfig::read(&path, &[]).unwrap_err().to_string(),
        ] {
            assert!(error.contains("must have at most"), "{error}");
        }
    }
}

/// A vocabulary of millions in a small file: the loss is measured a few logits at a time.
#[test]
fn a_large_vocabulary_costs_what_the_file_costs() {
    let _turn = turn();
    let (_, seed) =
        corpus("packed_model").into_iter().find(|(name, _)| name == "seed-full").unwrap();
    let mut model = PackedModel::from_bytes(&seed).unwrap();
    let vocab_size = 2 << 20;
    model.metadata.config.vocab_size = vocab_size;
    model.metadata.config.max_position_embeddings = 4096;
    let check = model.metadata.check.as_mut().unwrap();
    check.windows = vec![vec![1; 65]];
    let name = "model.embed_tokens.weight";
    let hidden = model.metadata.config.hidden_size;
    let embedding = tern_format::packed::FloatTensor::new(
        vec![vocab_size, hidden],
        tern_format::packed::FloatType::F16,
        &vec![0.5; vocab_size * hidden],
    );
    model.tensors.insert(name.into(), tern_format::packed::Tensor::Float(embedding));
    let bytes = model.to_bytes().unwrap();
    let (report, peak) = measured(|| verify_bytes(&bytes));
    report.unwrap();
    let ratio = peak as f64 / bytes.len() as f64;
    println!("{} bytes, {ratio:.1} bytes of memory for each", bytes.len());
    assert!(ratio < 16.0, "{ratio}");
}

/// A checkpoint whose `state.json` has been changed by hand.
fn lying_state(change: impl Fn(&mut serde_json::Value)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint: PathBuf = checkpoint::directory(directory.path(), 4);
    std::fs::create_dir(&checkpoint).unwrap();
    let (_, seed) = corpus("checkpoint").swap_remove(0);
    let mut state: serde_json::Value = serde_json::from_slice(&seed).unwrap();
    change(&mut state);
    std::fs::write(checkpoint.join("state.json"), state.to_string()).unwrap();
    let Err(error) = checkpoint::read(&checkpoint) else {
        panic!("a checkpoint without tensors was read")
    };
    error.to_string()
}

#[test]
fn a_state_that_lies_is_refused_with_the_rule() {
    let _turn = turn();
    let error = lying_state(|_| {});
    assert!(error.contains("model.safetensors"), "{error}");
    for (key, value, expected) in [
        (
            "step",
            serde_json::json!(5),
            "state.json: step is 5, which is not that of the directory's name",
        ),
        ("step", serde_json::json!(-1), "state.json: invalid value: integer `-1`"),
        (
            "format_version",
            serde_json::json!(7),
            "state.json: format_version is 7, this program reads",
        ),
        ("val_loss", serde_json::json!("NaN"), "state.json: invalid type: string \"NaN\""),
        ("files", serde_json::json!({}), "state.json: lists no checksum of model.safetensors"),
        ("more", serde_json::json!(1), "state.json: unknown field `more`"),
    ] {
        let error = lying_state(|state| state[key] = value.clone());
        assert!(error.contains(expected), "{error}");
    }
    let error = lying_state(|state| state[&"\u{1b}x".repeat(50_000)] = 1.into());
    assert!(error.len() < 2_000 && !error.contains('\u{1b}'), "{error}");
}
