//! Writing: entries and tensors in the order given, so that one model has one sequence of bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::{BlockType, read};
use crate::atomic::write_atomically;
use crate::error::{Error, Result};

const VERSION: u32 = 3;

/// Where data begin at a multiple of: what readers take where a file does not say.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A whole number.
    U32(u32),
    /// A float.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Texts.
    Strings(Vec<String>),
    /// Whole numbers.
    I32s(Vec<i32>),
    /// Floats.
    F32s(Vec<f32>),
    /// Bytes.
    U8s(Vec<u8>),
}

impl From<&str> for Entry {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<u32> for Entry {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<bool> for Entry {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Entry {
    /// Kind and value, as they stand behind the key.
    fn write(&self, out: &mut Vec<u8>) {
        let mut array = |kind: u32, len: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => {
                out.extend(4u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                out.extend(6u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            Self::String(text) => {
                out.extend(8u32.to_le_bytes());
                string(text, out);
            }
            Self::Strings(texts) => {
                array(8, texts.len());
                texts.iter().for_each(|text| string(text, out));
            }
            Self::I32s(values) => {
                array(5, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::F32s(values) => {
                array(6, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::U8s(bytes) => {
                array(0, bytes.len());
                out.extend(bytes);
            }
        }
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// What makes the blocks of a tensor, once they are wanted: all of a large model at once would be held twice.
type Encode<'a> = Box<dyn Fn() -> Result<Vec<u8>> + 'a>;

/// A tensor to be written.
pub struct NewTensor<'a> {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub block_type: BlockType,
    /// The sides, outermost first.
    pub shape: Vec<usize>,
    /// Its blocks.
    pub encode: Encode<'a>,
}

/// A file whose every byte is decided, and not yet written.
pub struct Layout<'a> {
    header: Vec<u8>,
    /// With the bytes that each must have.
    tensors: Vec<(NewTensor<'a>, u64)>,
}

impl<'a> Layout<'a> {
    /// Makes the header.
    ///
    /// # Errors
    ///
    /// A key or a tensor that occurs twice; a shape that its type does not hold.
    pub fn new(entries: &[(String, Entry)], tensors: Vec<NewTensor<'a>>) -> Result<Self> {
        let mut header = read::MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((entries.len() as u64).to_le_bytes());
        let mut keys = BTreeSet::new();
        for (key, entry) in entries {
            if !keys.insert(key) {
                return Err(Error::Metadata { key: key.clone(), rule: "occurs twice".into() });
            }
            string(key, &mut header);
            entry.write(&mut header);
        }
        let mut names = BTreeSet::new();
        let mut offset = 0u64;
        let mut sized = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let mut place = || {
                if !names.insert(tensor.name.clone()) {
                    return Err(Error::Duplicate);
                }
                let sides: Vec<u64> = tensor.shape.iter().map(|&side| side as u64).collect();
                Ok((tensor.block_type.size_bytes(&sides)?, sides))
            };
            let (bytes, sides) = place().map_err(|error| error.in_tensor(&tensor.name))?;
            string(&tensor.name, &mut header);
            header.extend((sides.len() as u32).to_le_bytes());
            sides.iter().rev().for_each(|side| header.extend(side.to_le_bytes()));
            header.extend(tensor.block_type.number().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
            sized.push((tensor, bytes));
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        Ok(Self { header, tensors: sized })
    }

    /// Bytes of the whole file.
    pub fn size_bytes(&self) -> u64 {
        let data = self.tensors.iter().map(|(_, bytes)| bytes.next_multiple_of(ALIGNMENT));
        self.header.len() as u64 + data.sum::<u64>()
    }

    /// Writes the bytes of the file.
    ///
    /// # Errors
    ///
    /// Those of the writer; around an [`Error`], a tensor whose blocks cannot be made or do not fill its shape.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        for (tensor, expected) in &self.tensors {
            let blocks = || {
                let blocks = (tensor.encode)()?;
                match blocks.len() as u64 {
                    found if found == *expected => Ok(blocks),
                    found => Err(Error::Count { unit: "bytes", expected: *expected, found }),
                }
            };
            let mut blocks =
                blocks().map_err(|error| io::Error::other(error.in_tensor(&tensor.name)))?;
            blocks.resize(expected.next_multiple_of(ALIGNMENT) as usize, 0);
            out.write_all(&blocks)?;
        }
        Ok(())
    }

    /// Writes the file, atomically.
    ///
    /// # Errors
    ///
    /// [`Error::In`] with the path, around what the file system reports.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |out| self.write_to(out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::{Array, Gguf, Value};
    use super::*;

    fn tensor<'a>(
        name: &str,
        block_type: BlockType,
        shape: &[usize],
        bytes: &'a [u8],
    ) -> NewTensor<'a> {
        let encode = Box::new(|| Ok(bytes.to_vec()));
        NewTensor { name: name.into(), block_type, shape: shape.into(), encode }
    }

    #[test]
    fn what_is_written_reads_back() {
        let entries = [
            ("general.architecture", Entry::from("llama")),
            ("a.u32", Entry::U32(7)),
            ("a.f32", Entry::F32(0.5)),
            ("a.bool", true.into()),
            ("a.texts", Entry::Strings(vec!["é".into(), String::new()])),
            ("a.kinds", Entry::I32s(vec![-1, 3])),
            ("a.scores", Entry::F32s(vec![-1.5])),
            ("a.bytes", Entry::U8s(vec![0, 255])),
        ]
        .map(|(key, entry)| (key.to_owned(), entry));
        let (short, long) = ([1u8, 2, 3, 4], [9u8; 40]);
        let tensors = vec![
            tensor("short", BlockType::F32, &[1], &short),
            tensor("long", BlockType::F16, &[4, 5], &long),
        ];
        let layout = Layout::new(&entries, tensors).unwrap();
        let mut bytes = Vec::new();
        layout.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, layout.size_bytes());
        let file = Gguf::parse(&bytes).unwrap();
        assert_eq!(file.find("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.find("a.u32").unwrap(), Some(7u32));
        assert_eq!(file.find("a.f32").unwrap(), Some(0.5f64));
        assert_eq!(file.find("a.bool").unwrap(), Some(true));
        let array = |key: &str| -> Vec<Value<'_>> {
            file.find::<Array<'_>>(key).unwrap().unwrap().values().collect()
        };
        assert_eq!(array("a.texts"), [Value::String("é"), Value::String("")]);
        assert_eq!(array("a.kinds"), [Value::Integer(-1), Value::Integer(3)]);
        assert_eq!(array("a.scores"), [Value::Float(-1.5)]);
        assert_eq!(array("a.bytes"), [Value::Integer(0), Value::Integer(255)]);
        assert_eq!(
            (&file.tensors["short"].shape[..], file.tensors["short"].bytes),
            (&[1][..], &short[..])
        );
        assert_eq!(
            (&file.tensors["long"].shape[..], file.tensors["long"].bytes),
            (&[4, 5][..], &long[..])
        );
    }

    #[test]
    fn what_no_reader_would_take_is_refused() {
        let refused = |entries: &[(String, Entry)], tensors| {
            Layout::new(entries, tensors).map(|_| ()).unwrap_err().to_string()
        };
        let entry = ("a".to_owned(), Entry::U32(1));
        assert!(refused(&[entry.clone(), entry], vec![]).contains("metadata `a`: occurs twice"));
        let bytes = [0; 4];
        let twice = || tensor("t", BlockType::F32, &[1], &bytes);
        assert!(refused(&[], vec![twice(), twice()]).contains("tensor `t`: occurs twice"));
        let empty = tensor("t", BlockType::F32, &[0], &[]);
        assert!(refused(&[], vec![empty]).contains("tensor `t`: no side may be 0"));
    }

    #[test]
    fn blocks_that_do_not_fill_the_shape_are_not_written() {
        let layout = Layout::new(&[], vec![tensor("t", BlockType::F32, &[2], &[0; 4])]).unwrap();
        let message = layout.write_to(&mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains("tensor `t`: the shape asks for 8 bytes, found 4"), "{message}");
    }
}
