#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/pytorch/", $name))
    };
}

fn floats(tensors: &BTreeMap<String, Tensor>, name: &str) -> Vec<f32> {
    tensors[name].floats().unwrap()
}

#[test]
fn a_state_dict_reads_as_pytorch_wrote_it() {
    let tensors = parse(golden!("state_dict.pt")).unwrap();
    let w: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
    assert_eq!(
        (&tensors["a.weight"].shape[..], floats(&tensors, "a.weight")),
        (&[3, 4][..], w.clone())
    );
    assert_eq!(tensors["tied"], tensors["a.weight"]);
    let transposed: Vec<f32> = (0..12).map(|i| w[i % 3 * 4 + i / 3]).collect();
    assert_eq!(tensors["a.transposed"].shape, [4, 3]);
    assert_eq!(floats(&tensors, "a.transposed"), transposed);
    assert_eq!(tensors["a.slice"].shape, [2, 2]);
    assert_eq!(floats(&tensors, "a.slice"), [w[5], w[6], w[9], w[10]]);
    for name in ["half", "bf16"] {
        assert_eq!(floats(&tensors, name), [0.5, -2.0], "{name}");
    }
    assert_eq!(floats(&tensors, "double"), [0.1]);
    assert_eq!(floats(&tensors, "parameter"), [1.5]);
    assert_eq!(
        (&tensors["count"].shape[..], tensors["count"].element_type),
        (&[][..], ElementType::I64)
    );
    assert_eq!(tensors["count"].bytes, 7i64.to_le_bytes());
    assert_eq!(
        (tensors["mask"].element_type, &tensors["mask"].bytes[..]),
        (ElementType::Bool, &[1, 0][..])
    );
    assert_eq!(tensors["bytes"].bytes, [0, 255]);
    let error = tensors["count"].floats().unwrap_err().to_string();
    assert_eq!(error, "must hold floats, holds I64");
}

#[test]
fn the_model_of_a_checkpoint_is_unwrapped_and_its_names_shortened() {
    let tensors = parse(golden!("checkpoint.pt")).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(
        (tensors["weight"].shape.clone(), tensors["bias"].shape.clone()),
        (vec![1, 2], vec![1])
    );
}

#[test]
fn what_a_state_dict_does_not_need_is_named_and_not_called() {
    let error = parse(golden!("namespace.pt")).unwrap_err().to_string();
    assert!(
        error.contains("names `argparse.Namespace`") && error.contains("not called"),
        "{error}"
    );
}

/// An archive of a pickle and one storage, `0`, of twelve bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("x/data.pkl", pickle), ("x/data/0", &[0u8; 12])] {
        writer.start_file(name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn refused(pickle: &[u8]) -> String {
    parse(&archive(pickle)).map(|_| ()).unwrap_err().to_string()
}

fn text(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

/// `{"w": a float tensor of storage "0"}` with these numbers.
fn one_tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        &b"\x80\x02}"[..],
        &text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x03tQ",
        offset,
        shape,
        strides,
        b"\x89)tRs.",
    ]
    .concat()
}

#[test]
fn hostile_pickles_are_refused_at_their_byte() {
    let good = one_tensor(b"K\x00", b"K\x03\x85", b"K\x01\x85");
    assert_eq!(parse(&archive(&good)).unwrap()["w"].shape, [3]);
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    for (pickle, words) in [
        // The classic: `os.system("…")`.
        (&b"cos\nsystem\n(X\x04\0\0\0echotR."[..], "byte 0: names `os.system`"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "names `os.system`"),
        (b"cbuiltins\neval\n.", "names `builtins.eval`"),
        (b"ctorch\nload\n.", "names `torch.load`"),
        // INST, OBJ, NEWOBJ, EXT1, PERSID, REDUCE of what is no callable.
        (b"(ios\nsystem\n.", "opcode 0x69"),
        (b"(o.", "opcode 0x6f"),
        (b")\x81.", "opcode 0x81"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"Pid\n.", "opcode 0x50"),
        (b"N)R.", "not to be called"),
        (b"\x80\x07.", "protocol 7"),
        (b"", "needs 1 bytes"),
        (b".", "empty stack"),
        (b"(.", "empty stack"),
        (b"t.", "there is no mark"),
        (b"h\x05.", "the memo has no 5"),
        (b"X\xff\xff\xff\xffa.", "needs 4294967295 bytes"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "needs 18446744073709551615 bytes"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", "more than 64 bits"),
        (b"cnoend", "has no end"),
        (b"}K\x01.", "holds no tensors"),
        (b"}.", "holds no tensors"),
        (b"}(K\x01u.", "a key has no value"),
        (b"NK\x01K\x02s.", "dictionaries alone"),
        (b"NQ.", "named by a tuple"),
        (&one_tensor(b"K\x00", b"K\x04\x85", b"K\x01\x85"), "`w`: the shape asks for 4 elements"),
        (&one_tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85"), "`w`: its elements end at 4"),
        (&one_tensor(b"K\x00", b"K\x02\x85", b"K\x09\x85"), "`w`: its elements end at 10"),
        (&one_tensor(b"K\x00", &[&huge[..], b"\x85"].concat(), b"K\x00\x85"), "elements"),
        (&one_tensor(huge, b"K\x02\x85", b"K\x01\x85"), "`w`: its elements end at"),
        (
            &one_tensor(b"K\x00", &[&huge[..], huge, b"\x86"].concat(), b"K\x00K\x00\x86"),
            "overflows",
        ),
        (&one_tensor(b"J\xff\xff\xff\xff", b"K\x03\x85", b"K\x01\x85"), "0 or more, one is -1"),
        (&one_tensor(b"K\x00", b"K\x03\x85", b")"), "a stride for each side"),
        (&one_tensor(b"N", b"K\x03\x85", b"K\x01\x85"), "must be whole numbers"),
    ] {
        let message = refused(pickle);
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
    for length in 0..good.len() {
        assert!(parse(&archive(&good[..length])).is_err(), "{length} bytes");
    }
}

#[test]
fn values_inside_values_cost_no_more_than_their_opcodes() {
    // A tuple of two of the tuple before, a million deep: its size written out would be 2^1000000.
    let mut pickle = b"N".to_vec();
    for _ in 0..1_000_000 {
        pickle.extend(b"q\0h\0\x86");
    }
    pickle.push(b'.');
    assert!(refused(&pickle).contains("holds no tensors"));
}

#[test]
fn archives_that_are_none_or_lie_are_refused() {
    let refused = |bytes: &[u8]| parse(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(refused(b"\x80\x02}.").contains("must be a ZIP archive"));
    assert!(refused(b"").contains("must be a ZIP archive"));
    let good = archive(&one_tensor(b"K\x00", b"K\x03\x85", b"K\x01\x85"));
    for length in 0..good.len() {
        assert!(parse(&good[..length]).is_err(), "{length} bytes");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        // Names and dates may change unseen; the bytes of files have a checksum.
        if let Ok(tensors) = parse(&bad) {
            assert_eq!(tensors["w"].floats().unwrap(), [0.0; 3], "byte {at}");
        }
    }
    // The directory at the end has the names that count.
    let place = good.windows(8).rposition(|bytes| bytes == b"x/data/0").unwrap();
    let mut renamed = good.clone();
    renamed[place + 7] = b'1';
    assert!(parse(&renamed).is_err());
}
