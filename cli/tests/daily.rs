//! The commands of every day: configurations explained, sweeps, completions, manual, log; and what is said when
//! something is wrong.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod workplace;

use std::fs;
use std::process::{Command, Stdio};

use workplace::{CONFIG, Workplace, json, lasting_files, stderr};

#[test]
fn a_configuration_is_printed_as_a_run_would_save_it() {
    let place = Workplace::new();
    let printed = place.done(&["config", "run.toml", "train.steps=3"]);
    place.done(&["train", "run.toml", "train.steps=3", "--out", "run", "--stop-at", "1"]);
    assert_eq!(printed, fs::read_to_string(place.path("run/config.toml")).unwrap());
    let resolved = json(&place.done(&["--json", "config", "run.toml", "train.steps=3"]));
    assert_eq!(resolved["train"]["steps"], 3);
    assert_eq!(resolved["model"]["head_dim"], 16);
}

#[test]
fn keys_are_explained_and_the_schema_is_that_of_the_file() {
    let place = Workplace::new();
    let all = place.done(&["config", "--explain"]);
    for words in [
        "train.steps = 1000\n",
        "data.seq_len  (required)\n",
        "whole number; 1 to 65,536; unit: windows\n",
        "model.quantizer = \"b158\" (bitlm, bitgpt, bitnet, tern), \"seed1\" (gpt2), \"none\" (llama)\n",
        "\"cosine\"     Warm-up",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    assert!(all.lines().all(|line| line.chars().count() <= 100));
    // Every key of a resolved configuration is explained.
    let resolved: toml_like::Keys = place.done(&["config", "run.toml"]).parse().unwrap();
    for key in resolved.0 {
        assert!(all.contains(&format!("{key} ")), "{key} is not explained");
    }
    let one = place.done(&["config", "--explain", "train.guard.most_skipped"]);
    assert_eq!(one.matches("\n\n").count(), 0, "{one}");
    let schema = json(&place.done(&["--json", "config", "--explain"]));
    assert_eq!(schema["properties"]["train"]["properties"]["steps"]["default"], 1_000);
    assert_eq!(schema["properties"]["train"]["properties"]["steps"]["unit"], "steps");
    for (prefix, meant) in [("trian.steps", "train.steps"), ("schedule", "train.schedule")] {
        let message = place.failed(&["config", "--explain", prefix]);
        assert!(message.contains(&format!("did you mean `{meant}`")), "{message}");
    }
}

/// Dotted keys of the TOML that the program prints: tables and one line a key.
mod toml_like {
    pub(crate) struct Keys(pub(crate) Vec<String>);

    impl std::str::FromStr for Keys {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            let (mut table, mut keys) = (String::new(), Vec::new());
            for line in text.lines() {
                if let Some(name) = line.strip_prefix('[') {
                    table = format!("{}.", name.trim_end_matches(']'));
                } else if let Some((key, _)) = line.split_once(" = ") {
                    keys.push(format!("{table}{key}"));
                }
            }
            if keys.len() > 30 { Ok(Self(keys)) } else { Err(()) }
        }
    }
}

#[test]
fn a_sweep_shares_data_skips_what_is_finished_and_goes_on() {
    let place = Workplace::new();
    let grid = ["sweep", "run.toml", "train.optimizer.learning_rate=1e-3,1e-2", "seed=1,2"];
    let sweep =
        |more: &[&'static str]| [&["--json"][..], &grid, &["--out", "sweep"], more].concat();

    let costs = json(&place.done(&sweep(&["--dry-run"])));
    let costs = &costs["runs"];
    assert_eq!(costs.as_array().unwrap().len(), 4);
    assert_eq!(costs[0]["parameters"], 33_440);
    assert!(costs[0]["training_seconds"].as_f64().unwrap() > 0.0);
    assert!(!place.path("sweep").exists(), "a dry run writes nothing");

    // One of the runs is there, stopped half way.
    let first = "sweep/learning_rate=1e-3,seed=2";
    let settings = ["train.optimizer.learning_rate=1e-3", "seed=2"];
    let train = ["train", "run.toml", "--out", first, "--stop-at", "4"];
    place.done(&[&train[..], &settings].concat());
    let rows = json(&place.done(&sweep(&[])));
    let rows = rows["runs"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let losses: Vec<f64> = rows.iter().map(|row| row["val_loss"].as_f64().unwrap()).collect();
    assert!(losses.is_sorted(), "{losses:?}");
    for row in rows {
        assert_eq!((&row["status"], &row["step"]), (&"finished".into(), &8.into()), "{row}");
        assert!(row["loss"].is_number() && row["tokens_per_second"].is_number(), "{row}");
    }
    assert_eq!(fs::read_dir(place.path("sweep/data")).unwrap().count(), 1);
    let csv = fs::read_to_string(place.path("sweep/sweep.csv")).unwrap();
    assert!(csv.starts_with("name,train.optimizer.learning_rate,seed,status,step,"), "{csv}");
    assert_eq!(csv.lines().count(), 5);
    let written = fs::read_to_string(place.path("sweep/sweep.json")).unwrap();
    assert_eq!(json(&written)["runs"].as_array().unwrap(), rows);
    // The command that the sweep suggests finds the data that its runs share.
    place.done(&["export", first]);
    // A sweep is plotted by the name of its directory.
    let plot = json(&place.done(&["--json", "plot", "sweep", "--out", "all.svg"]));
    assert_eq!(plot["runs"].as_array().unwrap().len(), 4);
    assert_eq!(plot["runs"][0]["run"], format!("sweep/{}", rows[0]["name"].as_str().unwrap()));

    // A resumed run of the sweep is the run, and a finished one is left alone.
    place.done(&[&["train", "run.toml", "--out", "alone"][..], &settings].concat());
    let metrics = |run: &str| fs::read(place.path(run).join("metrics.jsonl")).unwrap();
    assert!(metrics(first) == metrics("alone"), "the resumed run differs");
    let before = lasting_files(&place.path("sweep"));
    place.done(&sweep(&[]));
    assert!(before == lasting_files(&place.path("sweep")), "a finished sweep changed");
}

#[test]
fn a_run_that_fails_does_not_stop_the_others() {
    let place = Workplace::new();
    let grid = ["sweep", "run.toml", "model.num_attention_heads=2,3", "--out", "sweep"];
    let output = place.tern(&[&["--json"][..], &grid].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 of 2 runs failed"), "{}", stderr(&output));
    let rows = &json(&String::from_utf8(output.stdout).unwrap())["runs"];
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"finished".into(), &"failed".into()));
    assert!(rows[1]["error"].as_str().unwrap().contains("num_attention_heads"), "{rows}");
    for (axes, words) in [
        (&["train.stepz=1,2"][..], "did you mean `train.steps`"),
        (&["seed=1,,2"], "a value is empty"),
        (&["seed=1", "seed=2"], "twice"),
    ] {
        let message = place.failed(&[&["sweep", "run.toml", "--out", "other"][..], axes].concat());
        assert!(message.contains(words), "{message}");
        assert!(!place.path("other").exists(), "a refused sweep wrote something");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_goes_on_with_the_same_command() {
    let place = Workplace::new();
    let grid = ["--json", "sweep", "run.toml", "seed=1,2", "samples.every=0", "--out", "sweep"];
    let long = [&grid[..], &["train.steps=100000", "train.eval_every=100000"]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(&long)
        .current_dir(place.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let run = "seed=1,every=0,steps=100000,eval_every=100000";
    let metrics = place.path("sweep").join(run).join("metrics.jsonl");
    for _ in 0..600 {
        if fs::metadata(&metrics).is_ok_and(|metadata| metadata.len() > 0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let rows = json(&fs::read_to_string(place.path("sweep/sweep.json")).unwrap());
    let words: Vec<&str> = rows["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["interrupted", "pending"]);
}

#[test]
fn completions_parse_and_every_command_has_a_page() {
    let place = Workplace::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.done(&["completions", shell]);
        assert!(script.contains("quickstart") && script.contains("dry-run"), "{shell}");
        fs::write(place.path(shell), script).unwrap();
    }
    if let Ok(status) = Command::new("bash").arg("-n").arg(place.path("bash")).status() {
        assert!(status.success());
    }
    let report = json(&place.done(&["--json", "man", "--out", "man"]));
    let pages = report["pages"].as_array().unwrap();
    for page in ["tern.1", "tern-train.1", "tern-data-prepare.1", "tern-sweep.1"] {
        assert!(pages.contains(&page.into()), "{page}: {report}");
    }
    for page in pages {
        let path = place.path("man").join(page.as_str().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(text.contains(section), "{page}: {section}");
        }
        assert!(text.contains(".SH EXAMPLES\n.nf\n") || page == "tern.1", "{page}: {text}");
        // Where there is a `man`, it must render without a complaint.
        let rendered = Command::new("man").arg("--warnings").arg("-l").arg(&path).output();
        if let Ok(output) = rendered.map_err(|error| eprintln!("man is not installed: {error}")) {
            assert!(output.status.success(), "{page}: {}", stderr(&output));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("SYNOPSIS") && stderr(&output).is_empty(), "{page}: {text}");
        }
    }
}

#[test]
fn the_log_is_off_unless_asked_for_and_json_stands_alone() {
    let place = Workplace::new();
    let log = |arguments: &[&str], variable: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(arguments)
            .current_dir(place.path(""))
            .env("TERN_LOG", variable)
            .output()
            .unwrap();
        (output.status.code(), stderr(&output), output.stdout)
    };
    fn run(out: &str) -> [&str; 4] {
        ["train", "run.toml", "--out", out]
    }
    let (_, said, _) = log(&run("a"), "");
    assert!(!said.contains("DEBUG") && said.contains("validation loss"), "{said}");
    for (arguments, variable) in [
        ([&run("b")[..], &["--log-level", "debug"]].concat(), ""),
        ([&run("c")[..], &["-v"]].concat(), ""),
        (run("d").to_vec(), "tern_train=debug"),
    ] {
        let (code, said, _) = log(&arguments, variable);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("DEBUG tern_train::checkpoint: saved a checkpoint"), "{said}");
    }
    let (code, said, _) = log(&run("e"), "=x=");
    assert_eq!(code, Some(1));
    assert!(said.contains("TERN_LOG"), "{said}");
    // A program that reads the one object need not filter anything else.
    let (code, said, out) =
        log(&[&["--json"], &run("f")[..], &["train.schedule.warmup_steps=2"]].concat(), "");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(json(&String::from_utf8(out).unwrap())["finished"], true);
}

#[test]
fn every_command_prints_one_object_under_json() {
    let place = Workplace::new();
    // A cache of the hub with one file in it.
    let repository = place.path("hf/hub/models--o--n");
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123").unwrap();
    fs::create_dir_all(repository.join("snapshots/0123")).unwrap();
    fs::write(repository.join("snapshots/0123/a.txt"), "text").unwrap();
    for command in [
        "config run.toml",
        "config --explain",
        "config --explain train.schedule",
        "data prepare run.toml --out text",
        "data stats text",
        "data fetch --offline hf://o/n/a.txt",
        "train run.toml --dry-run",
        "train run.toml --out run",
        "sweep run.toml seed=1,2 --dry-run",
        "sweep run.toml seed=1 --out sweep",
        "export run",
        "verify run",
        "generate run",
        "bench run --prompt-tokens 8 --decode-tokens 4 --repetitions 1",
        "report run",
        "plot run",
        "quickstart --steps 1",
        "devices",
        "completions bash",
        "man --out man",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tern"))
            .arg("--json")
            .args(command.split(' '))
            .current_dir(place.path(""))
            .env("HF_HOME", place.path("hf"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        let value = json(&String::from_utf8(output.stdout).unwrap());
        assert!(value.is_object(), "{command}: {value}");
    }
}

#[test]
fn a_model_of_transformers_is_imported_measured_and_read() {
    let place = Workplace::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/bitnet_hf_packed");
    fs::create_dir(place.path("theirs")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(format!("{golden}/{name}"), place.path(&format!("theirs/{name}"))).unwrap();
    }
    let import = ["import", "theirs", "--out", "ours.safetensors"];
    assert!(place.failed(&import).contains("theirs: holds no tokenizer.json"));
    let prepare = ["data", "prepare", "run.toml", "--out", "text", "data.tokenizer.vocab_size=290"];
    place.done(&prepare);
    fs::copy(place.path("text/tokenizer.json"), place.path("theirs/tokenizer.json")).unwrap();
    let said = place.done(&import);
    assert!(said.contains("ours.safetensors") && said.contains("of them ternary"), "{said}");
    assert!(place.failed(&import).contains("--replace"));
    let report = json(&place.done(&["--json", "bench", "ours.safetensors", "--threads", "2"]));
    assert_eq!((&report["threads"], &report["prompt_tokens"]), (&2.into(), &64.into()));
    assert!(report["decode_tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
    let verify = ["verify", "ours.safetensors", "--allow-unchecked-loss"];
    assert!(place.done(&verify).contains("packed"));
}

#[test]
fn a_setting_is_refused_with_the_place_where_it_was_set() {
    let place = Workplace::new();
    let message = place.failed(&["train", "run.toml", "train.steps=0"]);
    assert!(message.contains("command line, train.steps=0: train.steps must be"), "{message}");
    fs::write(place.path("bad.toml"), CONFIG.replace("steps = 8", "steps = 0")).unwrap();
    let message = place.failed(&["train", "bad.toml"]);
    assert!(message.contains("bad.toml:20: train.steps must be"), "{message}");
    fs::write(place.path("bad.toml"), b"seed = 1\n\xff").unwrap();
    let message = place.failed(&["train", "bad.toml"]);
    assert!(message.contains("bad.toml: line 2 must be UTF-8"), "{message}");
    for path in [".", "/dev/zero"] {
        let message = place.failed(&["train", path]);
        assert!(message.contains("must be a regular file"), "{message}");
    }
}

#[test]
fn a_profile_says_where_the_time_of_a_step_goes() {
    let place = Workplace::new();
    let profile = ["train", "run.toml", "--profile", "2"];
    let table = place.done(&profile);
    for words in [
        "forward ",
        "  ternary_linear 64x32x64 ",
        "  attention 2x32x2x2x16 ",
        "  between operations ",
        "backward ",
        "optimizer ",
        "  adamw ",
        "in all ",
        "100.0%\n",
        "\n2 steps of 128 random tokens on cpu: ",
        " in f32",
    ] {
        assert!(table.contains(words), "{words:?}: {table}");
    }
    assert!(!place.path("runs").exists(), "a profile writes nothing");

    place.done(&["data", "prepare", "run.toml", "--out", "d"]);
    let found = json(&place.done(&[&["--json"], &profile[..], &["--data", "d"]].concat()));
    assert_eq!(found["steps"], 2);
    assert_eq!(found["tokens"], 2 * 128);
    assert_eq!(found["tokens_are_random"], false);
    let rows = found["rows"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum("share") - 1.0).abs() < 1e-9, "{found}");
    assert!((sum("seconds") / found["seconds"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{found}");
    let linear = |phase: &str| {
        let of = |row: &&serde_json::Value| {
            row["phase"] == phase && row["operation"] == "ternary_linear 64x32x64"
        };
        rows.iter().find(of).unwrap_or_else(|| panic!("{found}"))
    };
    // Gate and up of two blocks, two micro-batches, two steps; each product is 2 * 64 * 32 * 64.
    assert_eq!(linear("forward")["calls"], 16);
    assert_eq!(linear("backward")["calls"], 16);
    assert_eq!(linear("forward")["flop"], 16 * 2 * 64 * 32 * 64);
    assert_eq!(linear("backward")["flop"], 32 * 2 * 64 * 32 * 64);
    let used = &found["utilization"];
    assert!(used["of_model"].as_f64().unwrap() > 0.0 && used["threads"].as_u64().unwrap() > 0);

    // Other devices compute after an operation has returned.
    let found = json(&place.done(&[&["--json"], &profile[..], &["--device", "ndarray"]].concat()));
    let rows = found["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["operation"].is_null()) && rows.len() > 4, "{found}");
    assert!(found["utilization"].is_null(), "{found}");
    let table = place.done(&[&profile[..], &["--device", "ndarray"]].concat());
    assert!(table.contains("Phases alone: ndarray composes Burn's operations"), "{table}");

    let message = place.failed(&[&profile[..], &["--data", "nothing"]].concat());
    assert!(message.contains("nothing"), "{message}");
    let output = place.tern(&["train", "run.toml", "--profile", "0"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!place.path("runs").exists(), "a profile writes nothing");
}

#[test]
fn a_dry_run_finds_what_the_run_would_lack() {
    let place = Workplace::new();
    let dry = |more: &[&'static str]| [&["train", "run.toml", "--dry-run"][..], more].concat();
    let plan = json(&place.done(&[&["--json"], &dry(&[])[..]].concat()));
    let bytes = |key: &str| plan[key].as_u64().unwrap();
    let parts = ["state_bytes", "activation_bytes", "temporary_bytes"].map(bytes);
    assert_eq!(bytes("memory_bytes"), parts.iter().sum::<u64>());
    assert!(plan["tokens_per_second"].as_f64().unwrap() > 0.0, "{plan}");
    assert!(!place.path("runs").exists(), "a dry run writes nothing");
    let message = place.failed(&dry(&["--device", "tpu"]));
    assert!(message.contains("tpu"), "{message}");
    let message = place.failed(&dry(&["--data", "nothing"]));
    assert!(message.contains("nothing"), "{message}");
    let text = CONFIG.replace(
        "corpus = \"stories\"\ntrain_stories = 300\nvalid_stories = 20",
        "train = [\"my.txt\"]",
    );
    fs::write(place.path("run.toml"), text).unwrap();
    let message = place.failed(&dry(&[]));
    assert!(message.contains("my.txt: No such file"), "{message}");
    // Tokens of other settings would make the saved configuration tell of another origin.
    let stories = ["data.corpus=stories", "data.train=[]", "data.train_stories=300"];
    let stories = [&stories[..], &["data.valid_stories=20"]].concat();
    place.done(&[&["data", "prepare", "run.toml", "--out", "d"], &stories[..]].concat());
    let message = place.failed(&dry(&["--data", "d"]));
    let rule = "run.toml:10: data.corpus is \"files\", but d/data.json says that the tokens were made with";
    assert!(message.contains(rule), "{message}");
    let more = [&["--data", "d", "data.tokenizer.vocab_size=300"], &stories[..]].concat();
    let message = place.failed(&dry(&more));
    let place_of_it =
        "command line, data.tokenizer.vocab_size=300: data.tokenizer.vocab_size is 300";
    assert!(message.contains(place_of_it) && message.contains("made with 400"), "{message}");
    place.done(&dry(&[&["--data", "d"], &stories[..]].concat()));
}

#[test]
fn a_run_that_took_no_step_begins_anew() {
    let place = Workplace::new();
    let stop = ["train", "run.toml", "--out", "run", "--stop-at", "0"];
    place.done(&stop);
    place.done(&stop);
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "1"]);
    let message = place.failed(&["train", "run.toml", "train.steps=9", "--out", "run"]);
    assert!(message.contains("with other settings: train.steps was 8, is 9"), "{message}");
    let message = place.failed(&["train", "run.toml", "train.steps=9", "--out", "run", "--resume"]);
    assert!(message.contains("give --resume and --out alone"), "{message}");
}

#[test]
fn an_export_replaces_nothing_but_a_packed_model() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run"]);
    let before = lasting_files(&place.path("run"));
    for out in ["run/config.toml", "run/checkpoints/step-00000008/model.safetensors"] {
        let message = place.failed(&["export", "run", "--out", out]);
        assert!(message.contains(out) && message.contains("is not overwritten"), "{message}");
    }
    assert!(before == lasting_files(&place.path("run")), "a refused export changed the run");
    let message = place.failed(&["export", "run", "--out", "nowhere/model.safetensors"]);
    assert!(!message.contains(".tern-"), "names a temporary file: {message}");
    for step in ["17", "x"] {
        let message = place.failed(&["export", "run", "--checkpoint", step]);
        assert!(message.contains("there are 6, 8"), "{message}");
    }
    place.done(&["export", "run"]);
    place.done(&["export", "run"]);
    let message = place.failed(&["verify", "run/checkpoints/step-00000008/model.safetensors"]);
    assert!(message.contains("`tern export run`"), "{message}");
}

#[test]
fn a_verdict_comes_first_and_the_table_when_asked_for() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "1"]);
    place.done(&["export", "run"]);
    let summary = place.done(&["verify", "run/model.safetensors"]);
    assert!(summary.starts_with("verdict     packed\n"), "{summary}");
    assert!(summary.lines().all(|line| line.chars().count() <= 100), "{summary}");
    for word in ["size ", "parameters ", "bits ", "zeros ", "weakest ", "loss "] {
        assert!(summary.contains(word), "{word}: {summary}");
    }
    let table = place.done(&["verify", "-v", "run/model.safetensors"]);
    assert!(table.starts_with(&summary) && table.contains("model.norm.weight"), "{table}");
}

#[test]
fn a_prompt_is_printed_once_the_options_are_good() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "1"]);
    place.done(&["export", "run"]);
    let long = "word ".repeat(100);
    for arguments in [&["Once", "--temperature", "-1"][..], &[&long]] {
        let output = place.tern(&[&["generate", "run/model.safetensors"], arguments].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
    let output = place.tern(&["generate", "-v", "run/model.safetensors", "--max-tokens", "3"]);
    assert!(stderr(&output).contains("; the most tokens were written"), "{}", stderr(&output));
    let text = place.done(&["generate", "run/model.safetensors", "Once", "--max-tokens", "0"]);
    assert_eq!(text, "Once\n");
}

#[test]
fn the_version_is_one_line_whatever_the_environment_says() {
    let version = Command::new(env!("CARGO_BIN_EXE_tern"))
        .arg("--version")
        .env("TERN_KERNEL", "foo")
        .output()
        .unwrap();
    let text = String::from_utf8(version.stdout).unwrap();
    assert!(version.status.success() && text.lines().count() == 1, "{text}");
    assert!(!text.contains("no kernel"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    let place = Workplace::new();
    for arguments in [&["config", "run.toml"][..], &["completions", "bash"], &["devices"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(arguments)
            .current_dir(place.path(""))
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("standard output: No space"), "{}", stderr(&output));
    }
}

#[test]
fn what_is_missing_or_doubtful_is_said_with_what_helps() {
    let place = Workplace::new();
    let message = place.failed(&["train", "run.toml", "--stop-at", "9"]);
    assert!(message.contains("--stop-at must be at most train.steps (8), is 9"), "{message}");
    let output = place.tern(&["train", "run.toml", "--out", "some/run", "--stop-at", "2"]);
    let tokens = 2 * 2 * 32;
    assert!(
        stderr(&output).contains(&format!("8 steps of {tokens} tokens: 0.")),
        "{}",
        stderr(&output)
    );
    let dry = ["--json", "train", "run.toml", "--out", "other", "--dry-run"];
    let dry = json(&place.done(&[&dry[..], &["--data", "some/run/data"]].concat()));
    assert!(dry["passes"].as_f64().unwrap() > 0.0, "{dry}");
    // A run that is not exported says how.
    for command in ["verify", "generate"] {
        let message = place.failed(&[command, "some/run"]);
        assert!(
            message.contains("no model.safetensors here")
                && message.contains("`tern export some/run`"),
            "{message}"
        );
    }
    place.done(&["report", "some/run"]);
    let page = fs::read_to_string(place.path("some/run/report.html")).unwrap();
    assert!(page.contains("not exported yet") && page.contains("tern export some"));
    place.done(&["export", "some/run"]);
    let model = tern_format::packed::PackedModel::read(&place.path("some/run/model.safetensors"));
    assert_eq!(model.unwrap().metadata.provenance.unwrap().run, "run");
    let said = |arguments: &[&str]| {
        let output = place.tern(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(!said(&["report", "some/run"]).contains("warning"));
    // What is damaged is said, not only drawn.
    fs::write(place.path("some/run/model.safetensors"), "no model").unwrap();
    let weights = place.path("some/run/checkpoints/step-00000002/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let warnings = said(&["report", "some/run"]);
    assert!(warnings.contains("some/run/model.safetensors: "), "{warnings}");
    assert!(warnings.contains("step-00000002/model.safetensors: checksum differs"), "{warnings}");
    // A float model is not ternary by its own declaration.
    place.done(&[
        "train",
        "run.toml",
        "model.architecture=llama",
        "--out",
        "float",
        "--stop-at",
        "1",
    ]);
    place.done(&["export", "float"]);
    let output = place.tern(&["verify", "float"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("because of model.quantizer = \"none\""), "{text}");
    assert!(text.contains("checksum    that of the file's bytes"), "{text}");
    // The same text on both sides.
    fs::write(place.path("my.txt"), "One.\n\nTwo and two.\n\nThree of them all.\n".repeat(50))
        .unwrap();
    let own = [
        "data.corpus=files",
        "data.train=['my.txt']",
        "data.valid=['my.txt']",
        "data.separator=blank_line",
    ];
    let text = fs::read_to_string(place.path("run.toml")).unwrap();
    let text = text.replace("corpus = \"stories\"\ntrain_stories = 300\nvalid_stories = 20\n", "");
    fs::write(place.path("run.toml"), text.replace("\nvocab_size = 400", "\nvocab_size = 262"))
        .unwrap();
    let warning = said(&[&["data", "prepare", "run.toml", "--out", "own"], &own[..]].concat());
    assert!(warning.contains("my.txt validates on text that is trained on"), "{warning}");
}
