//! The directory `unfinished` inside a prepared one: what a preparation has done so far, whoever ends it.
//!
//! It holds the tokenizer, the token files as they grow, and `progress.json`, which says how much of them counts. When
//! all is encoded the record `data.json` is written there too, and from then on only names move.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tern_format::atomic::{sync_directory, write_atomically};
use tern_format::lock::Lock;
use tern_format::regular_file::read_small;

use crate::error::{Error, Result};
use crate::input::Cursor;
use crate::summary::{MOST_BYTES, SUMMARY, Side, Summary, VERSION};

const NAME: &str = "unfinished";
const LOCK: &str = "lock";
const PROGRESS: &str = "progress.json";

/// The directory, held by this process alone.
#[derive(Debug)]
pub(crate) struct Unfinished {
    directory: PathBuf,
    _lock: Lock,
}

/// How far a preparation has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// The version of the record that will come of it.
    version: u32,
    /// The identity of the data.
    sha256: String,
    /// The tokenizer's file.
    pub(crate) tokenizer: String,
    /// Where reading goes on.
    pub(crate) cursor: Cursor,
    /// How much of each token file counts, training and validation of each source.
    pub(crate) sides: Vec<[Side; 2]>,
}

impl Saved {
    /// Nothing but a tokenizer, for so many sources.
    pub(crate) fn nothing(sha256: &str, tokenizer: &str, sources: usize) -> Self {
        Self {
            version: VERSION,
            sha256: sha256.to_owned(),
            tokenizer: tokenizer.to_owned(),
            cursor: Cursor::default(),
            sides: vec![[Side::default(); 2]; sources],
        }
    }

    /// The same data, further on.
    pub(crate) fn at(&self, cursor: Cursor, sides: Vec<[Side; 2]>) -> Self {
        Self { cursor, sides, ..self.clone() }
    }
}

impl Unfinished {
    /// Takes the directory for this process.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another process has it, and whatever stops it from being made.
    pub(crate) fn open(out: &Path) -> Result<Self> {
        let directory = out.join(NAME);
        fs::create_dir_all(&directory).map_err(Error::io(&directory))?;
        match Lock::take(&directory.join(LOCK))? {
            Some(lock) => Ok(Self { directory, _lock: lock }),
            None => Err(Error::Locked { path: out.to_owned() }),
        }
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What was done of data of this identity; what is there of other data is removed.
    pub(crate) fn saved(&self, sha256: &str) -> Result<Option<Saved>> {
        let bytes = read_small(&self.path(PROGRESS), MOST_BYTES).unwrap_or_default();
        let saved = serde_json::from_slice::<Saved>(&bytes).ok();
        let saved = saved.filter(|saved| saved.version == VERSION && saved.sha256 == sha256);
        if saved.is_none() {
            for entry in fs::read_dir(&self.directory).map_err(Error::io(&self.directory))? {
                let path = entry.map_err(Error::io(&self.directory))?.path();
                if !path.ends_with(LOCK) {
                    fs::remove_file(&path).map_err(Error::io(&path))?;
                }
            }
        }
        Ok(saved)
    }

    /// Records how far the work has come; what it speaks of must be on the disk.
    pub(crate) fn save(&self, saved: &Saved) -> Result<()> {
        self.write(PROGRESS, saved)
    }

    /// The record of data that only has to be published.
    pub(crate) fn finished(&self) -> Option<Summary> {
        serde_json::from_slice(&read_small(&self.path(SUMMARY), MOST_BYTES).ok()?).ok()
    }

    /// Records that all files are whole.
    pub(crate) fn finish(&self, summary: &Summary) -> Result<()> {
        self.write(SUMMARY, summary)
    }

    /// Moves everything to where it belongs. Whoever ends this, another call goes on with it.
    pub(crate) fn publish(self, summary: &Summary, out: &Path) -> Result<()> {
        // The old record goes first and the new one comes last, so that a record never speaks of other files than
        // those beside it.
        let record = out.join(SUMMARY);
        match fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&record)(error));
            }
            _ => {}
        }
        let tokens = summary.sources.iter().flat_map(|source| [&source.train, &source.valid]);
        let files = std::iter::once(summary.tokenizer.as_str())
            .chain(tokens.map(|tokens| tokens.file.as_str()));
        for name in files {
            let from = self.path(name);
            if from.exists() {
                fs::rename(&from, out.join(name)).map_err(Error::io(&from))?;
            }
        }
        fs::rename(self.path(SUMMARY), &record).map_err(Error::io(&record))?;
        sync_directory(out);
        // The data are complete; what is left here is of no use and no harm.
        let _ = fs::remove_dir_all(&self.directory);
        Ok(())
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.path(name);
        let json = serde_json::to_vec_pretty(value)
            .map_err(|source| Error::Summary { path: path.clone(), source })?;
        Ok(write_atomically(&path, |file| file.write_all(&json))?)
    }
}
