//! The token file: a header that says what the ids mean, then the ids.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `TERNTOK` and a zero |
//! | 8..12 | version, 1 |
//! | 12..16 | bytes of an id: 1, 2 or 4 |
//! | 16..20 | `vocab_size` |
//! | 20..24 | id of BOS, or 2^32 - 1 for none |
//! | 24..28 | id of EOS, likewise |
//! | 28..32 | zero |
//! | 32..40 | tokens |
//! | 40..48 | documents |
//! | 48..56 | bytes of their text |
//! | 56..88 | SHA-256 of the tokenizer's bytes |
//! | 88.. | ids, one after the other |
//!
//! All numbers are little-endian. The ids are read through a memory map, so a corpus may be larger
//! than memory.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tern_format::checksum::hex;
use tern_format::tokenizer::Tokenizer;
use tern_kernels::mapped_file::MappedFile;

use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"TERNTOK\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 88;
const NO_ID: u32 = u32::MAX;

/// What is wrong with the bytes of a token file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {rule}")]
pub struct Fault {
    /// The field, or the position of the id.
    pub place: String,
    /// The rule and the value found.
    pub rule: String,
}

/// What a token file says of its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// One more than the largest id that may occur.
    pub vocab_size: usize,
    /// The id that opens a document.
    pub bos: Option<u32>,
    /// The id that ends one.
    pub eos: Option<u32>,
    /// The number of ids.
    pub tokens: u64,
    /// The number of documents.
    pub documents: u64,
    /// The bytes of their text, before encoding.
    pub text_bytes: u64,
    /// SHA-256 of the tokenizer's bytes.
    pub vocab_hash: [u8; 32],
}

/// Bytes of an id: the fewest that hold every id of the vocabulary.
fn id_bytes(vocab_size: usize) -> usize {
    match vocab_size {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

impl Header {
    /// The header of bytes that begin as a token file does; none if they do not. The ids are not looked at.
    pub fn recognize(bytes: &[u8]) -> Option<std::result::Result<Self, Fault>> {
        bytes.starts_with(&MAGIC).then(|| Self::from_bytes(bytes))
    }

    /// The header of a file without ids; `bos` and `eos` delimit its documents.
    pub fn empty(tokenizer: &Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Self {
        Self {
            vocab_size: tokenizer.vocab_size(),
            bos,
            eos,
            tokens: 0,
            documents: 0,
            text_bytes: 0,
            vocab_hash: tokenizer.hash(),
        }
    }

    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(id_bytes(self.vocab_size) as u32).to_le_bytes());
        put(16, &(self.vocab_size as u32).to_le_bytes());
        put(20, &self.bos.unwrap_or(NO_ID).to_le_bytes());
        put(24, &self.eos.unwrap_or(NO_ID).to_le_bytes());
        put(32, &self.tokens.to_le_bytes());
        put(40, &self.documents.to_le_bytes());
        put(48, &self.text_bytes.to_le_bytes());
        put(56, &self.vocab_hash);
        bytes
    }

    /// Reads the header of a file of `bytes`, and checks that its ids fill the rest.
    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, Fault> {
        let refuse = |place: &str, rule: String| Err(Fault { place: place.to_owned(), rule });
        if bytes.len() < HEADER_BYTES {
            let rule = format!("must be {HEADER_BYTES} bytes, the file has {}", bytes.len());
            return refuse("header", rule);
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return refuse("magic", "must be TERNTOK: this is not a token file".to_owned());
        }
        if u32_at(8) != VERSION {
            return refuse(
                "version",
                format!("must be {VERSION}, is {}: prepare the data again", u32_at(8)),
            );
        }
        let vocab_size = u32_at(16) as usize;
        if vocab_size == 0 {
            return refuse("vocab_size", "must be at least 1, is 0".to_owned());
        }
        let width = id_bytes(vocab_size);
        if u32_at(12) as usize != width {
            let rule =
                format!("must be {width} for a vocabulary of {vocab_size}, is {}", u32_at(12));
            return refuse("bytes of an id", rule);
        }
        for (place, at) in [("BOS", 20), ("EOS", 24)] {
            let id = u32_at(at);
            if id != NO_ID && id as usize >= vocab_size {
                return refuse(
                    place,
                    format!("must be below the vocabulary of {vocab_size}, is {id}"),
                );
            }
        }
        if u32_at(28) != 0 {
            return refuse("bytes 28 to 31", "must be zero".to_owned());
        }
        let tokens = u64_at(32);
        let expected =
            tokens.checked_mul(width as u64).and_then(|size| size.checked_add(HEADER_BYTES as u64));
        if expected != Some(bytes.len() as u64) {
            let fault = if expected.is_none_or(|expected| expected > bytes.len() as u64) {
                "cut short"
            } else {
                "too long"
            };
            let rule = format!(
                "{tokens} ids of {width} bytes do not fit {} bytes: the file is {fault}",
                bytes.len()
            );
            return refuse("size", rule);
        }
        let id = |at| Some(u32_at(at)).filter(|id| *id != NO_ID);
        let mut vocab_hash = [0; 32];
        vocab_hash.copy_from_slice(&bytes[56..88]);
        Ok(Self {
            vocab_size,
            bos: id(20),
            eos: id(24),
            tokens,
            documents: u64_at(40),
            text_bytes: u64_at(48),
            vocab_hash,
        })
    }
}

/// An open token file: a sequence of ids, cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    header: Header,
    map: Arc<MappedFile>,
}

impl TokenFile {
    /// Opens a file and checks every field and every id.
    ///
    /// # Errors
    ///
    /// The file, the field or the position, and the rule that it breaks.
    pub fn open(path: &Path) -> Result<Self> {
        let map = MappedFile::open(path).map_err(Error::io(path))?;
        let refuse =
            |Fault { place, rule }| Error::TokenFile { path: path.to_owned(), place, rule };
        let header = check(&map).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), header, map: Arc::new(map) })
    }

    /// Opens a file that this tokenizer must have written.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; and a file of another vocabulary.
    pub fn open_for(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let file = Self::open(path)?;
        let refuse = |place: &str, rule| {
            Err(Error::TokenFile { path: path.to_owned(), place: place.to_owned(), rule })
        };
        if file.header.vocab_hash != tokenizer.hash() {
            let (theirs, ours) = (hex(&file.header.vocab_hash[..4]), hex(&tokenizer.hash()[..4]));
            let rule =
                format!("must be the tokenizer's {ours}…, is {theirs}…: prepare the data again");
            return refuse("vocabulary hash", rule);
        }
        if file.header.vocab_size != tokenizer.vocab_size() {
            let (theirs, ours) = (file.header.vocab_size, tokenizer.vocab_size());
            return refuse("vocab_size", format!("must be the tokenizer's {ours}, is {theirs}"));
        }
        Ok(file)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of its ids.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.header.tokens as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.header.tokens == 0
    }

    /// The ids at these positions.
    ///
    /// # Panics
    ///
    /// If the range ends beyond [`Self::len`].
    pub fn ids(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        ids(&self.map, self.header.vocab_size, range)
    }
}

/// Checks the bytes of a whole token file: every field and every id.
///
/// # Errors
///
/// The field or the position, and the rule that it breaks.
pub fn check(bytes: &[u8]) -> std::result::Result<Header, Fault> {
    let header = Header::from_bytes(bytes)?;
    let limit = header.vocab_size as u32;
    let mut all = ids(bytes, header.vocab_size, 0..header.tokens as usize).enumerate();
    match all.find(|(_, id)| *id >= limit) {
        Some((position, id)) => {
            let rule = format!("id {id} must be below the vocabulary of {limit}");
            Err(Fault { place: format!("token {position}"), rule })
        }
        None => Ok(header),
    }
}

/// The ids at these positions of a token file whose header has been checked.
fn ids(bytes: &[u8], vocab_size: usize, range: Range<usize>) -> impl Iterator<Item = u32> {
    let width = id_bytes(vocab_size);
    bytes[HEADER_BYTES..][range.start * width..range.end * width]
        .chunks_exact(width)
        .map(|id| id.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// Writes a token file of any length in place. Until [`Self::finish`] its header is zeros, which no reader takes.
#[derive(Debug)]
pub struct TokenFileWriter {
    path: PathBuf,
    header: Header,
    ids: BufWriter<File>,
}

impl TokenFileWriter {
    /// Goes on with a file of which so much counts as the header says; [`Header::empty`] begins one.
    ///
    /// # Errors
    ///
    /// A path that cannot be written to, and a file that is shorter than the header says.
    pub fn resume(path: &Path, header: Header) -> Result<Self> {
        let io = Error::io(path);
        let open = || {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(false).open(path)?;
            let length = HEADER_BYTES as u64 + header.tokens * id_bytes(header.vocab_size) as u64;
            if header.tokens == 0 {
                file.write_all(&[0; HEADER_BYTES])?;
            } else if file.metadata()?.len() < length {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            // A device has no length to set, and fails where it is written to.
            if file.metadata()?.is_file() {
                file.set_len(length)?;
                file.seek(SeekFrom::Start(length))?;
            }
            Ok(BufWriter::with_capacity(1 << 20, file))
        };
        let ids = open().map_err(io)?;
        Ok(Self { path: path.to_owned(), header, ids })
    }

    /// Puts all documents so far on the disk.
    ///
    /// # Errors
    ///
    /// A full disk, by the name of the file.
    pub fn sync(&mut self) -> Result<()> {
        let mut sync = || {
            self.ids.flush()?;
            self.ids.get_ref().sync_data()
        };
        sync().map_err(Error::io(&self.path))
    }

    /// Appends a document: BOS, its ids, EOS. Where one id serves as both, it stands once before
    /// each document, and [`Self::finish`] ends the last.
    ///
    /// # Errors
    ///
    /// A full disk, by the name of the file to be.
    pub fn push(&mut self, ids: &[u32], text_bytes: usize) -> Result<()> {
        let eos = self.header.eos.filter(|eos| self.header.bos != Some(*eos));
        let bos = self.header.bos;
        self.header.documents += 1;
        self.header.text_bytes += text_bytes as u64;
        for id in bos.into_iter().chain(ids.iter().copied()).chain(eos) {
            self.push_id(id)?;
        }
        Ok(())
    }

    fn push_id(&mut self, id: u32) -> Result<()> {
        self.header.tokens += 1;
        let width = id_bytes(self.header.vocab_size);
        self.ids.write_all(&id.to_le_bytes()[..width]).map_err(Error::io(&self.path))
    }

    /// What has been written so far.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the header, which makes the file whole.
    ///
    /// # Errors
    ///
    /// A full disk, by the name of the file.
    pub fn finish(mut self) -> Result<Header> {
        if let (Some(bos), true) = (self.header.bos, self.header.bos == self.header.eos) {
            self.push_id(bos)?;
        }
        let mut finish = || {
            self.ids.flush()?;
            let file = self.ids.get_mut();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&self.header.to_bytes())?;
            file.sync_all()
        };
        finish().map_err(Error::io(&self.path))?;
        Ok(self.header)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use tern_format::tokenizer::TokenizerSource;

    /// A tokenizer of `size` words `w0`, `w1`, …, of which the first three are special.
    pub(crate) fn words(size: usize) -> Tokenizer {
        let token = |id: usize| {
            ["<unk>", "<s>", "</s>"].get(id).map_or(format!("w{id}"), |name| (*name).to_owned())
        };
        let vocab: serde_json::Map<_, _> = (0..size).map(|id| (token(id), id.into())).collect();
        let special = |id: usize| {
            serde_json::json!({"id": id, "content": token(id), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
        };
        let json = serde_json::json!({"version": "1.0", "added_tokens": [special(0), special(1), special(2)],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}});
        Tokenizer::from_source(&TokenizerSource::Json(json.to_string())).unwrap()
    }

    /// A token file of one document, and the directory that it lives in.
    pub(crate) fn file(vocab_size: usize, ids: &[u32]) -> (tempfile::TempDir, TokenFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tokens");
        let tokenizer = words(vocab_size);
        let header = Header::empty(&tokenizer, Some(1), Some(2));
        let mut writer = TokenFileWriter::resume(&path, header).unwrap();
        writer.push(ids, 10).unwrap();
        writer.finish().unwrap();
        let file = TokenFile::open_for(&path, &tokenizer).unwrap();
        (directory, file)
    }

    #[test]
    fn every_width_comes_back() {
        for (vocab_size, width) in [(5, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let ids: Vec<u32> = (0..1000).map(|i| 3 + i * 7919 % (vocab_size as u32 - 3)).collect();
            let (_directory, file) = file(vocab_size, &ids);
            let read: Vec<u32> = file.ids(0..file.len()).collect();
            assert_eq!((read[0], read[1001]), (1, 2));
            assert_eq!(read[1..1001], ids);
            assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 88 + 1002 * width);
            let header = file.header();
            assert_eq!((header.documents, header.tokens, header.text_bytes), (1, 1002, 10));
            assert_eq!((header.bos, header.eos), (Some(1), Some(2)));
        }
    }

    #[test]
    fn one_delimiter_may_serve_as_both() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tokens");
        let header = Header::empty(&words(9), Some(2), Some(2));
        let mut writer = TokenFileWriter::resume(&path, header).unwrap();
        writer.push(&[3, 4], 2).unwrap();
        writer.push(&[5], 1).unwrap();
        writer.finish().unwrap();
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(file.ids(0..file.len()).collect::<Vec<_>>(), [2, 3, 4, 2, 5, 2]);
    }

    #[test]
    fn every_broken_field_is_named() {
        let (directory, good) = file(300, &[3, 4, 5, 299]);
        let bytes = std::fs::read(good.path()).unwrap();
        let path = directory.path().join("bad.tokens");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            TokenFile::open(&path).unwrap_err().to_string()
        };
        let with = |at: usize, field: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            bytes
        };
        let cases: [(Vec<u8>, &str); 13] = [
            (Vec::new(), "header: must be 88 bytes, the file has 0"),
            (bytes[..87].to_vec(), "header: must be 88 bytes, the file has 87"),
            (with(0, b"GGUF"), "magic: must be TERNTOK"),
            (with(8, &[2]), "version: must be 1, is 2"),
            (with(12, &[1]), "bytes of an id: must be 2 for a vocabulary of 300, is 1"),
            (with(16, &[0, 0]), "vocab_size: must be at least 1"),
            (with(20, &[44, 1]), "BOS: must be below the vocabulary of 300, is 300"),
            (with(28, &[1]), "bytes 28 to 31: must be zero"),
            (
                bytes[..bytes.len() - 1].to_vec(),
                "size: 6 ids of 2 bytes do not fit 99 bytes: the file is cut short",
            ),
            (
                [&bytes[..], &[0, 0]].concat(),
                "size: 6 ids of 2 bytes do not fit 102 bytes: the file is too long",
            ),
            (with(32, &[255; 8]), "the file is cut short"),
            (with(88 + 8, &[44, 1]), "token 4: id 300 must be below the vocabulary of 300"),
            (with(16, &[43, 1]), "token 4: id 299 must be below the vocabulary of 299"),
        ];
        for (bytes, rule) in cases {
            let error = refused(&bytes);
            assert!(error.contains("bad.tokens: ") && error.contains(rule), "{error}");
        }
        let error = TokenFile::open_for(good.path(), &words(301)).unwrap_err().to_string();
        assert!(error.contains("a.tokens: vocabulary hash: must be the tokenizer's"), "{error}");
        let error = TokenFile::open(&directory.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none: "), "{error}");
    }

    #[test]
    fn a_file_grows_from_where_it_counts_and_is_none_before_its_end() {
        let (directory, whole) = file(300, &[3, 4, 5]);
        let path = directory.path().join("b.tokens");
        let empty = Header::empty(&words(300), Some(1), Some(2));
        let mut writer = TokenFileWriter::resume(&path, empty.clone()).unwrap();
        writer.push(&[3, 4, 5], 10).unwrap();
        writer.sync().unwrap();
        let header = writer.header().clone();
        writer.push(&[6; 999], 99).unwrap();
        drop(writer);
        assert!(TokenFile::open(&path).unwrap_err().to_string().contains("magic"));
        // What was written after the header was taken does not count.
        TokenFileWriter::resume(&path, header.clone()).unwrap().finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(whole.path()).unwrap());
        // A file that lost what counts cannot go on.
        std::fs::write(&path, "short").unwrap();
        let error = TokenFileWriter::resume(&path, header).unwrap_err().to_string();
        assert!(error.contains("b.tokens: "), "{error}");
        TokenFileWriter::resume(&path, empty).unwrap().finish().unwrap();
        assert!(TokenFile::open(&path).unwrap().is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_named() {
        let header = Header::empty(&words(9), Some(1), Some(2));
        let error = TokenFileWriter::resume(Path::new("/dev/full"), header).unwrap_err();
        assert!(error.to_string().starts_with("/dev/full: "), "{error}");
    }
}
