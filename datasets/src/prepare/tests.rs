#![allow(clippy::unwrap_used, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::config::TokenizerConfig;
use crate::stories::stories;
use crate::summary::SUMMARY;
use crate::token_file::TokenFile;

fn config(toml: &str) -> DataConfig {
    let rest = "seq_len = 8\nmicro_batch = 2\ntokenizer = { train = \"bpe\", vocab_size = 300 }\n";
    toml::from_str(&format!("{rest}{toml}")).unwrap()
}

fn corpus(stories: usize) -> String {
    let story = |i| {
        format!(
            "Once there was a cat with number {i}.\n\nIt lived in house {}.\n<|endoftext|>\n",
            i * 7 % 13
        )
    };
    (0..stories).map(story).collect()
}

fn run(config: &DataConfig, base: &Path) -> Result<Prepared> {
    prepare(config, base, &base.join("out"), &hub(), Other::Replace, &mut |_| ())
}

fn hub() -> Hub {
    Hub::from_env().with_offline(true)
}

fn documents(prepared: &Prepared, tokens: &TokenFile) -> Vec<String> {
    let ids: Vec<u32> = tokens.ids(0..tokens.len()).collect();
    let documents = ids.split_inclusive(|id| *id == 2);
    documents.map(|ids| prepared.tokenizer.decode(ids).unwrap()).collect()
}

#[test]
fn a_hash_splits_whatever_the_order_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let text = corpus(400);
    std::fs::write(directory.path().join("a.txt"), &text).unwrap();
    let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    let mut stages = Vec::new();
    let out = directory.path().join("out");
    let first = prepare(&config, directory.path(), &out, &hub(), Other::Replace, &mut |progress| {
        stages.push(progress.stage)
    })
    .unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Check, Stage::Tokenizer, Stage::Encode]);
    let [source] = &first.sources[..] else { panic!("one source") };
    let (train, valid) = (documents(&first, &source.train), documents(&first, &source.valid));
    assert_eq!(train.len() + valid.len(), 400);
    assert!((20..65).contains(&valid.len()), "{}", valid.len());
    assert_eq!(first.summary.valid().documents, valid.len() as u64);
    assert_eq!(
        first.summary.train().text_bytes,
        train.iter().map(|text| text.len() as u64).sum::<u64>()
    );

    let mut stories: Vec<&str> = text.split_inclusive("<|endoftext|>\n").collect();
    stories.reverse();
    std::fs::write(directory.path().join("a.txt"), stories.concat()).unwrap();
    let second = run(&config, directory.path()).unwrap();
    let mut again = documents(&second, &second.sources[0].valid);
    again.reverse();
    assert_eq!(again, valid);
    assert_eq!(first.tokenizer.hash(), second.tokenizer.hash());
}

#[test]
fn the_same_settings_and_sources_are_reused_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(300)).unwrap();
    let mut config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    let first = run(&config, directory.path()).unwrap();
    assert!(!first.reused);
    config.seq_len = 16;
    let second = run(&config, directory.path()).unwrap();
    assert!(second.reused && second.summary == first.summary);
    config.collapse_blank_lines = true;
    let third = run(&config, directory.path()).unwrap();
    assert!(!third.reused && third.summary.sha256 != first.summary.sha256);
    assert!(documents(&third, &third.sources[0].train)[0].contains(".\nIt"));
    // A damaged file is made again.
    let path = directory.path().join("out").join("train.tokens");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(
        Prepared::open(&directory.path().join("out"))
            .unwrap_err()
            .to_string()
            .contains("train.tokens: its SHA-256 must be ")
    );
    assert!(!run(&config, directory.path()).unwrap().reused);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(directory.path().join("a.txt"), corpus(301)).unwrap();
    assert!(!run(&config, directory.path()).unwrap().reused);
}

#[test]
fn tokens_are_named_by_what_decides_them() {
    let named = |toml: &str| tokens_name(&config(&format!("train = [\"a.txt\"]\n{toml}")));
    let first = named("");
    for same in ["valid_tokens = 9\n", "windows = \"documents\"\n", "licence = \"CC0\"\n"] {
        assert_eq!(named(same), first, "{same}");
    }
    for other in ["valid = [\"b.txt\"]\n", "text_field = \"t\"\n", "eos = \"</s>\"\n"] {
        assert_ne!(named(other), first, "{other}");
    }
    let mut file = config("train = [\"a.txt\"]\n");
    file.seq_len = 16;
    assert_eq!(tokens_name(&file), first);
    file.tokenizer = TokenizerConfig { file: Some("a.json".into()), ..TokenizerConfig::default() };
    let a = tokens_name(&file);
    file.tokenizer.file = Some("b.json".into());
    assert!(a != first && tokens_name(&file) != a);
}

#[test]
fn records_too_large_to_be_ours_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(300)).unwrap();
    let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    let unfinished = directory.path().join("out/unfinished");
    std::fs::create_dir_all(&unfinished).unwrap();
    for name in ["progress.json", SUMMARY] {
        std::fs::File::create(unfinished.join(name)).unwrap().set_len(1 << 40).unwrap();
    }
    run(&config, directory.path()).unwrap();
    let record = directory.path().join("out").join(SUMMARY);
    std::fs::File::create(&record).unwrap().set_len(1 << 40).unwrap();
    let error = Summary::read(&directory.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("data.json: must have at most 67108864 bytes"), "{error}");
}

#[test]
fn a_failure_leaves_the_directory_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("a.txt");
    std::fs::write(&source, corpus(300)).unwrap();
    let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    let first = run(&config, directory.path()).unwrap();
    std::fs::write(&source, [corpus(300).as_bytes(), b"\xff\n"].concat()).unwrap();
    let error = run(&config, directory.path()).unwrap_err().to_string();
    assert!(error.contains("a.txt:1201: text must be UTF-8"), "{error}");
    let still = Prepared::open(&directory.path().join("out")).unwrap();
    assert_eq!(still.summary, first.summary);
}

#[test]
fn explicit_validation_files_override_the_hash() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(300)).unwrap();
    std::fs::write(directory.path().join("v.txt"), "Once there was\n\na dog.\n<|endoftext|>\n")
        .unwrap();
    let mut config = config("train = [\"a.txt\"]\nvalid = [\"v.txt\"]\n");
    config.valid_separator = Some(Separator::None);
    let prepared = run(&config, directory.path()).unwrap();
    assert_eq!(prepared.summary.train().documents, 300);
    let valid = documents(&prepared, &prepared.sources[0].valid);
    assert_eq!(valid, ["Once there was\n\na dog.\n<|endoftext|>"]);
}

#[test]
fn stories_need_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("corpus = \"stories\"\ntrain_stories = 300\nvalid_stories = 20\n");
    let prepared = run(&config, directory.path()).unwrap();
    assert_eq!((prepared.summary.train().documents, prepared.summary.valid().documents), (300, 20));
    assert_eq!(
        documents(&prepared, &prepared.sources[0].valid)[3],
        stories(0, Split::Valid).nth(3).unwrap().text
    );
    assert!(run(&config, directory.path()).unwrap().reused);
}

#[test]
fn what_cannot_be_prepared_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("empty.txt", "\n\n");
    write("a.txt", &corpus(300));
    write("one.txt", "One story.");
    write("bad.json", "{");
    let refused = |toml: &str| run(&config(toml), directory.path()).unwrap_err().to_string();
    let error = refused("train = [\"empty.txt\"]");
    assert!(
        error.contains("the training corpus (") && error.contains("empty.txt) holds no documents"),
        "{error}"
    );
    let error = refused("train = [\"a.txt\"]\nvalid = [\"empty.txt\"]");
    assert!(
        error.contains("the validation corpus (") && error.contains("holds no documents"),
        "{error}"
    );
    let error = refused("train = [\"a.txt\"]\nvalid_fraction = 1e-9");
    assert!(error.contains("raise data.valid_fraction"), "{error}");
    let error = refused("train = [\"none.txt\"]");
    assert!(error.contains("none.txt: No such file"), "{error}");
    let error = refused("train = [\"a.txt\"]\nvalid_fraction = 0.1\neos = \"<|end|>\"");
    assert_eq!(error, "data.eos must be a token of the tokenizer, is \"<|end|>\"");
    let mut config = config("train = [\"a.txt\"]");
    config.tokenizer = TokenizerConfig { file: Some("bad.json".to_owned()), ..Default::default() };
    let error = run(&config, directory.path()).unwrap_err().to_string();
    assert!(error.contains("bad.json: tokenizer.json: "), "{error}");
    assert!(!directory.path().join("out").join(SUMMARY).exists());
    assert!(
        Prepared::open(directory.path())
            .unwrap_err()
            .to_string()
            .contains("holds no prepared data")
    );
}

#[test]
fn a_single_document_is_told_how_to_become_several() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("one.txt"), "One story.\n\nAnother one.".repeat(20))
        .unwrap();
    let refused = |toml: &str| {
        run(&config(&format!("train = [\"one.txt\"]\n{toml}")), directory.path())
            .unwrap_err()
            .to_string()
    };
    let error = refused("");
    assert!(
        error
            .contains("the whole text is one document: data.separator = \"blank_line\" may cut it"),
        "{error}"
    );
    assert!(!error.contains("valid_fraction"), "{error}");
    std::fs::write(directory.path().join("one.txt"), "One story.").unwrap();
    let error = refused("separator = \"blank_line\"");
    assert!(
        error.ends_with("the whole text is one document: name another file in data.valid"),
        "{error}"
    );
}

/// The files of a prepared directory, but for what a killed process may leave.
fn bytes(out: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_file() {
            let name = entry.file_name().into_string().unwrap();
            files.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

const MIXTURE: &str = "valid_fraction = 0.1\n\
    [[sources]]\nname = \"cats\"\ntrain = [\"a.txt\", \"b.jsonl\"]\n\
    [[sources]]\nname = \"tales\"\ncorpus = \"stories\"\ntrain_stories = 40\nvalid_stories = 10\nweight = 2.0\n\
    [[sources]]\nname = \"lines\"\ntrain = [\"c.txt\"]\nvalid = [\"a.txt\"]\nseparator = \"blank_line\"\n";

fn write_mixture(directory: &Path) {
    let json = |i| format!("{{\"text\": \"Number {i} was a dog.\"}}\n");
    std::fs::write(directory.join("a.txt"), corpus(150)).unwrap();
    std::fs::write(directory.join("b.jsonl"), (0..100).map(json).collect::<String>()).unwrap();
    std::fs::write(directory.join("c.txt"), corpus(60)).unwrap();
}

#[test]
fn a_mixture_keeps_its_sources_apart_and_draws_from_all() {
    let directory = tempfile::tempdir().unwrap();
    write_mixture(directory.path());
    let config = config(MIXTURE);
    let prepared = run(&config, directory.path()).unwrap();
    let names: Vec<&str> = prepared.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["cats", "tales", "lines"]);
    let cats = &prepared.summary.sources[0];
    assert_eq!(cats.train.size.documents + cats.valid.size.documents, 250);
    assert_eq!(prepared.summary.sources[1].train.size.documents, 40);
    assert_eq!(cats.train.file, "cats.train.tokens");
    let sum =
        |side: fn(&SourceRecord) -> u64| prepared.summary.sources.iter().map(side).sum::<u64>();
    assert_eq!(prepared.summary.train().tokens, sum(|source| source.train.size.tokens));
    assert_eq!(prepared.batches(&config, 1).unwrap().batch(1, 0, 4).len(), 4 * 9);
    assert!(prepared.validation(&config).unwrap().windows() >= 3);

    // Weights are no part of the data; the sources are.
    let mut other = config.clone();
    other.sources[0].weight = 9.0;
    assert!(run(&other, directory.path()).unwrap().reused);
    other.sources[0].name = "dogs".to_owned();
    let error = prepared.batches(&other, 1).unwrap_err().to_string();
    assert!(
        error.ends_with("the configuration, dogs, tales, lines; they are cats, tales, lines"),
        "{error}"
    );
}

#[test]
fn whatever_ends_a_preparation_the_next_one_makes_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    write_mixture(directory.path());
    let config = config(MIXTURE);
    let whole = directory.path().join("whole");
    prepare(&config, directory.path(), &whole, &hub(), Other::Replace, &mut |_| ()).unwrap();

    let out = directory.path().join("out");
    let pace = Pace { batch_bytes: 700, save_every: Duration::ZERO };
    let mut runs = 0;
    let mut reached = Vec::new();
    loop {
        let mut batches = 0;
        let run = catch_unwind(AssertUnwindSafe(|| {
            prepare_at(
                pace,
                &config,
                directory.path(),
                &out,
                &hub(),
                Other::Replace,
                &mut |progress| {
                    if progress.stage == Stage::Encode {
                        batches += 1;
                        reached.push(progress.documents);
                        assert!(batches < 4, "the process ends here");
                    }
                },
            )
        }));
        runs += 1;
        match run {
            Ok(prepared) => break drop(prepared.unwrap()),
            Err(_) => assert!(!out.join(SUMMARY).exists()),
        }
    }
    assert!(runs > 8, "{runs}");
    assert!(reached.is_sorted(), "nothing is done twice: {reached:?}");
    assert_eq!(bytes(&out), bytes(&whole));
    assert!(!out.join("unfinished").exists());
}

#[test]
fn files_that_changed_meanwhile_begin_anew() {
    let directory = tempfile::tempdir().unwrap();
    write_mixture(directory.path());
    let config = config(MIXTURE);
    let (out, pace) =
        (directory.path().join("out"), Pace { batch_bytes: 700, save_every: Duration::ZERO });
    let stop =
        |progress: Progress| assert!(progress.documents < 30 || progress.stage != Stage::Encode);
    let run = AssertUnwindSafe(|| {
        prepare_at(pace, &config, directory.path(), &out, &hub(), Other::Replace, &mut { stop })
    });
    assert!(catch_unwind(run).is_err());
    assert!(out.join("unfinished/progress.json").exists());
    std::fs::write(directory.path().join("a.txt"), corpus(151)).unwrap();
    prepare(&config, directory.path(), &out, &hub(), Other::Replace, &mut |_| ()).unwrap();
    let whole = directory.path().join("whole");
    prepare(&config, directory.path(), &whole, &hub(), Other::Replace, &mut |_| ()).unwrap();
    assert_eq!(bytes(&out), bytes(&whole));
}

#[test]
fn publishing_goes_on_wherever_it_was_ended() {
    let directory = tempfile::tempdir().unwrap();
    write_mixture(directory.path());
    let config = config(MIXTURE);
    let whole = directory.path().join("whole");
    let prepared =
        prepare(&config, directory.path(), &whole, &hub(), Other::Replace, &mut |_| ()).unwrap();
    let files = bytes(&whole);
    for moved in 0..=files.len() {
        let out = directory.path().join(format!("out{moved}"));
        let unfinished = Unfinished::open(&out).unwrap();
        for (name, bytes) in &files {
            std::fs::write(unfinished.path(name), bytes).unwrap();
        }
        unfinished.save(&Saved::nothing(&prepared.summary.sha256, "tokenizer.json", 3)).unwrap();
        let names = files.iter().map(|(name, _)| name).filter(|name| *name != SUMMARY);
        for name in names.take(moved) {
            std::fs::rename(unfinished.path(name), out.join(name)).unwrap();
        }
        drop(unfinished);
        assert!(
            !prepare(&config, directory.path(), &out, &hub(), Other::Replace, &mut |_| ())
                .unwrap()
                .reused
        );
        assert_eq!(bytes(&out), files);
    }
}

#[test]
fn a_changed_token_file_and_another_version_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(300)).unwrap();
    let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    run(&config, directory.path()).unwrap();
    let out = directory.path().join("out");
    let opened = || Prepared::open(&out).unwrap_err().to_string();
    for name in ["train.tokens", "valid.tokens"] {
        let path = out.join(name);
        let good = std::fs::read(&path).unwrap();
        let mut swapped = good.clone();
        let last = swapped.len() - 1;
        swapped[last - 1] ^= 1;
        std::fs::write(&path, &swapped).unwrap();
        assert!(opened().contains(&format!("{name}: its SHA-256 must be ")), "{}", opened());
        std::fs::write(&path, &good).unwrap();
    }
    Prepared::open(&out).unwrap();
    let record = std::fs::read_to_string(out.join(SUMMARY)).unwrap();
    std::fs::write(out.join(SUMMARY), record.replace("\"version\": 2", "\"version\": 1")).unwrap();
    assert!(
        opened().ends_with("data.json: the version must be 2, is 1: prepare the data again"),
        "{}",
        opened()
    );
    assert!(!run(&config, directory.path()).unwrap().reused);
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(300)).unwrap();
    let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
    let out = directory.path().join("out");
    let other = Unfinished::open(&out).unwrap();
    let error = run(&config, directory.path()).unwrap_err().to_string();
    assert!(error.ends_with("out: another process prepares data here"), "{error}");
    drop(other);
    run(&config, directory.path()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn only_regular_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.txt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["pipe.txt", "/dev/zero", "."] {
        let error = run(&config(&format!("train = [\"{name}\"]")), directory.path())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with(": must be a regular file"), "{error}");
    }
}

#[test]
fn a_table_of_other_tokens_is_refused_by_the_first_key_that_differs() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), corpus(50)).unwrap();
    let made =
        run(&config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n"), directory.path()).unwrap();
    let check = |toml: &str| made.summary.check(&config(toml), &made.directory);
    // Windows decide no token, and a directory may have moved.
    check("train = [\"/far/away/a.txt\"]\nvalid_fraction = 0.1\nwindows = \"documents\"\n")
        .unwrap();
    for (toml, words) in [
        ("train = [\"b.txt\"]\nvalid_fraction = 0.1\n", "data.train is [\"b.txt\"]"),
        ("train = [\"a.txt\"]\n", "data.valid_fraction is 0.01"),
        ("train = [\"a.txt\"]\nvalid = [\"a.txt\"]\n", "data.valid_fraction is unset"),
        (
            "train = [\"a.txt\"]\nvalid_fraction = 0.1\nseparator = \"none\"\n",
            "data.separator is \"none\"",
        ),
        (
            "corpus = \"stories\"\ntrain_stories = 1\nvalid_stories = 1\n",
            "data.corpus is \"stories\"",
        ),
        ("[[sources]]\nname = \"x\"\ntrain = [\"a.txt\"]\n", "the sources must be"),
    ] {
        let error = check(toml).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("out"), "{error}");
    }
}
