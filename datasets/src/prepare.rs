//! A prepared folder: tokenizer, training and validation tokens, and a record of what made them.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tern_format::atomic::write_atomically;
use tern_format::tokenizer::Tokenizer;

use crate::config::{Corpus, DataConfig};
use crate::documents::{Documents, Layout};
use crate::error::{Error, Result};
use crate::split::{fraction, is_validation};
use crate::stories::{Split, stories};
use crate::summary::{VERSION, hash_file, hash_stories, identity, settings};
use crate::token_file::{TokenFile, TokenFileWriter};
use crate::tokenizer_training::train_tokenizer;

pub use crate::summary::{Side, Source, Summary};

const SUMMARY: &str = "data.json";
const TRAIN: &str = "train.tokens";
const VALID: &str = "valid.tokens";
/// A tokenizer sees at most about this much text; from a larger corpus, documents chosen by hash.
const TRAINING_BYTES: u64 = 32 << 20;
/// Text encoded at a time, in parallel: enough to keep the threads busy, little enough for memory.
const BATCH_BYTES: usize = 4 << 20;

/// A prepared folder, opened.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where it is.
    pub folder: PathBuf,
    /// What made the ids.
    pub tokenizer: Tokenizer,
    /// The training tokens.
    pub train: TokenFile,
    /// The validation tokens.
    pub valid: TokenFile,
    /// The record of what made them.
    pub summary: Summary,
    /// Whether the folder was there already, made from the same settings and sources.
    pub reused: bool,
}

/// How far a preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Documents done in this stage.
    pub documents: u64,
    /// Bytes of text done in this stage.
    pub bytes: u64,
    /// Bytes of the sources, if they are files: what `bytes` comes near to.
    pub total_bytes: Option<u64>,
}

/// The stages of a preparation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Hashing the sources.
    Check,
    /// Training a tokenizer.
    Tokenizer,
    /// Encoding the documents.
    Encode,
}

impl Prepared {
    /// Opens a prepared folder and checks its files against each other.
    ///
    /// # Errors
    ///
    /// A folder that [`prepare`] has not finished, and whatever is wrong in its files.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMMARY);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let summary: Summary =
            serde_json::from_slice(&bytes).map_err(|source| Error::Summary { path, source })?;
        // The name comes from a file: it must not lead out of the folder.
        let name = Path::new(&summary.tokenizer).file_name().unwrap_or_default();
        let tokenizer = Tokenizer::from_file(&folder.join(name))?;
        let train = TokenFile::open_for(&folder.join(TRAIN), &tokenizer)?;
        let valid = TokenFile::open_for(&folder.join(VALID), &tokenizer)?;
        Ok(Self { folder: folder.to_owned(), tokenizer, train, valid, summary, reused: true })
    }
}

/// Makes a prepared folder of a `[data]` table, or opens the one that is there if it was made from
/// the same settings and sources. Relative paths start at `base`, the config's folder.
///
/// # Errors
///
/// Whatever is wrong with the table, the texts or the tokenizer. A folder prepared before is then
/// what it was.
pub fn prepare(
    config: &DataConfig,
    base: &Path,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared> {
    config.validate()?;
    let preparation = Preparation::new(config, base)?;
    progress(preparation.at(Stage::Check));
    let sources = preparation.sources()?;
    let settings = settings(config);
    let sha256 = identity(&settings, &sources);
    if let Ok(prepared) = Prepared::open(out)
        && prepared.summary.version == VERSION
        && prepared.summary.sha256 == sha256
    {
        tracing::debug!(folder = %out.display(), sha256, "the data are there already");
        return Ok(prepared);
    }
    tracing::debug!(folder = %out.display(), sha256, "preparing the data");
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let tokenizer = preparation.tokenizer(progress)?;
    let (bos, eos) = delimiters(config, &tokenizer)?;
    let writer = |name| TokenFileWriter::create(&out.join(name), &tokenizer, bos, eos);
    let sides = [writer(TRAIN)?, writer(VALID)?];
    let mut encoder = Encoder { tokenizer: &tokenizer, sides, characters: [0; 2] };
    preparation.encode(&mut encoder, progress)?;

    // Until here nothing in the folder has changed. The record goes first and comes back last, so
    // that it never speaks of other files than those beside it.
    let record = out.join(SUMMARY);
    match std::fs::remove_file(&record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(&record)(error));
        }
        _ => {}
    }
    let name = tokenizer.source().file_name();
    write_atomically(&out.join(name), |file| file.write_all(tokenizer.source().as_bytes()))?;
    let [train, valid] = encoder.finish()?;
    let summary = Summary {
        version: VERSION,
        sha256,
        settings,
        sources,
        tokenizer: name.to_owned(),
        vocab_size: tokenizer.vocab_size(),
        bos,
        eos,
        train,
        valid,
    };
    let json = serde_json::to_vec_pretty(&summary)
        .map_err(|source| Error::Summary { path: record.clone(), source })?;
    write_atomically(&record, |file| file.write_all(&json))?;
    Ok(Prepared { reused: false, ..Prepared::open(out)? })
}

fn delimiters(config: &DataConfig, tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>)> {
    let find = |key, name: &Option<String>, own| match name {
        None => Ok(own),
        Some(name) => match tokenizer.id(name) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::Config {
                key,
                rule: format!("must be a token of the tokenizer, is {name:?}"),
            }),
        },
    };
    let bos = find("bos", &config.bos, tokenizer.bos())?;
    let eos = find("eos", &config.eos, tokenizer.eos())?;
    if bos.is_none() && eos.is_none() {
        let rule =
            "must name a token that ends a document: this tokenizer has none under a known name";
        return Err(Error::Config { key: "eos", rule: rule.to_owned() });
    }
    Ok((bos, eos))
}

/// A checked table with its paths.
struct Preparation<'a> {
    config: &'a DataConfig,
    train: Vec<PathBuf>,
    valid: Option<Vec<PathBuf>>,
    tokenizer: Option<PathBuf>,
    total_bytes: Option<u64>,
}

type DocumentIterator<'a> = Box<dyn Iterator<Item = Result<String>> + 'a>;

impl<'a> Preparation<'a> {
    fn new(config: &'a DataConfig, base: &Path) -> Result<Self> {
        let mut this = Self {
            config,
            train: config.train_files(base)?,
            valid: config.valid_files(base)?,
            tokenizer: config.tokenizer.path(base)?,
            total_bytes: None,
        };
        if config.corpus == Corpus::Files {
            let mut total = 0;
            for path in this.train.iter().chain(this.valid.iter().flatten()) {
                total += std::fs::metadata(path).map_err(Error::io(path))?.len();
            }
            this.total_bytes = Some(total);
        }
        Ok(this)
    }

    fn at(&self, stage: Stage) -> Progress {
        Progress { stage, documents: 0, bytes: 0, total_bytes: self.total_bytes }
    }

    fn sources(&self) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        let roles = [
            ("train", &self.train[..]),
            ("valid", self.valid.as_deref().unwrap_or_default()),
            ("tokenizer", self.tokenizer.as_slice()),
        ];
        for (role, paths) in roles {
            for path in paths {
                sources.push(hash_file(role, path)?);
            }
        }
        if self.config.corpus == Corpus::Stories {
            sources.push(hash_stories(self.config.stories_seed));
        }
        Ok(sources)
    }

    fn tokenizer(&self, progress: &mut dyn FnMut(Progress)) -> Result<Tokenizer> {
        let (kind, vocab_size) = match (
            &self.tokenizer,
            self.config.tokenizer.train,
            self.config.tokenizer.vocab_size,
        ) {
            (Some(path), ..) => return Ok(Tokenizer::from_file(path)?),
            (None, Some(kind), Some(vocab_size)) => (kind, vocab_size),
            (None, ..) => {
                let rule = "needs a file, or train and vocab_size".to_owned();
                return Err(Error::Config { key: "tokenizer", rule });
            }
        };
        let share = self.total_bytes.map_or(1.0, |total| TRAINING_BYTES as f64 / total as f64);
        let mut texts = Vec::new();
        let mut at = self.at(Stage::Tokenizer);
        for document in self.documents(Split::Train) {
            let document = document?;
            if self.is_split() && is_validation(&document, self.config.valid_fraction) {
                continue;
            }
            // The low end of the hash decides the side, so the choice is made from the high end.
            if 1.0 - fraction(&document) < share || (share < 1.0 && texts.is_empty()) {
                at.documents += 1;
                at.bytes += document.len() as u64;
                texts.push(document);
            }
        }
        if texts.is_empty() {
            return Err(self.empty("the training corpus"));
        }
        progress(at);
        let byte_fallback = self.config.tokenizer.byte_fallback.unwrap_or(true);
        let source = train_tokenizer(kind, vocab_size, byte_fallback, &texts)?;
        Ok(Tokenizer::from_source(&source)?)
    }

    /// Whether a hash decides the side of each document.
    fn is_split(&self) -> bool {
        self.config.corpus == Corpus::Files && self.valid.is_none()
    }

    /// The documents of one side; where a hash splits, those of both as `Train`.
    fn documents(&self, side: Split) -> DocumentIterator<'_> {
        let config = self.config;
        if config.corpus == Corpus::Stories {
            let count = match side {
                Split::Train => config.train_stories,
                Split::Valid => config.valid_stories,
            };
            let stories = stories(config.stories_seed, side).take(count.unwrap_or(0));
            return Box::new(stories.map(|story| Ok(story.text)));
        }
        let (paths, separator) = match side {
            Split::Train => (&self.train[..], None),
            Split::Valid => {
                (self.valid.as_deref().unwrap_or_default(), config.valid_separator.as_ref())
            }
        };
        let layout = Layout {
            separator: separator.unwrap_or(&config.separator).clone(),
            text_field: config.text_field.clone(),
            collapse_blank_lines: config.collapse_blank_lines,
        };
        // One file at a time is open.
        Box::new(paths.iter().flat_map(move |path| -> DocumentIterator<'_> {
            match Documents::open(path, &layout) {
                Ok(documents) => Box::new(documents),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        }))
    }

    fn encode(&self, encoder: &mut Encoder<'_>, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let mut at = self.at(Stage::Encode);
        for side in [Split::Train, Split::Valid] {
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut documents = self.documents(side);
            loop {
                let document = documents.next().transpose()?;
                let ended = document.is_none();
                if let Some(document) = document {
                    bytes += document.len();
                    let valid = match side {
                        Split::Train if self.is_split() => {
                            is_validation(&document, self.config.valid_fraction)
                        }
                        side => side == Split::Valid,
                    };
                    batch.push((document, usize::from(valid)));
                }
                if ended || bytes >= BATCH_BYTES {
                    encoder.push(&batch)?;
                    at.documents += batch.len() as u64;
                    at.bytes += bytes as u64;
                    progress(at);
                    batch.clear();
                    bytes = 0;
                }
                if ended {
                    break;
                }
            }
        }
        let empty = |side: &str| Err(self.empty(&format!("the {side} corpus")));
        match encoder.documents() {
            [0, _] => empty("training"),
            [_, 0] => empty("validation"),
            _ => Ok(()),
        }
    }

    fn empty(&self, side: &str) -> Error {
        let hint = if self.is_split() {
            "documents are chosen for validation by a hash; raise data.valid_fraction, or name data.valid"
        } else {
            "check the paths, data.separator and data.text_field"
        };
        let names: Vec<_> = self
            .train
            .iter()
            .chain(self.valid.iter().flatten())
            .map(|path| path.display().to_string())
            .collect();
        Error::Empty { corpus: format!("{side} ({})", names.join(", ")), hint }
    }
}

/// Documents to ids, in parallel, their order kept.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    sides: [TokenFileWriter; 2],
    characters: [u64; 2],
}

impl Encoder<'_> {
    fn push(&mut self, batch: &[(String, usize)]) -> Result<()> {
        let encode = |(text, _): &(String, usize)| self.tokenizer.encode_literally(text);
        let ids: Vec<Vec<u32>> =
            batch.par_iter().map(encode).collect::<tern_format::Result<_>>()?;
        for ((text, side), ids) in batch.iter().zip(ids) {
            self.sides[*side].push(&ids, text.len())?;
            self.characters[*side] += text.chars().count() as u64;
        }
        Ok(())
    }

    fn documents(&self) -> [u64; 2] {
        self.sides.each_ref().map(|side| side.header().documents)
    }

    fn finish(self) -> Result<[Side; 2]> {
        let [train, valid] = self.sides;
        let side = |writer: TokenFileWriter, characters| -> Result<Side> {
            let header = writer.finish()?;
            let (documents, tokens, text_bytes) =
                (header.documents, header.tokens, header.text_bytes);
            Ok(Side { documents, tokens, text_bytes, characters })
        };
        Ok([side(train, self.characters[0])?, side(valid, self.characters[1])?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::Separator;

    fn config(toml: &str) -> DataConfig {
        let rest =
            "seq_len = 8\nmicro_batch = 2\ntokenizer = { train = \"bpe\", vocab_size = 300 }\n";
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
        prepare(config, base, &base.join("out"), &mut |_| ())
    }

    fn documents(prepared: &Prepared, tokens: &TokenFile) -> Vec<String> {
        let ids: Vec<u32> = tokens.ids(0..tokens.len()).collect();
        let documents = ids.split_inclusive(|id| *id == 2);
        documents.map(|ids| prepared.tokenizer.decode(ids).unwrap()).collect()
    }

    #[test]
    fn a_hash_splits_whatever_the_order_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let text = corpus(400);
        std::fs::write(folder.path().join("a.txt"), &text).unwrap();
        let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
        let mut stages = Vec::new();
        let out = folder.path().join("out");
        let first =
            prepare(&config, folder.path(), &out, &mut |progress| stages.push(progress.stage))
                .unwrap();
        assert_eq!(stages, [Stage::Check, Stage::Tokenizer, Stage::Encode, Stage::Encode]);
        let (train, valid) = (documents(&first, &first.train), documents(&first, &first.valid));
        assert_eq!(train.len() + valid.len(), 400);
        assert!((20..65).contains(&valid.len()), "{}", valid.len());
        assert_eq!(first.summary.valid.documents, valid.len() as u64);
        assert_eq!(
            first.summary.train.text_bytes,
            train.iter().map(|text| text.len() as u64).sum::<u64>()
        );

        let mut stories: Vec<&str> = text.split_inclusive("<|endoftext|>\n").collect();
        stories.reverse();
        std::fs::write(folder.path().join("a.txt"), stories.concat()).unwrap();
        let second = run(&config, folder.path()).unwrap();
        let mut again = documents(&second, &second.valid);
        again.reverse();
        assert_eq!(again, valid);
        assert_eq!(first.tokenizer.hash(), second.tokenizer.hash());
    }

    #[test]
    fn the_same_settings_and_sources_are_reused_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), corpus(300)).unwrap();
        let mut config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
        let first = run(&config, folder.path()).unwrap();
        assert!(!first.reused);
        config.seq_len = 16;
        let second = run(&config, folder.path()).unwrap();
        assert!(second.reused && second.summary == first.summary);
        config.collapse_blank_lines = true;
        let third = run(&config, folder.path()).unwrap();
        assert!(!third.reused && third.summary.sha256 != first.summary.sha256);
        assert!(documents(&third, &third.train)[0].contains(".\nIt"));
        // A damaged file is made again.
        let path = folder.path().join("out").join(TRAIN);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(
            Prepared::open(&folder.path().join("out"))
                .unwrap_err()
                .to_string()
                .contains("cut short")
        );
        assert!(!run(&config, folder.path()).unwrap().reused);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        std::fs::write(folder.path().join("a.txt"), corpus(301)).unwrap();
        assert!(!run(&config, folder.path()).unwrap().reused);
    }

    #[test]
    fn a_failure_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a.txt");
        std::fs::write(&source, corpus(300)).unwrap();
        let config = config("train = [\"a.txt\"]\nvalid_fraction = 0.1\n");
        let first = run(&config, folder.path()).unwrap();
        std::fs::write(&source, [corpus(300).as_bytes(), b"\xff\n"].concat()).unwrap();
        let error = run(&config, folder.path()).unwrap_err().to_string();
        assert!(error.contains("a.txt:1201: text must be UTF-8"), "{error}");
        let still = Prepared::open(&folder.path().join("out")).unwrap();
        assert_eq!(still.summary, first.summary);
        assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 4);
    }

    #[test]
    fn explicit_validation_files_override_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), corpus(300)).unwrap();
        std::fs::write(folder.path().join("v.txt"), "Once there was\n\na dog.\n<|endoftext|>\n")
            .unwrap();
        let mut config = config("train = [\"a.txt\"]\nvalid = [\"v.txt\"]\n");
        config.valid_separator = Some(Separator::None);
        let prepared = run(&config, folder.path()).unwrap();
        assert_eq!(prepared.summary.train.documents, 300);
        let valid = documents(&prepared, &prepared.valid);
        assert_eq!(valid, ["Once there was\n\na dog.\n<|endoftext|>"]);
    }

    #[test]
    fn stories_need_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let config = config("corpus = \"stories\"\ntrain_stories = 300\nvalid_stories = 20\n");
        let prepared = run(&config, folder.path()).unwrap();
        assert_eq!((prepared.summary.train.documents, prepared.summary.valid.documents), (300, 20));
        assert_eq!(
            documents(&prepared, &prepared.valid)[3],
            stories(0, Split::Valid).nth(3).unwrap().text
        );
        assert!(run(&config, folder.path()).unwrap().reused);
    }

    #[test]
    fn what_cannot_be_prepared_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("empty.txt", "\n\n");
        write("a.txt", &corpus(300));
        write("one.txt", "One story.");
        write("bad.json", "{");
        let refused = |toml: &str| run(&config(toml), folder.path()).unwrap_err().to_string();
        let error = refused("train = [\"empty.txt\"]");
        assert!(
            error.contains("the training corpus (")
                && error.contains("empty.txt) holds no documents"),
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
        config.tokenizer = crate::config::TokenizerConfig {
            file: Some("bad.json".to_owned()),
            ..Default::default()
        };
        let error = run(&config, folder.path()).unwrap_err().to_string();
        assert!(error.contains("bad.json: tokenizer.json: "), "{error}");
        assert!(!folder.path().join("out").join(SUMMARY).exists());
        assert!(Prepared::open(folder.path()).unwrap_err().to_string().contains("data.json: "));
    }
}
