//! The whole road through the binary, on a model that trains in a second: prepare, train, stop, resume, export, verify,
//! generate; and what each command says to bad input.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod workplace;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use workplace::{Workplace, json, lasting_files, stderr};

#[test]
fn a_stopped_and_resumed_run_leaves_the_bytes_of_one_that_was_not() {
    resumes_to_the_bit(1..8, &[]);
}

#[test]
fn muon_and_two_stages_resume_to_the_bit() {
    // The second stage begins with step 5.
    resumes_to_the_bit(3..6, &["train.optimizer.kind=muon", "train.schedule.kind=two_stage"]);
}

#[test]
fn gpt2_and_minilm_resume_to_the_bit() {
    resumes_to_the_bit(3..5, &["model.architecture=gpt2"]);
    resumes_to_the_bit(3..5, &["model.architecture=bitgpt", "model.quantizer=minilm"]);
}

fn resumes_to_the_bit(stops: Range<u64>, settings: &[&str]) {
    let place = Workplace::new();
    place.done(&[&["train", "run.toml", "--out", "whole"], settings].concat());
    for stop in stops {
        let (out, stop) = (format!("stopped-{stop}"), stop.to_string());
        let begin = ["train", "run.toml", "--out", &out, "--stop-at", &stop];
        place.done(&[&begin[..], settings].concat());
        place.done(&["train", "--resume", "--out", &out]);
        let (whole, resumed) =
            (lasting_files(&place.path("whole")), lasting_files(&place.path(&out)));
        let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
            files.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&whole), names(&resumed), "stopped after {stop}");
        for ((name, whole), (_, resumed)) in whole.iter().zip(&resumed) {
            assert!(whole == resumed, "stopped after {stop}: {name} differs");
        }
    }
}

#[test]
fn a_checkpoint_of_another_optimizer_is_refused_by_name() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2"]);
    let muon = "train.optimizer.kind=muon";
    let message = place.failed(&["train", "run.toml", "--out", "run", "--resume", muon]);
    let words = r#"train.optimizer.kind was "adamw", is "muon""#;
    assert!(message.contains(words), "{message}");
    // The same where the saved configuration itself was changed.
    for (from, to) in [("adamw", "muon"), ("muon", "adamw")] {
        let config = place.path("run/config.toml");
        let text = fs::read_to_string(&config).unwrap();
        let [old, new] = [from, to].map(|kind| format!("kind = \"{kind}\""));
        assert!(text.contains(&old), "{text}");
        fs::write(&config, text.replace(&old, &new)).unwrap();
        let message = place.failed(&["train", "--resume", "--out", "run"]);
        let words = format!("another optimizer than train.optimizer.kind, {to}, which has no");
        assert!(message.contains(&words), "{message}");
        fs::remove_dir_all(place.path("run")).unwrap();
        place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2", muon]);
    }
}

#[test]
fn the_road_from_text_to_a_story() {
    let place = Workplace::new();
    let report = json(&place.done(&["--json", "train", "run.toml", "--out", "run"]));
    assert_eq!(report["step"], 8);
    assert_eq!(report["finished"], true);
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 8);
    for (step, line) in (1..).zip(metrics.lines()) {
        let line = json(line);
        assert_eq!(line["step"], step);
        assert_eq!(line["tokens"], step * 2 * 2 * 32);
        assert_eq!(line["val_loss"].is_number(), step % 4 == 0, "{line}");
    }
    assert_eq!(fs::read_to_string(place.path("run/timings.jsonl")).unwrap().lines().count(), 8);

    let exported = json(&place.done(&["--json", "export", "run"]));
    assert_eq!(exported["step"], 8);
    let again = place.done(&["--json", "export", "run", "--out", "again.safetensors"]);
    assert_eq!(json(&again)["check_loss"], exported["check_loss"]);
    let (one, two) = (place.path("run/model.safetensors"), place.path("again.safetensors"));
    assert!(fs::read(one).unwrap() == fs::read(two).unwrap(), "export is not a pure function");

    let report = json(&place.done(&["--json", "verify", "run/model.safetensors"]));
    assert_eq!(report["verdict"], "packed");
    // The file's loss is the trainer's: weight-only parity.
    let difference = report["loss"]["difference"].as_f64().unwrap();
    assert!(difference.abs() < 1e-3, "{difference}");

    let story =
        |seed: &str| place.done(&["--json", "generate", "run/model.safetensors", "--seed", seed]);
    let text = |story: &str| json(story)["text"].clone();
    assert_eq!(text(&story("3")), text(&story("3")), "generation is not a function of the seed");
    assert_ne!(text(&story("3")), text(&story("4")));
}

#[test]
fn a_model_for_other_programs_leaves_the_packed_model_as_it_is() {
    let place = Workplace::new();
    let bpe = "data.tokenizer={train=\"bpe\",vocab_size=400,byte_fallback=false}";
    place.done(&["train", "run.toml", bpe, "--out", "run", "--stop-at", "2"]);
    let to_gguf = ["--json", "export", "run", "--to", "gguf", "--type", "f16"];
    let report = json(&place.done(&to_gguf));
    assert_eq!(report["type"], "f16");
    assert!(!place.path("run/model.safetensors").exists(), "an export for others leaves a model");
    let of_run = fs::read(place.path("run/model.gguf")).unwrap();
    assert_eq!(report["size_bytes"].as_u64(), Some(of_run.len() as u64));
    place.done(&["export", "run", "--encoding", "t5"]);
    let packed = || fs::read(place.path("run/model.safetensors")).unwrap();
    let before = packed();
    place.done(&to_gguf);
    place.done(&["export", "run", "--to", "hf"]);
    assert!(packed() == before, "an export for others changed the packed model");
    // Of the packed model itself the file is the same.
    place.done(&["export", "run/model.safetensors", "--to", "gguf", "--type", "f16"]);
    assert!(fs::read(place.path("run/model.gguf")).unwrap() == of_run);
    for (arguments, words) in [
        (&["run", "--to", "gguf", "--encoding", "t5"][..], "--encoding goes with --to tern"),
        (&["run/model.safetensors", "--to", "hf", "--data", "x"], "which --data wants"),
        (&["run/model.safetensors", "--to", "hf", "--checkpoint", "2"], "which --checkpoint wants"),
        (&["run", "--type", "f16"], "--type goes with --to gguf or --to hf"),
    ] {
        let message = place.failed(&[&["export"], arguments].concat());
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
}

#[test]
fn every_preset_takes_the_road() {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "text"]);
    for (name, settings) in [
        ("bitgpt", &[][..]),
        ("bitgpt", &["model.quantizer=minilm"]),
        ("gpt2", &[]),
        ("bitnet", &[]),
        ("llama", &[]),
        ("tern", &[]),
    ] {
        let out = format!("{name}-{}", settings.len());
        let architecture = format!("model.architecture={name}");
        let train = ["train", "run.toml", &architecture, "train.steps=4", "--data", "text"];
        place.done(&[&train[..], &["--out", &out], settings].concat());
        let metrics = fs::read_to_string(place.path(&out).join("metrics.jsonl")).unwrap();
        let first = json(metrics.lines().next().unwrap())["loss"].as_f64().unwrap();
        assert!((first - f64::from(400).ln()).abs() < 0.1, "{name} begins with a loss of {first}");

        place.done(&["export", &out]);
        let output = place.tern(&["--json", "verify", &out]);
        let report = json(std::str::from_utf8(&output.stdout).unwrap());
        // A float model is exported and runs, but is not ternary.
        let is_float = name == "llama";
        let verdict = if is_float { "not_ternary" } else { "packed" };
        assert_eq!(report["verdict"], verdict, "{name}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(if is_float { 3 } else { 0 }), "{name}");
        assert_eq!(report["loss"]["agrees"], true, "{name}: {}", report["loss"]);
        // Queries, keys and values of GPT-2 were one matrix to the quantizer.
        let scale = |part: &str| {
            let name = format!("model.layers.1.self_attn.{part}_proj.weight");
            let tensors = report["tensors"].as_array().unwrap();
            tensors.iter().find(|tensor| tensor["name"] == *name).unwrap()["scale"].clone()
        };
        assert_eq!(scale("q") == scale("k"), is_float || name == "gpt2", "{name}");
        place.done(&["generate", &out, "--max-tokens", "5"]);
    }
}

#[test]
fn a_dry_run_counts_bitlm() {
    let place = Workplace::new();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let config = configs.join("bitlm-tinystories.toml");
    // Its text need not be here, but some text must.
    let text = place.path("run.toml");
    let files = ["train", "valid"].map(|key| format!("data.{key}=['{}']", text.display()));
    let plan = json(&place.done(&[
        "--json",
        "train",
        config.to_str().unwrap(),
        "--dry-run",
        &files[0],
        &files[1],
        "data.tokenizer={train=\"bpe\",vocab_size=192,byte_fallback=false}",
    ]));
    assert_eq!(plan["parameters"], 998_784);
    assert_eq!(plan["ternary_parameters"], 972_800);
    assert_eq!(plan["tokens_per_step"], 384 * 512);
    assert_eq!(plan["steps"], 100_000);
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Workplace::new();
    for command in [
        &["quickstart"][..],
        &["data", "prepare"],
        &["data", "fetch"],
        &["data", "stats"],
        &["config"],
        &["train"],
        &["sweep"],
        &["export"],
        &["report"],
        &["plot"],
        &["verify"],
        &["generate"],
        &["bench"],
        &["import"],
        &["devices"],
        &["completions"],
        &["man"],
    ] {
        let help = place.done(&[command, &["--help"]].concat());
        assert!(help.contains("Example"), "{command:?}: {help}");
        assert!(help.contains(&format!("tern {}", command.join(" "))), "{command:?}: {help}");
    }
    let version = place.done(&["--version"]);
    assert!(version.contains("commit") && version.contains("kernel"), "{version}");
}

#[test]
fn bad_words_are_refused_with_the_rule() {
    let place = Workplace::new();
    for (arguments, words) in [
        (&["train", "missing.toml"][..], &["missing.toml", "No such file"][..]),
        (&["train", "run.toml", "train.stepz=3"], &["stepz", "did you mean `train.steps`"]),
        (&["train", "run.toml", "steps"], &["steps", "key=value"]),
        (&["train", "run.toml", "--device", "tpu"], &["tpu", "cpu"]),
        (&["train", "run.toml", "data.seq_len=65"], &["data.seq_len", "64", "65"]),
        (&["train", "--resume", "--out", "nothing"], &["nothing"]),
        (&["export", "nothing"], &["nothing"]),
        (&["verify", "run.toml"], &["run.toml", "safetensors"]),
        (&["generate", "nothing.safetensors"], &["nothing.safetensors", "No such file"]),
        (&["data", "stats", "nothing"], &["nothing"]),
    ] {
        let message = place.failed(arguments);
        for word in words {
            assert!(message.contains(word), "{arguments:?} lacks {word:?}: {message}");
        }
    }
}

#[test]
fn a_run_is_not_overwritten_and_not_mixed_with_another() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2"]);
    let before = lasting_files(&place.path("run"));
    let message = place.failed(&["train", "run.toml", "--out", "run"]);
    assert!(message.contains("--resume"), "{message}");
    let message = place.failed(&["train", "run.toml", "--out", "run", "--resume", "train.steps=9"]);
    assert!(message.contains("train.steps was 8, is 9"), "{message}");
    assert!(before == lasting_files(&place.path("run")), "a refused command changed the run");
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_used() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "5"]);
    let latest = place.path("run/checkpoints/step-00000005/model.safetensors");
    let mut bytes = fs::read(&latest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&latest, bytes).unwrap();
    let output = place.tern(&["train", "--resume", "--out", "run"]);
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("step-00000005") && message.contains("checksum"), "{message}");
    assert!(message.contains("resumed after step 4"), "{message}");
    // With every checkpoint gone bad there is nothing to go on from.
    for entry in fs::read_dir(place.path("run/checkpoints")).unwrap() {
        fs::write(entry.unwrap().path().join("state.json"), "{").unwrap();
    }
    let message = place.failed(&["train", "--resume", "--out", "run"]);
    assert!(message.contains("no checkpoint to go on from"), "{message}");
}

#[test]
fn broken_model_files_are_named() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "1"]);
    place.done(&["export", "run"]);
    let good = fs::read(place.path("run/model.safetensors")).unwrap();
    let bad = place.path("bad.safetensors");
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("oversized", [&good[..], &[0; 100]].concat()),
        ("mislabelled", b"GGUF\x03\x00\x00\x00".repeat(20)),
    ] {
        fs::write(&bad, bytes).unwrap();
        for command in ["verify", "generate"] {
            let message = place.failed(&[command, "bad.safetensors"]);
            assert!(message.contains("bad.safetensors"), "{name}: {message}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "1"]);
    place.done(&["export", "run"]);
    let message = place.failed(&["export", "run", "--out", "/dev/full"]);
    assert!(message.contains("/dev/full") && message.contains("space"), "{message}");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["--json", "verify", "run/model.safetensors"])
        .current_dir(place.path(""))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("space"), "{}", stderr(&output));
}

#[test]
fn a_refused_run_leaves_the_data_of_the_run_that_is_there() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2"]);
    let before = lasting_files(&place.path("run"));
    for resume in [&[][..], &["--resume"]] {
        let arguments = ["train", "run.toml", "--out", "run", "data.stories_seed=9"];
        place.failed(&[&arguments[..], resume].concat());
        assert!(before == lasting_files(&place.path("run")), "a refused command changed the run");
    }
}

#[test]
fn a_model_is_not_exported_with_other_data() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2"]);
    place.done(&["data", "prepare", "run.toml", "data.stories_seed=9", "--out", "other"]);
    let message = place.failed(&["export", "run", "--data", "other"]);
    assert!(message.contains("was trained on other data"), "{message}");
}

#[test]
fn a_run_finds_its_data_wherever_they_are() {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "runs/text"]);
    let train = ["train", "run.toml", "--data", "runs/text", "--out", "runs/one"];
    place.done(&[&train[..], &["--stop-at", "2"]].concat());
    place.done(&["train", "--resume", "--out", "runs/one", "--stop-at", "8"]);
    assert!(!place.path("runs/one/data").exists(), "the data were prepared again");
    // A finished run is not worked on any more.
    let sessions = || fs::read_to_string(place.path("runs/one/sessions.jsonl")).unwrap();
    let before = sessions();
    assert_eq!(before.lines().count(), 2);
    assert!(before.contains("\"data\":\"../text\""), "{before}");
    place.done(&["train", "--resume", "--out", "runs/one"]);
    assert_eq!(sessions(), before);
    // Both move together.
    fs::rename(place.path("runs"), place.path("moved")).unwrap();
    place.done(&["export", "moved/one"]);
    place.done(&["data", "stats", "moved/one"]);
    place.done(&["report", "moved/one"]);
    let page = || fs::read_to_string(place.path("moved/one/report.html")).unwrap();
    assert!(page().contains("validation tokens") && !page().contains("not found"));
    fs::remove_dir_all(place.path("moved/text")).unwrap();
    place.done(&["report", "moved/one"]);
    assert!(
        page().contains("not found") && page().contains("looked for in"),
        "the data are missed"
    );
    let message = place.failed(&["export", "moved/one"]);
    assert!(message.contains("../text: holds no prepared data"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_no_file_to_write() {
    let place = Workplace::new();
    let pipe = |name: &str| {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(place.path(name)).status();
        assert!(made.unwrap().success());
    };
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "2"]);
    pipe("out.svg");
    for command in ["export", "report", "plot"] {
        let message = place.failed(&[command, "run", "--out", "out.svg"]);
        assert!(message.contains("out.svg: must be a regular file"), "{message}");
    }
    pipe("sweep/sweep.json");
    let sweep = ["sweep", "run.toml", "seed=1", "--out", "sweep"];
    let message = place.failed(&sweep);
    assert!(message.contains("sweep.json: must be a regular file"), "{message}");
    fs::remove_file(place.path("sweep/sweep.json")).unwrap();
    fs::write(place.path("sweep/sweep.csv"), "my own table\n").unwrap();
    let message = place.failed(&sweep);
    assert!(message.contains("sweep.csv: is no table of a sweep"), "{message}");
    fs::remove_file(place.path("run/sessions.jsonl")).unwrap();
    pipe("run/sessions.jsonl");
    let output = place.tern(&["train", "--resume", "--out", "run"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("sessions.jsonl: must be a regular file"));
}

#[test]
fn own_text_takes_the_road_with_the_published_configuration() {
    let place = Workplace::new();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    fs::copy(configs.join("own-text.toml"), place.path("my.toml")).unwrap();
    let text: String = (0..400)
        .map(|i| format!("Chapter {i}. A fox met {} hens, and they had tea.\n\n", i * 7 % 13))
        .collect();
    fs::write(place.path("my.txt"), text).unwrap();
    let small = ["data.tokenizer.vocab_size=300", "data.seq_len=32", "train.steps=2"];
    place.done(&[&["train", "my.toml"][..], &small].concat());
    place.done(&["export", "runs/my"]);
    place.done(&["verify", "runs/my/model.safetensors"]);
    place.done(&["generate", "runs/my/model.safetensors", "A fox", "--max-tokens", "5"]);
    let stats = json(&place.done(&["--json", "data", "stats", "runs/my"]));
    let documents = |side: &str| stats["sources"][0][side]["documents"].as_u64().unwrap();
    assert_eq!(documents("train") + documents("valid"), 400);
}

#[test]
fn texts_that_cannot_be_learned_from_are_refused_with_the_reason() {
    let place = Workplace::new();
    let mine = r#"
[model]
architecture = "bitlm"
[data]
train = ["my.txt"]
separator = "blank_line"
seq_len = 64
micro_batch = 2
[data.tokenizer]
train = "bpe"
vocab_size = 270
"#;
    fs::write(place.path("my.toml"), mine).unwrap();
    for (text, words) in [
        (&b""[..], &["my.txt", "no documents"][..]),
        (b"\n\n  \n\n", &["my.txt", "no documents"]),
        (b"good\n\nbad \xff\n", &["my.txt:3", "UTF-8"]),
    ] {
        fs::write(place.path("my.txt"), text).unwrap();
        let message = place.failed(&["train", "my.toml"]);
        for word in words {
            assert!(message.contains(word), "lacks {word:?}: {message}");
        }
    }
    // Enough documents for both sides, but all of them together shorter than a window.
    let text: String = (0..40).map(|i| format!("{i}\n\n")).collect();
    fs::write(place.path("my.txt"), text).unwrap();
    let arguments =
        ["train", "my.toml", "data.valid_fraction=0.5", "data.tokenizer.vocab_size=260"];
    let message = place.failed(&arguments);
    assert!(message.contains("shorter than one window"), "{message}");
    // Lines of JSON are checked one by one.
    fs::write(place.path("my.jsonl"), "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").unwrap();
    let message = place.failed(&["train", "my.toml", "data.train=[\"my.jsonl\"]"]);
    assert!(message.contains("my.jsonl:2"), "{message}");
}

#[test]
fn tokens_of_another_vocabulary_are_refused() {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "one"]);
    place.done(&["data", "prepare", "run.toml", "--out", "two", "data.tokenizer.vocab_size=300"]);
    fs::copy(place.path("two/train.tokens"), place.path("one/train.tokens")).unwrap();
    let message = place.failed(&["data", "stats", "one"]);
    assert!(message.contains("train.tokens: its SHA-256 must be"), "{message}");
    // A model with fewer rows than the tokenizer has ids.
    let message = place.failed(&["train", "run.toml", "model.vocab_size=100", "--out", "small"]);
    assert!(message.contains("model.vocab_size") && message.contains("400"), "{message}");
}

#[test]
fn quiet_json_and_no_color_are_honoured() {
    let place = Workplace::new();
    let output = place.tern(&["--quiet", "train", "run.toml", "--out", "run", "--stop-at", "1"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    let output = place.tern(&["-v", "train", "--resume", "--out", "run", "--stop-at", "2"]);
    let said = stderr(&output);
    assert!(said.contains("hidden_size = 32") && said.contains("saved"), "{said}");
    for (variable, colored) in [("NO_COLOR", false), ("CLICOLOR_FORCE", true)] {
        let output = Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(["verify", "nothing"])
            .env_remove("NO_COLOR")
            .env(variable, "1")
            .output()
            .unwrap();
        assert_eq!(stderr(&output).contains('\u{1b}'), colored, "{variable}: {}", stderr(&output));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_missing_adapter_says_what_to_install() {
    let place = Workplace::new();
    let output = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["train", "run.toml", "--device", "wgpu", "--out", "run"])
        .current_dir(place.path(""))
        // No driver for the Vulkan loader to load, by the variable's new name and its old one.
        .env("VK_DRIVER_FILES", "/nowhere")
        .env("VK_ICD_FILENAMES", "/nowhere")
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no GPU adapter was found; install a Vulkan driver"), "{said}");
    assert!(!place.path("run").exists(), "something was written");
}
