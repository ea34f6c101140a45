//! A prepared directory: tokenizer, training and validation tokens, and a record of what made them.

use std::path::{Path, PathBuf};

use tern_format::checksum::sha256_file;
use tern_format::tokenizer::Tokenizer;

use crate::batches::Batches;
use crate::config::DataConfig;
use crate::error::{Error, Result};
use crate::summary::{Summary, Tokens};
use crate::token_file::TokenFile;
use crate::validation::ValidationSet;

/// A prepared directory, opened.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where it is.
    pub directory: PathBuf,
    /// What made the ids.
    pub tokenizer: Tokenizer,
    /// The sources, in the order of the configuration.
    pub sources: Vec<PreparedSource>,
    /// The record of what made them.
    pub summary: Summary,
    /// Whether the directory was there already, made from the same settings and inputs.
    pub reused: bool,
}

/// The tokens of one source.
#[derive(Clone, Debug)]
pub struct PreparedSource {
    /// Its name; empty where there is no mixture.
    pub name: String,
    /// The training tokens.
    pub train: TokenFile,
    /// The validation tokens.
    pub valid: TokenFile,
}

impl Prepared {
    /// Opens a prepared directory and checks its files against their checksums and each other.
    ///
    /// # Errors
    ///
    /// A directory that [`crate::prepare::prepare`] has not finished, a token file that was changed since, and
    /// whatever is wrong in the files.
    pub fn open(directory: &Path) -> Result<Self> {
        let summary = Summary::read(directory)?;
        let tokenizer = Tokenizer::from_file(&inside(directory, &summary.tokenizer))?;
        let open = |tokens: &Tokens| {
            let path = inside(directory, &tokens.file);
            let (found, _) = sha256_file(&path)?;
            if found != tokens.sha256 {
                let expected = tokens.sha256.chars().take(64).collect();
                return Err(Error::Changed { path, expected, found });
            }
            TokenFile::open_for(&path, &tokenizer)
        };
        let mut sources = Vec::new();
        for source in &summary.sources {
            let (train, valid) = (open(&source.train)?, open(&source.valid)?);
            sources.push(PreparedSource { name: source.name.clone(), train, valid });
        }
        Ok(Self { directory: directory.to_owned(), tokenizer, sources, summary, reused: true })
    }

    /// Training windows as a configuration draws them.
    ///
    /// # Errors
    ///
    /// Data of other sources than the configuration's, and what [`Batches::mixture`] refuses.
    pub fn batches(&self, config: &DataConfig, seed: u64) -> Result<Batches> {
        let tokens = self.weighted(config, |source| &source.train)?;
        Batches::mixture(tokens, config.seq_len, config.windows, seed)
    }

    /// Validation windows as a configuration asks for them.
    ///
    /// # Errors
    ///
    /// As [`Self::batches`].
    pub fn validation(&self, config: &DataConfig) -> Result<ValidationSet> {
        let tokens = self.weighted(config, |source| &source.valid)?;
        ValidationSet::mixture(tokens, config.seq_len, config.windows, config.valid_tokens)
    }

    /// The tokens of one side of each source, and its weight.
    fn weighted(
        &self,
        config: &DataConfig,
        side: impl Fn(&PreparedSource) -> &TokenFile,
    ) -> Result<Vec<(TokenFile, f64)>> {
        let mixture = config.mixture();
        let names: Vec<&str> = mixture.iter().map(|source| source.name.as_str()).collect();
        self.summary.check_sources(&names, &self.directory)?;
        let weights = mixture.iter().map(|source| source.weight);
        Ok(self.sources.iter().map(|source| side(source).clone()).zip(weights).collect())
    }
}

/// A name from a record, which must not lead out of the directory.
fn inside(directory: &Path, name: &str) -> PathBuf {
    directory.join(Path::new(name).file_name().unwrap_or_default())
}
