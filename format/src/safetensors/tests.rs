#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use super::*;

/// A file by hand: the length, the header, the data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    Contents::parse(bytes).unwrap_err().to_string()
}

fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    vec![
        ("b".into(), vec![2, 2], vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX]),
        ("a".into(), vec![], vec![0.1]),
        ("none".into(), vec![0, 3], vec![]),
    ]
}

fn metadata() -> BTreeMap<String, String> {
    [("z", "last"), ("a", "quote \" and \n")].map(|(k, v)| (k.into(), v.into())).into()
}

#[test]
fn floats_come_back_to_the_bit_with_their_metadata() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    write_f32(&path, &tensors(), &metadata()).unwrap();
    let (read, read_metadata) = read_f32(&path).unwrap();
    assert_eq!(read_metadata, metadata());
    assert_eq!(read.len(), 3);
    for (name, shape, values) in tensors() {
        let (read_shape, read_values) = &read[&name];
        assert_eq!(read_shape, &shape);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(read_values), bits(&values), "{name}");
    }
}

#[test]
fn the_order_of_the_arguments_does_not_show() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("1"), directory.path().join("2"));
    let mut backwards = tensors();
    backwards.reverse();
    write_f32(&one, &tensors(), &metadata()).unwrap();
    write_f32(&two, &backwards, &metadata()).unwrap();
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
}

#[test]
fn the_crate_safetensors_reads_what_is_written() {
    let bytes: Vec<f32> = vec![1.5, -2.0];
    let entries = vec![
        Entry { name: "u".into(), shape: vec![3], data: Data::Bytes(Dtype::U8, &[1, 2, 3]) },
        Entry {
            name: "h".into(),
            shape: vec![2],
            data: Data::Bytes(Dtype::F16, &[0, 0x3e, 0, 0xc0]),
        },
        Entry {
            name: "b".into(),
            shape: vec![1, 2],
            data: Data::Bytes(Dtype::BF16, &[0xc0, 0x3f, 0, 0xc0]),
        },
        Entry { name: "f".into(), shape: vec![2, 1], data: Data::F32(&bytes) },
    ];
    let layout = Layout::new(&metadata(), entries).unwrap();
    let mut written = Vec::new();
    layout.write(&mut written).unwrap();
    assert_eq!(written.len() as u64, layout.size_bytes());
    let theirs = ::safetensors::SafeTensors::deserialize(&written).unwrap();
    let ours = Contents::parse(&written).unwrap();
    assert_eq!(theirs.len(), ours.tensors.len());
    for (name, view) in &ours.tensors {
        let their_view = theirs.tensor(name).unwrap();
        assert_eq!(their_view.dtype(), view.dtype, "{name}");
        assert_eq!(their_view.shape(), view.shape, "{name}");
        assert_eq!(their_view.data(), view.bytes, "{name}");
        // Every element is aligned: the widest come first, behind a header of whole words.
        let place = view.bytes.as_ptr().addr() - written.as_ptr().addr();
        assert!(place.is_multiple_of(view.dtype.bitsize() / 8), "{name} at {place}");
    }
    let (_, their_metadata) = ::safetensors::SafeTensors::read_metadata(&written).unwrap();
    let theirs = their_metadata.metadata().clone().unwrap();
    assert_eq!(theirs.into_iter().collect::<BTreeMap<_, _>>(), ours.metadata);
    for (name, expected) in [("f", &bytes), ("h", &bytes), ("b", &bytes)] {
        assert_eq!(&ours.tensors[name].floats().unwrap(), expected, "{name}");
    }
    assert!(ours.tensors["u"].floats().unwrap_err().to_string().contains("is U8"));
}

#[test]
fn doubles_are_rounded_and_overflow_is_named() {
    let header = r#"{"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    let read = |value: f64| {
        let bytes = file(header, &value.to_le_bytes());
        Contents::parse(&bytes).unwrap().tensors["x"].floats()
    };
    assert_eq!(read(0.1).unwrap(), [0.1f32]);
    assert_eq!(read(1e300).unwrap_err().to_string(), "value 0 must be a finite f32, is inf");
}

#[test]
fn what_is_no_safetensors_file_is_named_for_what_it_is() {
    for (bytes, expected) in [
        (&b""[..], "an empty file"),
        (b"\x01\x02\x00", "a file cut within its first eight bytes"),
        (b"GGUF\x03\0\0\0\x7b\0\0\0\0\0\0\0", "GGUF"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl", "PyTorch"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"{\"weight_map\": {}}", "JSON text"),
        ("Es war einmal ein Bär, der schlief.".as_bytes(), "text"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a", "no kind that Tern knows"),
    ] {
        let error = refusal(bytes);
        assert!(error.starts_with("not a safetensors file: it looks like "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_header_longer_than_the_file_is_refused_before_it_is_read() {
    let whole = file(r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[7]);
    for says in [whole.len() as u64 - 7, 99_999_999, 1 << 40, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&says.to_le_bytes());
        let expected =
            format!("fit the {} bytes that may follow its length, says {says}", bytes.len() - 8);
        assert!(refusal(&bytes).contains(&expected), "{}", refusal(&bytes));
    }
}

#[test]
fn a_header_that_lies_is_refused_with_the_tensor_and_the_rule() {
    for (header, data, expected) in [
        (r#"{"x":"#, 0, "header: tensor `x`: EOF"),
        (r#"{"x":1}"#, 0, "tensor `x`: invalid type: integer `1`"),
        (
            r#"{"x":{"dtype":"F99","shape":[1],"data_offsets":[0,1]}}"#,
            1,
            "tensor `x`: unknown variant `F99`",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
            1,
            "tensor `x`: invalid value: integer `-1`",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#,
            1,
            "tensor `x`: invalid type: floating point",
        ),
        (r#"{"x":{"dtype":"U8","shape":[1]}}"#, 1, "tensor `x`: missing field `data_offsets`"),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"y":1}}"#,
            1,
            "tensor `x`: unknown field `y`",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}"#,
            1,
            "duplicate field `shape`",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}} garbage"#,
            1,
            "trailing characters",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            2,
            "tensor `x`: occurs twice",
        ),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "`__metadata__` occurs twice"),
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0, "metadata `k`: occurs twice"),
        (r#"{"__metadata__":{"k":1}}"#, 0, "metadata `k`: invalid type: integer `1`"),
        (
            r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
            6,
            "tensor `y`: its data must begin at byte 4, where the tensor before it ends; begins at 2",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            4,
            "tensor `y`: its data must begin at byte 4",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            2,
            "tensor `x`: its data must begin at byte 0, where the tensor before it ends; begins at 1",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[0],"data_offsets":[2,1]}}"#,
            2,
            "tensor `x`: its data begins at byte 2",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#,
            8,
            "tensor `x`: its data ends at byte 9, but the file holds 8 after its header: truncated?",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[9],"data_offsets":[0,18446744073709551615]}}"#,
            8,
            "tensor `x`: its data ends at byte 18446744073709551615",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            4,
            "3 bytes after the last tensor belong to nothing",
        ),
        (r#"{}"#, 4, "4 bytes after the last tensor belong to nothing"),
        (
            r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            8,
            "tensor `x`: the shape asks for 12 bytes, found 8",
        ),
        (
            r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
            8,
            "tensor `x`: the shape [4294967296, 4294967296] overflows",
        ),
        (
            r#"{"x":{"dtype":"U8","shape":[18446744073709551615,2,0],"data_offsets":[0,0]}}"#,
            0,
            "tensor `x`: the shape [18446744073709551615, 2, 0] overflows",
        ),
    ] {
        let error = refusal(&file(header, &vec![0; data]));
        assert!(error.contains(expected), "{header}\n{error}");
    }
}

#[test]
fn names_are_shown_short_and_without_escape_sequences() {
    let name = format!("\\u001b[2J{}", "x".repeat(100_000));
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}}}"#);
    let error = refusal(&file(&header, &[0]));
    assert!(error.len() < 300 && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let tensor = |name: &str, shape: &[usize], values: &[f32]| {
        (name.to_owned(), shape.to_vec(), values.to_vec())
    };
    for (tensors, expected) in [
        (
            vec![tensor("x", &[2], &[1.0, f32::NAN])],
            "tensor `x`: value 1 must be a finite f32, is NaN",
        ),
        (vec![tensor("x", &[2], &[1.0])], "tensor `x`: the shape asks for 2 values, found 1"),
        (vec![tensor("x", &[usize::MAX, 2], &[1.0])], "overflows"),
        (vec![tensor("x", &[1], &[1.0]), tensor("x", &[1], &[2.0])], "tensor `x`: occurs twice"),
        (vec![tensor("__metadata__", &[1], &[1.0])], "tensor `__metadata__`: occurs twice"),
    ] {
        let error = write_f32(&path, &tensors, &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            error.starts_with(&path.display().to_string()) && error.contains(expected),
            "{error}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn a_file_that_is_absent_or_no_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = read_f32(directory.path()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: must be a regular file", directory.path().display()));
    let absent = directory.path().join("absent");
    let error = read_f32(&absent).unwrap_err().to_string();
    assert!(error.starts_with(&absent.display().to_string()), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_that_claims_more_than_memory_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    // A file system that refuses such a file protects as well.
    if fs::File::create(&path).unwrap().set_len(1 << 50).is_ok() {
        let error = read_f32(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}
