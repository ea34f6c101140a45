//! Several processes that train one model: the bytes of one process, whatever happens to one of them.
#![cfg(all(feature = "train", unix))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, which say what they did and what they skipped"
)]

mod workplace;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use workplace::{Workplace, lasting_files, stderr};

/// A run of eight steps of four micro-steps each, which 1, 2 and 4 ranks can share.
const OVERRIDES: [&str; 2] = ["train.grad_accum=4", "train.keep_checkpoints=9"];

/// Whether there is an MPI to test with; else says why not. With `TERN_CI` set a build with MPI needs its launcher.
fn can_test() -> bool {
    let launcher = Command::new("mpirun").arg("--version").output().is_ok();
    let missing = match (cfg!(feature = "mpi"), launcher) {
        (true, true) => return true,
        (false, _) => "this build has no feature mpi",
        (true, false) => "there is no mpirun",
    };
    let needed = cfg!(feature = "mpi") && std::env::var_os("TERN_CI").is_some();
    assert!(!needed, "TERN_CI is set, and {missing}");
    println!("skipped: {missing}");
    false
}

/// `tern` on some ranks. Each has all cores, as a process alone has: sums may depend on the number of threads.
fn mpirun(place: &Workplace, ranks: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()])
        .arg(env!("CARGO_BIN_EXE_tern"))
        .args(arguments)
        .current_dir(place.path(""))
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env_remove("TERN_KERNEL")
        .stdin(Stdio::null());
    command
}

fn run(place: &Workplace, ranks: usize, arguments: &[&str]) -> Output {
    mpirun(place, ranks, arguments).output().unwrap()
}

fn done(place: &Workplace, ranks: usize, arguments: &[&str]) -> Output {
    let output = run(place, ranks, arguments);
    assert!(output.status.success(), "{arguments:?} on {ranks}: {}", stderr(&output));
    output
}

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "run.toml", "--data", "data", "--out", out], &OVERRIDES[..], more].concat()
}

fn prepared() -> Workplace {
    let place = Workplace::new();
    place.done(&["data", "prepare", "run.toml", "--out", "data"]);
    place
}

fn assert_same_files(one: &Path, other: &Path) {
    let (one, other) = (lasting_files(one), lasting_files(other));
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&one), names(&other));
    for ((name, one), (_, other)) in one.iter().zip(&other) {
        assert!(one == other, "{name} differs");
    }
}

#[test]
fn any_number_of_ranks_writes_the_bytes_of_one_process() {
    if !can_test() {
        return;
    }
    let place = prepared();
    place.done(&train("one", &[]));
    for ranks in [2, 4] {
        let out = format!("ranks-{ranks}");
        let output = done(&place, ranks, &train(&out, &[]));
        assert_same_files(&place.path("one"), &place.path(&out));
        // Printed once.
        let said = stderr(&output);
        assert_eq!(said.matches("finished after step 8").count(), 1, "{said}");
        assert_eq!(said.matches("passes over the text").count(), 1, "{said}");
        let sessions = fs::read_to_string(place.path(&out).join("sessions.jsonl")).unwrap();
        assert_eq!(sessions.lines().count(), 1, "{sessions}");
    }
    println!("2 and 4 ranks wrote what one process did");
}

#[test]
fn the_data_are_prepared_once_and_the_object_of_json_is_printed_once() {
    if !can_test() {
        return;
    }
    let place = Workplace::new();
    let output = done(&place, 2, &["--json", "train", "run.toml", "--out", "run"]);
    let object = workplace::json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(object["finished"], true);
    place.done(&["train", "run.toml", "--out", "one"]);
    assert_same_files(&place.path("one"), &place.path("run"));
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    if !can_test() {
        return;
    }
    let place = prepared();
    let whole = [&train("whole", &[])[..], &["train.checkpoint_every=2"]].concat();
    place.done(&whole);
    done(&place, 4, &train("run", &["train.checkpoint_every=2", "--stop-at", "2"]));
    let go_on = ["train", "--resume", "--data", "data", "--out", "run", "--stop-at"];
    done(&place, 2, &[&go_on[..], &["4"]].concat());
    place.done(&[&go_on[..], &["6"]].concat());
    done(&place, 2, &[&go_on[..], &["8"]].concat());
    assert_same_files(&place.path("whole"), &place.path("run"));
}

#[test]
fn what_is_wrong_is_said_once_and_ends_all_ranks() {
    if !can_test() {
        return;
    }
    let place = prepared();
    let output = run(&place, 3, &train("run", &[]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let rule = "train.grad_accum must be a multiple of the number of ranks, 3, among which the micro-batches of a \
                step are shared, is 4";
    assert_eq!(said.matches(rule).count(), 1, "{said}");
    assert!(!place.path("run").exists());
    // A state that no rank may leave behind: the first names it, the others are silent.
    let overflow = ["train.grad_accum=2", "model.initializer_range=1e30"];
    let output = run(&place, 2, &train("far", &overflow));
    let said = stderr(&output);
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.matches("5 steps in a row up to step 5 were skipped").count(), 1, "{said}");
    assert!(place.path("far/checkpoints/step-00000000").exists());
}

/// The processes of a job by their rank: those of mpirun's children that have it in their environment.
fn process_of_rank(mpirun: &Child, rank: usize) -> Option<u32> {
    let parent = format!("\nPPid:\t{}\n", mpirun.id());
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let mut processes = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let status = fs::read_to_string(path.join("status")).ok()?;
        let environment = fs::read(path.join("environ")).ok()?;
        let has = environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes());
        (status.contains(&parent) && has).then_some(id)
    });
    processes.next()
}

#[test]
fn a_killed_rank_ends_the_job_and_costs_no_checkpoint() {
    if !can_test() {
        return;
    }
    if !cfg!(target_os = "linux") {
        println!("skipped: the processes of a job are found in /proc");
        return;
    }
    let place = prepared();
    let settings = ["train.grad_accum=2", "train.steps=60", "train.checkpoint_every=1"];
    place.done(&train("whole", &settings));
    for rank in [0, 1] {
        let out = format!("killed-{rank}");
        let mut job = mpirun(&place, 2, &train(&out, &settings));
        let job = job.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while !place.path(&out).join("checkpoints/step-00000003").exists() {
            assert!(began.elapsed() < Duration::from_secs(120), "the job did not start");
            std::thread::sleep(Duration::from_millis(2));
        }
        let victim = process_of_rank(&job, rank).unwrap().to_string();
        assert!(Command::new("kill").args(["-9", &victim]).status().unwrap().success());
        let output = job.wait_with_output().unwrap();
        let said = stderr(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&format!("process rank {rank}")), "{said}");
        // Each checkpoint that has its name is whole, and a process alone goes on from the last.
        let checkpoints =
            tern_train::checkpoint::list(&place.path(&out).join("checkpoints")).unwrap();
        assert!(!checkpoints.is_empty());
        for (_, checkpoint) in checkpoints {
            tern_train::checkpoint::check(&checkpoint).unwrap();
        }
        place.done(&["train", "--resume", "--data", "data", "--out", &out]);
        assert_same_files(&place.path("whole"), &place.path(&out));
    }
}

#[test]
fn an_interrupted_job_saves_and_leaves_at_one_step() {
    if !can_test() {
        return;
    }
    if !cfg!(target_os = "linux") {
        println!("skipped: the processes of a job are found in /proc");
        return;
    }
    let place = prepared();
    let settings = ["train.grad_accum=2", "train.steps=100000", "train.checkpoint_every=100000"];
    let mut job = mpirun(&place, 2, &train("run", &settings));
    let job = job.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = place.path("run/metrics.jsonl");
    let began = Instant::now();
    while !fs::metadata(&metrics).is_ok_and(|metadata| metadata.len() > 0) {
        assert!(began.elapsed() < Duration::from_secs(120), "the job did not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    // Told to one rank, known to all.
    let one = process_of_rank(&job, 1).unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &one]).status().unwrap().success());
    let output = job.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("go on with: tern train --resume --out run"), "{said}");
    let checkpoints = tern_train::checkpoint::list(&place.path("run/checkpoints")).unwrap();
    let steps = fs::read_to_string(&metrics).unwrap().lines().count() as u64;
    assert_eq!(checkpoints.last().unwrap().0, steps);
}

#[test]
fn a_program_without_mpi_refuses_to_be_one_of_many() {
    if cfg!(feature = "mpi") {
        println!("skipped: this build has the feature mpi");
        return;
    }
    let place = Workplace::new();
    let output = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["train", "run.toml", "--out", "run"])
        .current_dir(place.path(""))
        .env("OMPI_COMM_WORLD_RANK", "1")
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("build with `--features mpi`"), "{said}");
    assert!(!place.path("run").exists());
}
