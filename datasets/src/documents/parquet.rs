//! Documents out of a Parquet file: the rows of one column.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use tern_format::contain::contain;
use tern_format::error::printable;
use tern_format::regular_file::open_regular;

use super::{Position, excess};
use crate::error::{Error, Result};

/// The rows of a file, of which one column is read. Memory holds one page of it, unpacked.
pub(super) struct Rows {
    path: PathBuf,
    text_field: String,
    rows: RowIter<'static>,
    /// Rows in each row group.
    groups: Vec<u64>,
    file_bytes: u64,
    /// Rows before the next one.
    read: u64,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("path", &self.path).field("read", &self.read).finish()
    }
}

impl Rows {
    pub(super) fn open(path: &Path, text_field: &str, from: Position) -> Result<Self> {
        let refuse =
            |rule: String| Error::Parquet { path: path.to_owned(), place: String::new(), rule };
        let (file, file_bytes) = open_regular(path)?;
        let open = |file, options: ReadOptionsBuilder| {
            guarded(|| SerializedFileReader::new_with_options(file, options.build()))
                .map_err(refuse)
        };
        let whole = open(file.try_clone().map_err(Error::io(path))?, ReadOptionsBuilder::new())?;
        let groups: Vec<u64> = whole
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows().max(0) as u64)
            .collect();
        let projection =
            column(whole.metadata().file_metadata().schema(), text_field).map_err(refuse)?;
        // A group is entered at its first row only; those read before are passed over.
        let (first_group, skipped) = locate(&groups, from.records);
        let options = ReadOptionsBuilder::new()
            .with_predicate(Box::new(move |_, group| group >= first_group));
        let reader = open(file, options)?;
        let rows = guarded(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection)));
        let mut this = Self {
            path: path.to_owned(),
            text_field: text_field.to_owned(),
            rows: rows.map_err(refuse)?,
            groups,
            file_bytes,
            read: from.records - skipped,
        };
        for _ in 0..skipped {
            this.next_row()?;
        }
        Ok(this)
    }

    pub(super) fn position(&self) -> Position {
        let rows = self.groups.iter().sum::<u64>().max(1);
        let bytes = (u128::from(self.file_bytes) * u128::from(self.read) / u128::from(rows)) as u64;
        Position { bytes, records: self.read }
    }

    /// The document of the next row, blank or not; a null is a blank one.
    pub(super) fn read(&mut self) -> Result<Option<String>> {
        let Some(row) = self.next_row()? else {
            return Ok(None);
        };
        let text = match row.into_columns().pop().map(|(_, field)| field) {
            Some(Field::Str(text)) => text,
            Some(Field::Bytes(bytes)) => match bytes.as_utf8() {
                Ok(text) => text.to_owned(),
                Err(_) => return self.refuse("the text must be UTF-8".to_owned()),
            },
            _ => String::new(),
        };
        match excess(&text) {
            Some(rule) => self.refuse(rule),
            None => Ok(Some(text)),
        }
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        self.read += 1;
        match guarded(|| self.rows.next().transpose()) {
            Ok(None) => {
                self.read -= 1;
                let expected = self.groups.iter().sum::<u64>();
                if self.read < expected {
                    self.read += 1;
                    return self
                        .refuse(format!("the file must have {expected} rows, it ends here"));
                }
                Ok(None)
            }
            Ok(row) => Ok(row),
            Err(rule) => self.refuse(rule),
        }
    }

    /// An error at the last row read.
    fn refuse<T>(&self, rule: String) -> Result<T> {
        let (group, row) = locate(&self.groups, self.read.saturating_sub(1));
        let place = format!("row group {group}, row {row}, column {:?}: ", self.text_field);
        Err(Error::Parquet { path: self.path.clone(), place, rule })
    }
}

/// The row group of a row of the file, and the row's place in it.
fn locate(groups: &[u64], mut row: u64) -> (usize, u64) {
    for (group, rows) in groups.iter().enumerate() {
        if row < *rows {
            return (group, row);
        }
        row -= rows;
    }
    (groups.len(), row)
}

/// The schema with nothing but the column of this name, or the rule that it breaks.
fn column(schema: &Type, name: &str) -> std::result::Result<Type, String> {
    let Some(field) = schema.get_fields().iter().find(|field| field.name() == name) else {
        let names: Vec<&str> =
            schema.get_fields().iter().take(8).map(|field| field.name()).collect();
        return Err(format!(
            "the column {name:?} is missing; found: {} (data.text_field)",
            names.join(", ")
        ));
    };
    if !field.is_primitive() || field.get_physical_type() != PhysicalType::BYTE_ARRAY {
        return Err(format!("the column {name:?} must hold text (data.text_field)"));
    }
    let only = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build();
    only.map_err(|error| error.to_string())
}

/// What the crate returns, or the rule that the file breaks. On damaged files the crate may panic, too.
fn guarded<T>(
    read: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, String> {
    match contain(read) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(printable(&error.to_string(), 200)),
        Err(words) => Err(printable(&words, 200)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// Writes row groups of a number and an optional text.
    fn write(path: &Path, groups: &[Vec<Option<&str>>], compression: Compression, text: &str) {
        let schema = format!("message m {{ required int32 id; optional byte_array body {text}; }}");
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        for group in groups {
            let mut out = writer.next_row_group().unwrap();
            let mut ids = out.next_column().unwrap().unwrap();
            let numbers: Vec<i32> = (0..group.len() as i32).collect();
            ids.typed::<Int32Type>().write_batch(&numbers, None, None).unwrap();
            ids.close().unwrap();
            let mut texts = out.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> =
                group.iter().flatten().map(|text| ByteArray::from(*text)).collect();
            let levels: Vec<i16> = group.iter().map(|text| i16::from(text.is_some())).collect();
            texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            texts.close().unwrap();
            out.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn read(path: &Path, from: u64) -> Result<Vec<String>> {
        let mut rows = Rows::open(path, "body", Position { bytes: 0, records: from })?;
        std::iter::from_fn(|| rows.read().transpose()).collect()
    }

    fn groups() -> Vec<Vec<Option<&'static str>>> {
        vec![
            vec![Some("one"), None, Some("zwei\nΩ")],
            vec![Some("")],
            vec![Some("five"), Some("six")],
        ]
    }

    #[test]
    fn every_compression_is_read_and_resumed_at_every_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
            Compression::BROTLI(Default::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            for kind in ["(STRING)", "(UTF8)", ""] {
                write(&path, &groups(), compression, kind);
                let all = ["one", "", "zwei\nΩ", "", "five", "six"];
                for from in 0..=6 {
                    assert_eq!(
                        read(&path, from).unwrap(),
                        all[from as usize..],
                        "{compression} {from}"
                    );
                }
            }
        }
        let mut rows = Rows::open(&path, "body", Position::default()).unwrap();
        while rows.read().unwrap().is_some() {}
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(rows.position(), Position { bytes, records: 6 });
    }

    #[test]
    fn errors_name_file_row_group_row_and_rule() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        let open = |field| {
            Rows::open(&path, field, Position::default()).map(|_| ()).unwrap_err().to_string()
        };
        write(&path, &groups(), Compression::UNCOMPRESSED, "(STRING)");
        let error = open("text");
        assert!(
            error.ends_with(
                "a.parquet: the column \"text\" is missing; found: id, body (data.text_field)"
            ),
            "{error}"
        );
        assert!(open("id").ends_with("the column \"id\" must hold text (data.text_field)"));
        let good = std::fs::read(&path).unwrap();
        let at = good.windows(4).position(|bytes| bytes == b"five").unwrap();
        let mut bad = good.clone();
        bad[at] = 0xff;
        std::fs::write(&path, &bad).unwrap();
        let error = read(&path, 0).unwrap_err().to_string();
        assert!(error.contains("a.parquet: row group 2, row 0, column \"body\": "), "{error}");
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(open("body").contains("a.parquet: "), "{}", open("body"));
        std::fs::write(&path, b"text").unwrap();
        assert!(open("body").contains("a.parquet: "), "{}", open("body"));
    }

    #[test]
    fn no_damaged_byte_ends_the_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        write(&path, &groups(), Compression::SNAPPY, "(STRING)");
        let good = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x5a;
            std::fs::write(&path, &bad).unwrap();
            refused += usize::from(read(&path, 0).is_err());
        }
        assert!(refused > good.len() / 8, "{refused} of {}", good.len());
    }
}
