//! `tern data fetch`

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tern_datasets::hub::{Address, Hub};

use crate::terminal::{Terminal, bytes};

/// Fetch files from the Hugging Face hub, check them, and print where they lie.
///
/// hf://OWNER/NAME/FILE is a file of a model, hf://datasets/OWNER/NAME/FILE one of a data set; @REVISION behind NAME
/// is a branch, tag or commit. * in FILE stands for any characters, and without FILE all files are meant. A
/// configuration may name files in the same way. A fetch that was interrupted goes on where it stood.
///
/// The environment: HF_TOKEN for what is private or gated, HF_HOME for the place of the cache, HF_ENDPOINT for another
/// hub, HF_HUB_OFFLINE=1 as --offline.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern data fetch hf://datasets/roneneldan/TinyStories/TinyStories-valid.txt
  tern data fetch --offline hf://HuggingFaceTB/SmolLM-135M/tokenizer.json")]
pub(crate) struct Arguments {
    /// What to fetch, for example hf://datasets/OWNER/NAME@main/data/*.parquet.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Use the cache alone.
    #[arg(long)]
    offline: bool,
}

#[derive(Serialize)]
struct Report {
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    name: String,
    path: std::path::PathBuf,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(10);
    let hub = Hub::from_env().with_offline(arguments.offline);
    let bar =
        terminal.bar(0, "{bar:24.green} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}");
    let mut said = Instant::now();
    let mut files = Vec::new();
    for address in &arguments.addresses {
        let found = hub.fetch(address, &mut |transfer| {
            bar.set_length(transfer.total_bytes);
            bar.set_position(transfer.bytes);
            bar.set_message(transfer.name.to_owned());
            if !terminal.is_live() && said.elapsed() >= PAUSE {
                let (done, total) = (bytes(transfer.bytes), bytes(transfer.total_bytes));
                terminal.say(&format!("fetching {}: {done} of {total}", transfer.name));
                said = Instant::now();
            }
        });
        if found.is_err() {
            bar.finish_and_clear();
        }
        files.extend(found?.into_iter().map(|file| File { name: file.name, path: file.path }));
    }
    bar.finish_and_clear();
    let text: String = files.iter().map(|file| format!("{}\n", file.path.display())).collect();
    terminal.result(&Report { files }, &text)
}
