//! A directory to run the binary in, on a model that trains in a second.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) const CONFIG: &str = r#"
seed = 7
[model]
architecture = "bitlm"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 64
[data]
corpus = "stories"
train_stories = 300
valid_stories = 20
seq_len = 32
micro_batch = 2
[data.tokenizer]
train = "unigram"
vocab_size = 400
[train]
steps = 8
grad_accum = 2
eval_every = 4
checkpoint_every = 3
[samples]
every = 4
max_tokens = 8
[generate]
max_tokens = 20
"#;

pub(crate) struct Workplace(TempDir);

impl Workplace {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("run.toml"), CONFIG).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn tern(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("TERN_KERNEL")
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.tern(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with exit code 1 and returns its message.
    pub(crate) fn failed(&self, arguments: &[&str]) -> String {
        let output = self.tern(arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message
    }

    /// Runs a command on a pseudo-terminal of 40 lines, which `script` of util-linux makes; behind its output stand its exit
    /// code and whether the terminal's modes are the same. None without `script`, which with `TERN_CI` set is a failure.
    pub(crate) fn on_a_terminal(&self, columns: usize, command: &str) -> Option<Child> {
        if Command::new("script").arg("--version").output().is_err() {
            assert!(
                std::env::var_os("TERN_CI").is_none(),
                "TERN_CI is set, and there is no `script`"
            );
            println!("skipped: there is no `script` to make a terminal");
            return None;
        }
        let shell = format!(
            "trap : INT; stty rows 40 cols {columns}; before=$(stty -g); {} {command}; echo code=$?; \
             test $(stty -g) = $before && echo same modes",
            env!("CARGO_BIN_EXE_tern")
        );
        let terminal = Command::new("script")
            .args(["-qc", &shell, "/dev/null"])
            .current_dir(self.path(""))
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(terminal)
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Every file below a directory that a resumed run must repeat, with its bytes.
pub(crate) fn lasting_files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if !["timings.jsonl", "sessions.jsonl"]
                .contains(&path.file_name().unwrap().to_str().unwrap())
            {
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                all.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}
