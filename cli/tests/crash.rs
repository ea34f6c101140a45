//! What a crash may cost: nothing but the steps since the last checkpoint.
#![cfg(all(feature = "train", unix))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which say what they did and what they skipped"
)]

mod workplace;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use workplace::{Workplace, lasting_files, stderr};

/// Killed this often; `TERN_KILLS=200 cargo test --release -p tern --test crash` is the long form.
fn wanted_kills() -> u32 {
    std::env::var("TERN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

fn start(place: &Workplace, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(arguments)
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether a checkpoint is being written right now.
fn writes_checkpoint(run: &Path) -> bool {
    fs::read_dir(run.join("checkpoints")).is_ok_and(|mut entries| {
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".step-"))
    })
}

/// Noise from a fixed seed, below `n`.
fn draw(state: &mut u64, n: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) % n
}

/// A run of 300 steps with frequent checkpoints.
fn begin(out: &str) -> [&str; 11] {
    [
        "train",
        "run.toml",
        "--data",
        "data",
        "--out",
        out,
        "train.steps=300",
        "train.checkpoint_every=7",
        "train.eval_every=50",
        "samples.every=0",
        "--quiet",
    ]
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_bytes_of_one_that_was_not() {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "data"]);
    place.done(&begin("whole"));
    let whole = lasting_files(&place.path("whole"));

    let (mut kills, mut inside_a_write, mut rounds) = (0, 0, 0);
    let mut noise = 0x5EED;
    // Past the number wanted only until one kill has met a checkpoint half written.
    let more = |kills, inside| kills < wanted_kills() || (inside == 0 && kills < 100);
    while more(kills, inside_a_write) {
        rounds += 1;
        let out = format!("killed-{rounds}");
        let run = place.path(&out);
        loop {
            let resume = ["train", "--resume", "--data", "data", "--out", &out];
            let begun = run.join("config.toml").exists();
            let mut child =
                start(&place, &if begun { resume.to_vec() } else { begin(&out).to_vec() });
            let began = Instant::now();
            // Every other time, wait for the moment in which a checkpoint is half written.
            let hunts = kills % 2 == 1;
            let patience =
                Duration::from_millis(if hunts { 10_000 } else { draw(&mut noise, 900) });
            while began.elapsed() < patience && child.try_wait().unwrap().is_none() {
                if hunts && writes_checkpoint(&run) {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            if more(kills, inside_a_write) && child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                inside_a_write += u32::from(writes_checkpoint(&run));
                continue;
            }
            assert!(child.wait().unwrap().success(), "{out} did not resume");
            break;
        }
        let resumed = lasting_files(&run);
        assert_eq!(whole.len(), resumed.len(), "{out}");
        for ((name, whole), (_, resumed)) in whole.iter().zip(&resumed) {
            assert!(whole == resumed, "{out}: {name} differs");
        }
    }
    println!(
        "{kills} kills in {rounds} runs, {inside_a_write} of them inside the write of a checkpoint"
    );
    assert!(inside_a_write > 0, "no kill met a checkpoint being written");
}

/// A run with checkpoints at steps 2, 4 and 6 of 8.
fn stopped_run(place: &Workplace) {
    let keep = ["train.checkpoint_every=2", "train.keep_checkpoints=9", "train.eval_every=8"];
    let arguments = [&["train", "run.toml", "--out", "run", "--stop-at", "6"], &keep[..]].concat();
    place.done(&arguments);
}

fn resume(place: &Workplace) -> Output {
    place.tern(&["train", "--resume", "--out", "run"])
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_message() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("checksum", |checkpoint| {
            let path = checkpoint.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("checksum", |checkpoint| {
            let path = checkpoint.join("optimizer.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("state.json", |checkpoint| {
            let path = checkpoint.join("state.json");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("is not that of the directory's name", |checkpoint| {
            let path = checkpoint.join("state.json");
            let text = fs::read_to_string(&path).unwrap().replace("\"step\": 6,", "\"step\": 5,");
            fs::write(path, text).unwrap();
        }),
    ];
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "whole", "train.keep_checkpoints=9"]);
    for (message, damage) in damages {
        stopped_run(&place);
        damage(&place.path("run/checkpoints/step-00000006"));
        let output = resume(&place);
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(message) && said.contains("step-00000006"), "{said}");
        assert!(said.contains("resumed after step 4"), "{said}");
        assert_eq!(
            fs::read(place.path("run/checkpoints/step-00000008/model.safetensors")).unwrap(),
            fs::read(place.path("whole/checkpoints/step-00000008/model.safetensors")).unwrap(),
            "{message}"
        );
        fs::remove_dir_all(place.path("run")).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_does_not_crowd_out_a_whole_one() {
    let place = Workplace::new();
    let keep = ["train.checkpoint_every=2", "train.keep_checkpoints=1", "train.eval_every=8"];
    place.done(&[&["train", "run.toml", "--out", "run", "--stop-at", "4"], &keep[..]].concat());
    let four = place.path("run/checkpoints/step-00000004");
    let six = place.path("run/checkpoints/step-00000006");
    fs::create_dir(&six).unwrap();
    fs::write(six.join("state.json"), "{").unwrap();
    place.done(&["train", "--resume", "--out", "run", "--stop-at", "5"]);
    assert!(place.path("run/checkpoints/step-00000005").exists(), "what was saved is gone");
    assert!(!four.exists(), "one is kept");
    place.done(&["train", "--resume", "--out", "run"]);
}

#[test]
fn checkpoints_that_are_gone_are_missed() {
    let place = Workplace::new();
    stopped_run(&place);
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    let said = stderr(&resume(&place));
    assert!(said.contains("metrics.jsonl knows 6 steps"), "{said}");
}

#[test]
fn two_trainers_do_not_share_a_directory() {
    let place = Workplace::new();
    let mut first = start(&place, &["train", "run.toml", "--out", "run", "train.steps=100000"]);
    let began = Instant::now();
    while !place.path("run/metrics.jsonl").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "the first trainer did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = place.failed(&["train", "--resume", "--out", "run"]);
    assert!(said.contains("another process is training here"), "{said}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock ends with its process, and what the first trainer did is still a run.
    place.done(&["train", "--resume", "--out", "run", "--stop-at", "1"]);
}

/// Runs `tern` in a shell that lets no file grow beyond `blocks` of 512 bytes: writes fall short as on a full disk.
fn with_small_files(place: &Workplace, blocks: u32, arguments: &[&str]) -> Output {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_tern")])
        .args(arguments)
        .current_dir(place.path(""))
        .output()
        .unwrap()
}

fn hidden_files(directory: &Path) -> Vec<String> {
    let names = lasting_files(directory).into_iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with('.') || name.contains("/.")).collect()
}

#[test]
fn a_disk_that_fills_up_costs_no_checkpoint() {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "data"]);
    place.done(&["train", "run.toml", "--data", "data", "--out", "run", "--stop-at", "3"]);
    let before = lasting_files(&place.path("run/checkpoints"));
    let resume = ["train", "--resume", "--data", "data", "--out", "run"];
    let output = with_small_files(&place, 64, &resume);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("checkpoints") && said.contains("too large"), "{said}");
    assert!(hidden_files(&place.path("run")).is_empty(), "a temporary file stayed");
    assert!(lasting_files(&place.path("run/checkpoints")) == before, "a checkpoint was lost");
    // With room again, the run goes on to the same end, without what a killed writer left.
    for left in ["run/.tern-x1y2z3", "run/checkpoints/.tern-a"] {
        fs::write(place.path(left), "half").unwrap();
    }
    place.done(&["train", "--resume", "--out", "run"]);
    assert!(hidden_files(&place.path("run")).is_empty(), "a temporary file stayed");
    place.done(&["train", "run.toml", "--data", "data", "--out", "whole"]);
    assert!(lasting_files(&place.path("run")) == lasting_files(&place.path("whole")));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = Workplace::new();
    let closed = place.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        println!("skipped: this user writes where permissions forbid it");
        return;
    }
    let said = place.failed(&["train", "run.toml", "--out", "closed/run"]);
    assert!(said.contains("closed/run") && said.contains("ermission denied"), "{said}");
}

#[test]
fn a_run_that_is_not_finite_stops_with_its_last_good_state() {
    let place = Workplace::new();
    // Logits overflow from the first step on, so no step is ever taken.
    let overflow = ["train", "run.toml", "--out", "run", "model.initializer_range=1e30"];
    let said = place.failed(&overflow);
    assert!(said.contains("step 1 was skipped: its gradient norm is NaN"), "{said}");
    assert!(said.contains("5 steps in a row up to step 5 were skipped"), "{said}");
    assert!(said.contains("step-00000000 holds the last good state, after step 0"), "{said}");
    let events = fs::read_to_string(place.path("run/events.jsonl")).unwrap();
    assert_eq!(events.matches("\"kind\":\"skipped\"").count(), 5, "{events}");
    assert!(events.contains("\"windows\":["), "{events}");

    // What was validated or saved among the skipped steps is no good state, also where another process goes on there.
    let states = || -> Vec<(u64, Option<u64>)> {
        let checkpoints = tern_train::checkpoint::list(&place.path("row/checkpoints")).unwrap();
        let state = |path: &Path| tern_train::checkpoint::read_state(path).unwrap();
        checkpoints
            .iter()
            .map(|(step, path)| (*step, state(path).best.map(|best| best.step)))
            .collect()
    };
    let row = ["model.initializer_range=1e30", "train.eval_every=2", "train.checkpoint_every=3"];
    place.done(&[&["train", "run.toml", "--out", "row", "--stop-at", "4"], &row[..]].concat());
    assert_eq!(states(), [(2, Some(2)), (3, Some(2)), (4, Some(2))]);
    for _ in 0..2 {
        let said = place.failed(&["train", "--resume", "--out", "row"]);
        assert!(said.contains("step-00000000 holds the last good state, after step 0"), "{said}");
        assert_eq!(states(), [(0, Some(0))]);
    }

    // A finite gradient whose update overflows: the state before it is on the disk.
    place.done(&[
        "train",
        "run.toml",
        "--out",
        "far",
        "train.optimizer.learning_rate=1e38",
        "train.schedule.warmup_steps=0",
        "--stop-at",
        "0",
    ]);
    let said = place.failed(&["train", "--resume", "--out", "far"]);
    assert!(said.contains("not finite"), "{said}");
    for entry in fs::read_dir(place.path("far/checkpoints")).unwrap() {
        let path = entry.unwrap().path().join("model.safetensors");
        let (tensors, _) = tern_format::safetensors::read_f32(&path).unwrap();
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        assert!(tensors.values().all(|(_, values)| finite(values)), "{}", path.display());
    }
}
