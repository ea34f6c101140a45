//! Watching a run: the page about it, the curves of several, and the dashboard on a terminal.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod workplace;

use std::fs;

use workplace::{Workplace, json, stderr};

/// A finished and exported run of eight steps.
fn finished() -> Workplace {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "run"]);
    place.done(&["export", "run"]);
    place
}

fn page(place: &Workplace) -> String {
    fs::read_to_string(place.path("run/report.html")).unwrap()
}

#[test]
fn the_report_of_a_finished_run_has_its_numbers_and_refers_to_nothing() {
    let place = finished();
    let report = json(&place.done(&["--json", "report", "run"]));
    assert_eq!(report["state"], "finished");
    assert_eq!((&report["step"], &report["steps"]), (&8.into(), &8.into()));
    assert_eq!(report["verdict"], "packed");
    assert_eq!(report["damage"], serde_json::json!([]));
    let page = page(&place);
    let best = format!("{:.4}", report["best"]["val_loss"].as_f64().unwrap());
    let verified = json(&place.done(&["--json", "verify", "run/model.safetensors"]));
    let bits = format!("{:.3}", verified["bits_per_weight"].as_f64().unwrap());
    let loss = format!("{:.6}", verified["loss"]["file"].as_f64().unwrap());
    for words in
        [&best, &bits, &loss, "layers.1.mlp.down_proj", "hidden_size = 32", "bits per byte"]
    {
        assert!(page.contains(words), "lacks {words:?}");
    }
    assert_eq!(page.matches("<svg").count(), 6, "a chart is missing");
    // Nothing is fetched and nothing is run.
    for words in ["http", "<script", "src=", "@import", "url("] {
        assert!(!page.contains(words), "has {words:?}");
    }
    // It is a function of what lies in the directory.
    place.done(&["report", "run", "--out", "again.html"]);
    assert!(page == fs::read_to_string(place.path("again.html")).unwrap());
}

#[test]
fn hostile_text_of_a_run_is_only_text() {
    let place = finished();
    let evil = "<script>alert('&quot;')</script><img src=x onerror=alert(1)>";
    let sample = serde_json::json!({"step": 8, "prompt": evil, "text": "</div></style>{{ name }}"});
    fs::write(place.path("run/samples.jsonl"), format!("{sample}\n")).unwrap();
    let event = serde_json::json!({"step": 3, "kind": "spike", "message": evil});
    fs::write(place.path("run/events.jsonl"), format!("{event}\n<b>no JSON</b>\n")).unwrap();
    let report = json(&place.done(&["--json", "report", "run"]));
    assert_eq!((&report["samples"], &report["events"]), (&1.into(), &1.into()));
    let page = page(&place);
    assert!(!page.contains("<script") && !page.contains("<img"), "hostile markup survived");
    assert!(!page.contains("</div></style>") && page.contains("{{ name }}"));
    assert_eq!(page.matches("&lt;script&gt;alert").count(), 2);
}

#[test]
fn a_run_is_reported_at_every_stage() {
    let place = Workplace::new();
    let state = || json(&place.done(&["--json", "report", "run"]))["state"].clone();
    place.done(&["train", "run.toml", "--out", "run", "--stop-at", "0"]);
    assert_eq!(state(), "empty");
    place.done(&["train", "--resume", "--out", "run", "--stop-at", "5"]);
    assert_eq!(state(), "interrupted");
    assert!(page(&place).contains("tern train --resume --out run"));
    // Damage is named, and what is whole is shown all the same.
    let metrics = place.path("run/metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, text.replacen("{\"step\":2", "{\"stop\":2", 1) + "{\"step\":6,\"lo")
        .unwrap();
    fs::write(place.path("run/model.safetensors"), "no model").unwrap();
    fs::write(place.path("run/checkpoints/step-00000005/state.json"), "{").unwrap();
    let output = place.tern(&["--json", "report", "run"]);
    let report = json(&String::from_utf8(output.stdout.clone()).unwrap());
    assert_eq!((&report["step"], &report["verdict"]), (&5.into(), &serde_json::Value::Null));
    assert_eq!(report["damage"].as_array().unwrap().len(), 2, "{report}");
    let said = stderr(&output);
    assert!(said.contains("metrics.jsonl:2") && said.contains("step-00000005"), "{said}");
    let page = page(&place);
    assert!(page.contains("metrics.jsonl:2") && page.contains("unreadable"));
    let message = place.failed(&["report", "nowhere"]);
    assert!(message.contains("nowhere"), "{message}");
    let message = place.failed(&["report", "."]);
    assert!(message.contains("holds no run"), "{message}");
}

#[test]
fn a_running_run_is_called_so() {
    let place = Workplace::new();
    let mut trainer = std::process::Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["train", "run.toml", "--out", "run", "--quiet", "train.steps=1000000"])
        .current_dir(place.path(""))
        .spawn()
        .unwrap();
    let has_step = || fs::read(place.path("run/metrics.jsonl")).is_ok_and(|text| !text.is_empty());
    let steps = wait_for(has_step);
    let report = place.tern(&["--json", "report", "run"]);
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    assert!(steps, "no step was taken");
    assert!(report.status.success(), "{}", stderr(&report));
    assert_eq!(json(&String::from_utf8(report.stdout).unwrap())["state"], "running");
}

#[test]
fn plots_are_whole_pictures() {
    let place = finished();
    let float =
        ["train", "run.toml", "--out", "float", "model.quantizer=none", "--data", "run/data"];
    place.done(&float);
    let report = json(&place.done(&["--json", "plot", "run", "float", "--out", "two.svg"]));
    assert_eq!(report["runs"][0]["points"], 8);
    assert_eq!(report["runs"].as_array().unwrap().len(), 2);
    let svg = fs::read_to_string(place.path("two.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    for words in ["run, validation", "float", "optimizer step", "loss, nats per token", "<polyline"]
    {
        assert!(svg.contains(words), "lacks {words:?}");
    }
    for metric in ["loss", "val_loss", "grad_norm", "lr", "tokens_per_second", "zeros"] {
        for x in ["step", "tokens", "seconds"] {
            place.done(&["plot", "run", "--metric", metric, "--x", x, "--log", "--out", "one.png"]);
            let png = fs::read(place.path("one.png")).unwrap();
            assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "{metric} over {x}");
            let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
            assert_eq!((side(16), side(20)), (1920, 1080));
        }
    }
    // One of two runs has trits: the other is named and left out.
    let output = place.tern(&["plot", "run", "float", "--metric", "zeros", "--out", "zeros.svg"]);
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("float") && said.contains("trits"), "{said}");
}

#[test]
fn what_cannot_be_plotted_is_said() {
    let place = Workplace::new();
    place.done(&["train", "run.toml", "--out", "empty", "--stop-at", "0"]);
    for (arguments, words) in [
        (&["plot", "nowhere"][..], &["nowhere"][..]),
        (&["plot", "."], &["holds no run"]),
        (&["plot", "empty"], &["nothing to draw", "loss"]),
        (&["plot", "empty", "--out", "loss.pdf"], &["loss.pdf", ".svg", ".png"]),
    ] {
        let message = place.failed(arguments);
        for word in words {
            assert!(message.contains(word), "{arguments:?} lacks {word:?}: {message}");
        }
    }
}

#[test]
fn the_end_and_doubtful_settings_are_said() {
    let place = Workplace::new();
    let said = stderr(&place.tern(&["train", "run.toml", "--out", "run"]));
    // The default warm-up is longer than the eight steps.
    assert!(said.contains("lies in the warm-up"), "{said}");
    assert!(said.contains("finished after step 8") && !said.contains("already"), "{said}");
    assert!(said.contains("tern export run"), "{said}");
    let said = stderr(&place.tern(&["train", "--resume", "--out", "run"]));
    assert!(said.contains("already finished after step 8"), "{said}");
    let tiny = ["train", "run.toml", "--out", "tiny", "train.grad_accum=500", "--stop-at", "0"];
    let said = stderr(&place.tern(&tiny));
    assert!(said.contains("the text is tiny"), "{said}");
}

/// Waits up to a minute.
fn wait_for(condition: impl Fn() -> bool) -> bool {
    let began = std::time::Instant::now();
    while began.elapsed().as_secs() < 60 {
        if condition() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    false
}

/// The dashboard in a pseudo-terminal, which `script` of util-linux makes.
#[cfg(target_os = "linux")]
mod on_a_terminal {
    use std::io::Write;
    use std::process::Child;
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// Trains on a terminal of 120 by 40, types each key after a pause once steps are taken, and returns all that the
    /// terminal was sent, then the exit code of `tern` and whether the terminal's modes are the same; none as [`train`].
    fn train_and_type(place: &Workplace, options: &str, keys: &[&[u8]]) -> Option<String> {
        let mut terminal = train(place, options)?;
        let mut typed = terminal.stdin.take().unwrap();
        if !keys.is_empty() {
            wait_for_a_step(place);
        }
        for key in keys {
            // The dashboard reads keys ten times a second.
            sleep(Duration::from_millis(700));
            typed.write_all(key).unwrap();
            typed.flush().unwrap();
        }
        let output = terminal.wait_with_output().unwrap();
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wait_for_a_step(place: &Workplace) {
        let metrics = place.path("run/metrics.jsonl");
        assert!(wait_for(|| fs::read(&metrics).is_ok_and(|text| !text.is_empty())));
    }

    /// Starts training on a terminal; none as [`Workplace::on_a_terminal`].
    fn train(place: &Workplace, options: &str) -> Option<Child> {
        place.on_a_terminal(120, &format!("train run.toml --out run {options}"))
    }

    /// The alternate screen was shown and left, the cursor is visible, the terminal is in its usual modes.
    fn assert_restored(said: &str) {
        let last = |sequence: &str| said.rfind(sequence);
        assert!(last("\x1b[?1049h").is_some(), "no dashboard: {said}");
        assert!(last("\x1b[?1049l") > last("\x1b[?1049h"), "still on the alternate screen: {said}");
        assert!(last("\x1b[?25h") > last("\x1b[?25l"), "no cursor: {said}");
        assert!(last("\x1b[?1000l") > last("\x1b[?1000h"), "the mouse is still caught: {said}");
        assert!(said.contains("same modes"), "the modes of the terminal are others: {said}");
    }

    const LONG: &str = "--progress dashboard train.steps=1000000 train.checkpoint_every=5";

    #[test]
    fn a_run_that_ends_by_itself_says_what_happened() {
        let place = Workplace::new();
        let Some(said) = train_and_type(&place, "", &[]) else { return };
        assert_restored(&said);
        let after = &said[said.rfind("\x1b[?1049l").unwrap()..];
        assert!(after.contains("code=0"), "{after}");
        assert!(after.contains("step 8: validation loss"), "{after}");
        assert!(after.contains("finished after step 8"), "{after}");
    }

    #[test]
    fn quitting_and_interrupting_save() {
        for keys in [&[&b"q"[..], b"s"][..], &[b"\x03"]] {
            let place = Workplace::new();
            let Some(said) = train_and_type(&place, LONG, keys) else { return };
            assert_restored(&said);
            assert!(said.contains("saved after step") && said.contains("code=130"), "{said}");
            place.done(&["train", "--resume", "--out", "run", "--stop-at", "1"]);
        }
    }

    #[test]
    fn a_killed_run_says_how_to_go_on() {
        let place = Workplace::new();
        let Some(said) = train_and_type(&place, LONG, &[b"q", b"k"]) else { return };
        assert_restored(&said);
        let after = &said[said.rfind("\x1b[?1049l").unwrap()..];
        assert!(after.contains("killed; the last checkpoint is after step"), "{after}");
        assert!(after.contains("tern train --resume --out run"), "{after}");
        assert!(after.contains("code=1\r"), "{after}");
        place.done(&["train", "--resume", "--out", "run", "--stop-at", "1"]);
    }

    #[test]
    fn an_error_leaves_the_dashboard_before_it_is_printed() {
        let place = Workplace::new();
        let options = "--progress dashboard model.initializer_range=1e30";
        let Some(said) = train_and_type(&place, options, &[]) else { return };
        assert_restored(&said);
        let after = &said[said.rfind("\x1b[?1049l").unwrap()..];
        assert!(after.contains("error") && after.contains("skipped"), "{after}");
        assert!(after.contains("code=1\r"), "{after}");
    }

    #[test]
    fn a_terminal_that_is_closed_saves() {
        let place = Workplace::new();
        let Some(mut terminal) = train(&place, LONG) else { return };
        wait_for_a_step(&place);
        sleep(Duration::from_millis(700));
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let report = || json(&place.done(&["--json", "report", "run"]));
        assert!(wait_for(|| report()["state"] == "interrupted"), "it goes on without a terminal");
        let step = report()["step"].as_u64().unwrap();
        let saved = place.path(&format!("run/checkpoints/step-{step:08}"));
        assert!(saved.exists(), "{} is not there", saved.display());
    }
}
