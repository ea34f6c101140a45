//! Text to a prepared directory, which can stop anywhere and go on.

use std::path::{Path, PathBuf};

use tern_format::atomic::write_atomically;
use tern_format::checksum::{sha256_file, sha256_file_with};
use tern_format::tokenizer::Tokenizer;

use crate::config::{Corpus, DataConfig, Place, Separator, SourceConfig};
use crate::documents::Layout;
use crate::encoding::{Encoder, OpenSide, Pace};
use crate::error::{Error, Result};
use crate::hub::{Hub, Transfer};
use crate::input::{Content, Cursor, Input, Stream};
use crate::split::{fraction, is_validation};
use crate::stories::Split;
use crate::summary::{InputRecord, VERSION, hash_stories, identity, settings};
use crate::token_file::{Header, TokenFileWriter};
use crate::tokenizer_training::train_tokenizer;
use crate::unfinished::{Saved, Unfinished};

pub use crate::prepared::{Prepared, PreparedSource};
pub use crate::summary::{Side, SourceRecord, Summary, Tokens, tokens_name};

/// A tokenizer sees at most about this much text; from a larger corpus, documents chosen by hash.
const TRAINING_BYTES: u64 = 32 << 20;

/// How far a preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Documents done in this stage.
    pub documents: u64,
    /// Bytes of the files done in this stage.
    pub bytes: u64,
    /// Bytes of all files; 0 if all documents are stories.
    pub total_bytes: u64,
}

/// The stages of a preparation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Fetching a file from the hub.
    Fetch,
    /// Hashing the files.
    Check,
    /// Choosing text for a tokenizer.
    Sample,
    /// Training it.
    Tokenizer,
    /// Encoding the documents.
    Encode,
}

/// What happens to other tokens that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// New ones take their place.
    Replace,
    /// They stay, because a run was trained on them, and nothing is prepared.
    Keep,
}

/// Makes a prepared directory of a `[data]` table, or opens the one that is there if it was made from the same settings
/// and files. Relative paths start at `base`, the config's directory.
///
/// Whatever ends it, a power cut included, the next call goes on where it stood, some seconds before at most, and the
/// result is the same to the byte.
///
/// # Errors
///
/// Whatever is wrong with the table, the texts or the tokenizer, and [`Error::Taken`]. A directory prepared before is
/// then what it was.
pub fn prepare(
    config: &DataConfig,
    base: &Path,
    out: &Path,
    hub: &Hub,
    other: Other,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared> {
    prepare_at(Pace::default(), config, base, out, hub, other, progress)
}

fn prepare_at(
    pace: Pace,
    config: &DataConfig,
    base: &Path,
    out: &Path,
    hub: &Hub,
    other: Other,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared> {
    config.validate()?;
    let preparation = Preparation::new(config, base, hub, progress)?;
    let inputs = preparation.records(progress)?;
    let settings = settings(config);
    let sha256 = identity(&settings, &inputs);
    if let Ok(prepared) = Prepared::open(out) {
        if prepared.summary.sha256 == sha256 {
            tracing::debug!(directory = %out.display(), sha256, "the data are there already");
            return Ok(prepared);
        }
        if other == Other::Keep {
            return Err(Error::Taken { path: out.into() });
        }
    }
    tracing::debug!(directory = %out.display(), sha256, "preparing the data");
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let unfinished = Unfinished::open(out)?;
    let saved = unfinished.saved(&sha256)?;
    let finished = unfinished.finished().filter(|_| saved.is_some());
    let summary = match finished {
        Some(summary) => summary,
        None => {
            let begun = preparation.begin(&unfinished, saved, &sha256, progress)?;
            let sources = preparation.encode(pace, &unfinished, &begun, progress)?;
            let Begun { tokenizer, saved, bos, eos } = begun;
            let summary = Summary {
                version: VERSION,
                sha256,
                settings,
                inputs,
                tokenizer: saved.tokenizer,
                vocab_size: tokenizer.vocab_size(),
                bos,
                eos,
                sources,
            };
            unfinished.finish(&summary)?;
            summary
        }
    };
    unfinished.publish(&summary, out)?;
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

/// A checked table with its files, all of them on this machine.
struct Preparation<'a> {
    config: &'a DataConfig,
    mixture: Vec<SourceConfig>,
    inputs: Vec<Input>,
    tokenizer: Option<(String, PathBuf)>,
    total_bytes: u64,
}

/// What encoding begins or goes on with.
struct Begun {
    tokenizer: Tokenizer,
    saved: Saved,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl<'a> Preparation<'a> {
    fn new(
        config: &'a DataConfig,
        base: &Path,
        hub: &Hub,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let mixture = config.mixture();
        let mut files = |key, name: &str| locate(key, name, base, hub, progress);
        let tokenizer = match &config.tokenizer.file {
            None => None,
            Some(name) => files("tokenizer.file", name)?.into_iter().next(),
        };
        let mut inputs = Vec::new();
        for (source, table) in mixture.iter().enumerate() {
            if table.corpus == Corpus::Stories {
                for (split, count) in
                    [(Split::Train, table.train_stories), (Split::Valid, table.valid_stories)]
                {
                    let (seed, count) = (config.stories_seed, count.unwrap_or(0));
                    let content = Content::Stories { seed, split, count };
                    inputs.push(Input { source, side: Some(split), bytes: 0, content });
                }
            }
            let valid = table.valid.as_deref();
            let sides = [
                ("train", valid.map(|_| Split::Train), &table.train[..], &table.separator),
                ("valid", Some(Split::Valid), valid.unwrap_or_default(), &table.valid_separator),
            ];
            for (key, side, names, separator) in sides {
                let separator = separator.as_ref().or(table.separator.as_ref());
                let layout = Layout {
                    separator: separator.cloned().unwrap_or_default(),
                    text_field: table.text_field.clone().unwrap_or_default(),
                    collapse_blank_lines: config.collapse_blank_lines,
                };
                for name in names {
                    for (name, path) in files(key, name)? {
                        let (_, bytes) = tern_format::regular_file::open_regular(&path)?;
                        let content = Content::File { name, path, layout: layout.clone() };
                        inputs.push(Input { source, side, bytes, content });
                    }
                }
            }
        }
        let total_bytes = inputs.iter().map(|input| input.bytes).sum();
        Ok(Self { config, mixture, inputs, tokenizer, total_bytes })
    }

    fn at(&self, stage: Stage) -> Progress {
        Progress { stage, documents: 0, bytes: 0, total_bytes: self.total_bytes }
    }

    /// The inputs with their checksums.
    fn records(&self, progress: &mut dyn FnMut(Progress)) -> Result<Vec<InputRecord>> {
        let mut at = self.at(Stage::Check);
        progress(at);
        let mut hash = |source: &str, role: &str, name: &str, path: &Path| -> Result<InputRecord> {
            let (sha256, bytes) = sha256_file_with(path, &mut |bytes| {
                at.bytes += bytes;
                progress(at);
            })?;
            let [source, role, name] = [source, role, name].map(str::to_owned);
            Ok(InputRecord { source, role, name, bytes, sha256 })
        };
        let mut records = Vec::new();
        for input in &self.inputs {
            let source = &self.mixture[input.source].name;
            let role = if input.side == Some(Split::Valid) { "valid" } else { "train" };
            match &input.content {
                Content::File { name, path, .. } => records.push(hash(source, role, name, path)?),
                Content::Stories { seed, split: Split::Train, .. } => {
                    records.push(hash_stories(source, *seed));
                }
                Content::Stories { .. } => {}
            }
        }
        if let Some((name, path)) = &self.tokenizer {
            records.push(hash("", "tokenizer", name, path)?);
        }
        Ok(records)
    }

    /// Takes up what was saved; or reads or trains the tokenizer, and saves that nothing has been encoded yet.
    fn begin(
        &self,
        unfinished: &Unfinished,
        saved: Option<Saved>,
        sha256: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Begun> {
        if let Some(saved) = saved {
            let tokenizer = Tokenizer::from_file(&unfinished.path(&saved.tokenizer))?;
            let (bos, eos) = delimiters(self.config, &tokenizer)?;
            return Ok(Begun { tokenizer, saved, bos, eos });
        }
        let tokenizer = match &self.tokenizer {
            Some((_, path)) => Tokenizer::from_file(path)?,
            None => self.train_tokenizer(progress)?,
        };
        // Whatever is wrong with them is said before the long work.
        let (bos, eos) = delimiters(self.config, &tokenizer)?;
        let source = tokenizer.source();
        let name = source.file_name();
        write_atomically(&unfinished.path(name), |file| file.write_all(source.as_bytes()))?;
        let saved = Saved::nothing(sha256, name, self.mixture.len());
        unfinished.save(&saved)?;
        Ok(Begun { tokenizer, saved, bos, eos })
    }

    fn train_tokenizer(&self, progress: &mut dyn FnMut(Progress)) -> Result<Tokenizer> {
        let (Some(kind), Some(vocab_size)) =
            (self.config.tokenizer.train, self.config.tokenizer.vocab_size)
        else {
            let rule = "needs a file, or train and vocab_size".to_owned();
            return Err(Error::Config { key: "tokenizer", rule });
        };
        let share = match self.total_bytes {
            0 => 1.0,
            total => TRAINING_BYTES as f64 / total as f64,
        };
        let mut texts = Vec::new();
        let mut at = self.at(Stage::Sample);
        let mut stream = Stream::new(&self.inputs, Cursor::default());
        while let Some(document) = stream.next()? {
            at.documents += 1;
            if at.documents.is_multiple_of(1024) {
                at.bytes = stream.bytes();
                progress(at);
            }
            let text = document.text;
            let validates = match document.side {
                Some(side) => side == Split::Valid,
                None => is_validation(&text, self.config.valid_fraction),
            };
            // The low end of the hash decides the side, so the choice is made from the high end.
            if !validates && (1.0 - fraction(&text) < share || (share < 1.0 && texts.is_empty())) {
                texts.push(text);
            }
        }
        if texts.is_empty() {
            return Err(self.empty(0, "training", at.documents));
        }
        // Said before a tokenizer finds such a text too short.
        if at.documents == 1 && self.inputs.iter().all(|input| input.side.is_none()) {
            return Err(self.empty(0, "validation", 1));
        }
        at.stage = Stage::Tokenizer;
        progress(at);
        let byte_fallback = self.config.tokenizer.byte_fallback.unwrap_or(true);
        let source = train_tokenizer(kind, vocab_size, byte_fallback, &texts)?;
        Ok(Tokenizer::from_source(&source)?)
    }

    /// Opens the token files as far as they count.
    fn open_sides(&self, unfinished: &Unfinished, begun: &Begun) -> Result<Vec<[OpenSide; 2]>> {
        let open = |source: &SourceConfig, side, size: Side| -> Result<OpenSide> {
            let path = unfinished.path(&file_name(&source.name, side));
            let Side { documents, tokens, text_bytes, characters } = size;
            let empty = Header::empty(&begun.tokenizer, begun.bos, begun.eos);
            let header = Header { documents, tokens, text_bytes, ..empty };
            Ok(OpenSide { tokens: TokenFileWriter::resume(&path, header)?, characters })
        };
        let sources = self.mixture.iter().zip(&begun.saved.sides);
        sources
            .map(|(source, [train, valid])| {
                Ok([open(source, Split::Train, *train)?, open(source, Split::Valid, *valid)?])
            })
            .collect()
    }

    /// Encodes what is left, and completes the token files.
    fn encode(
        &self,
        pace: Pace,
        unfinished: &Unfinished,
        begun: &Begun,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<SourceRecord>> {
        let mut at = self.at(Stage::Encode);
        let sides = self.open_sides(unfinished, begun)?;
        let (tokenizer, valid_fraction) = (&begun.tokenizer, self.config.valid_fraction);
        let mut encoder = Encoder { tokenizer, valid_fraction, pace, sides };
        encoder.run(&self.inputs, begun.saved.cursor, &mut |reached| {
            if reached.save {
                for side in reached.sides.iter_mut().flatten() {
                    side.tokens.sync()?;
                }
                let sizes = reached.sides.iter().map(|sides| sides.each_ref().map(OpenSide::size));
                unfinished.save(&begun.saved.at(reached.cursor, sizes.collect()))?;
            }
            at.documents = reached.sides.iter().flatten().map(|side| side.size().documents).sum();
            at.bytes = reached.bytes;
            progress(at);
            Ok(())
        })?;
        for (source, sides) in encoder.sides.iter().enumerate() {
            let documents = sides.each_ref().map(|side| side.size().documents);
            for (side, count) in ["training", "validation"].into_iter().zip(documents) {
                if count == 0 {
                    return Err(self.empty(source, side, documents.iter().sum()));
                }
            }
        }
        let close = |source: &SourceConfig, split, side: OpenSide| -> Result<Tokens> {
            let file = file_name(&source.name, split);
            let characters = side.characters;
            let Header { documents, tokens, text_bytes, .. } = side.tokens.finish()?;
            let (sha256, _) = sha256_file(&unfinished.path(&file))?;
            let size = Side { documents, tokens, text_bytes, characters };
            Ok(Tokens { file, sha256, size })
        };
        let sources = self.mixture.iter().zip(encoder.sides);
        sources
            .map(|(source, [train, valid])| {
                Ok(SourceRecord {
                    name: source.name.clone(),
                    train: close(source, Split::Train, train)?,
                    valid: close(source, Split::Valid, valid)?,
                })
            })
            .collect()
    }

    /// Why a side of a source has no documents, of so many in all, and what would help.
    fn empty(&self, source: usize, side: &str, documents: u64) -> Error {
        let table = &self.mixture[source];
        let split = table.corpus == Corpus::Files && table.valid.is_none();
        let cut = table.separator == Some(Separator::BlankLine);
        let hint = match (documents, split) {
            (0, _) | (_, false) => "check the paths, data.separator and data.text_field".to_owned(),
            (1, true) if !cut => {
                "the whole text is one document: data.separator = \"blank_line\" may cut it into \
                                  several; or name a file in data.valid"
                    .to_owned()
            }
            (1, true) => {
                "the whole text is one document: name another file in data.valid".to_owned()
            }
            (count, true) => format!(
                "a hash chooses the side of each of the {count} documents; {} data.valid_fraction, or name a file in \
                 data.valid",
                if side == "training" { "lower" } else { "raise" }
            ),
        };
        let names = self.inputs.iter().filter(|input| input.source == source);
        let names: Vec<&str> = names
            .filter_map(|input| match &input.content {
                Content::File { name, .. } => Some(name.as_str()),
                Content::Stories { .. } => None,
            })
            .collect();
        Error::Empty { corpus: format!("the {side} corpus ({})", names.join(", ")), hint }
    }
}

/// The names and paths of the files that one entry of a configuration stands for.
fn locate(
    key: &'static str,
    name: &str,
    base: &Path,
    hub: &Hub,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<(String, PathBuf)>> {
    match Place::resolve(key, name, base)? {
        Place::Local(path) => Ok(vec![(path.display().to_string(), path)]),
        Place::Hub(address) => {
            let files = hub.fetch(&address, &mut |Transfer { bytes, total_bytes, .. }| {
                progress(Progress { stage: Stage::Fetch, documents: 0, bytes, total_bytes });
            })?;
            Ok(files.into_iter().map(|file| (file.name, file.path)).collect())
        }
    }
}

/// The name of a token file; without a mixture there is no name of a source.
fn file_name(source: &str, side: Split) -> String {
    let side = match side {
        Split::Train => "train.tokens",
        Split::Valid => "valid.tokens",
    };
    if source.is_empty() { side.to_owned() } else { format!("{source}.{side}") }
}

#[cfg(test)]
mod tests;
