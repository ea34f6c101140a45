#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::safetensors::Contents;

const TINY: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/gguf_units/tiny.gguf"));
const IO: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/goldens/gguf_units/io.safetensors"
));

fn golden(name: &str) -> Vec<f32> {
    Contents::parse(IO).unwrap().tensors[name].floats().unwrap()
}

#[test]
fn the_golden_reads_as_its_writer_says() {
    let file = Gguf::parse(TINY).unwrap();
    assert_eq!(file.find("general.architecture").unwrap(), Some("bitnet"));
    assert_eq!(file.find("test.u32").unwrap(), Some(7u32));
    assert_eq!(file.find("test.str").unwrap(), Some("héllo"));
    assert_eq!(file.find("test.f32").unwrap(), Some(0.5f64));
    let array: Array<'_> = file.find("test.arr").unwrap().unwrap();
    let values: Vec<_> = array.values().collect();
    assert_eq!(values, [Value::String("a"), Value::String("bc")]);
    assert_eq!(file.tensors.len(), 10);
    for (name, view) in &file.tensors {
        assert_eq!(view.shape, [8, 512], "{name}");
        let (source, block_type) = name.split_once('_').unwrap();
        let values = view.floats().unwrap();
        match block_type {
            "f32" => assert_eq!(values, golden(source)),
            "f16" => {
                let source = golden(source);
                assert!(values.iter().zip(source).all(|(a, b)| (a - b).abs() <= b.abs() / 1024.0));
            }
            _ => {
                let contents = Contents::parse(IO).unwrap();
                assert_eq!(view.bytes, contents.tensors[&format!("{name}_bytes")].bytes, "{name}");
                assert_eq!(values, golden(&format!("{name}_dequant")), "{name}");
            }
        }
    }
}

#[test]
fn trits_come_out_of_either_ternary_type_with_their_common_scale() {
    let file = Gguf::parse(TINY).unwrap();
    let expected: Vec<i8> = golden("tern").iter().map(|w| (w / 0.0371).round() as i8).collect();
    for name in ["tern_TQ1_0", "tern_TQ2_0"] {
        let trits = file.tensors[name].trits().unwrap().unwrap();
        assert_eq!(trits.trits, expected, "{name}");
        assert_eq!((trits.per_scale, trits.scales.len()), (256, 16));
        // The first block is zeros, and its scale another.
        assert_ne!(trits.scales[0], trits.scales[1]);
        assert_eq!(trits.common_scale(), Some(trits.scales[1]));
    }
    assert_eq!(file.tensors["w_f32"].trits().unwrap(), None);
    let mixed = Trits { trits: vec![1, 0, 0, 1], scales: vec![0.5, 0.25], per_scale: 2 };
    assert_eq!(mixed.common_scale(), None);
    let none = Trits { trits: vec![0; 4], scales: vec![0.5, 0.25], per_scale: 2 };
    assert_eq!(none.common_scale(), Some(0.0));
}

#[test]
fn worked_examples_of_the_ternary_types() {
    // w0 = +1, w32 = -1, w64 = 0, w96 = +1: codes 2, 0, 1, 2, lowest first.
    let mut bytes = vec![0b01_01_01_01; 64];
    bytes[0] = 0x92;
    bytes.extend(half::f16::from_f32(0.5).to_le_bytes());
    let trits = BlockType::TQ2_0.trits(&bytes).unwrap().unwrap().trits;
    assert_eq!([trits[0], trits[32], trits[64], trits[96], trits[1]], [1, -1, 0, 1, 0]);
    // Trits 2, 0, 1, 2, 1 less one, most significant first.
    let mut bytes = vec![0x80; 54];
    bytes[0] = 0xbc;
    let trits = BlockType::TQ1_0.trits(&bytes).unwrap().unwrap().trits;
    assert_eq!([trits[0], trits[32], trits[64], trits[96], trits[128]], [1, -1, 0, 1, 0]);
    // bitnet.cpp: c[p] << 6 | c[32 + p] << 4 | c[64 + p] << 2 | c[96 + p].
    let mut bytes = vec![0b01_01_01_01; 32];
    bytes[5] = 2 << 6 | 1 << 2 | 2;
    bytes.extend(0.25f32.to_le_bytes());
    bytes.extend([0xff; 28]);
    let trits = BlockType::I2_S.trits(&bytes).unwrap().unwrap();
    let at = |i: usize| trits.trits[i];
    assert_eq!([at(5), at(37), at(69), at(101), at(4)], [1, -1, 0, 1, 0]);
    assert_eq!((trits.scales, trits.per_scale), (vec![0.25], 128));
    bytes[7] = 3;
    assert!(BlockType::I2_S.trits(&bytes).unwrap_err().to_string().contains("element 103: code 3"));
    bytes[32..36].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(BlockType::I2_S.trits(&bytes).is_err());
}

#[test]
fn six_bits_are_unpacked_as_ggml_does() {
    // ggml's `dequantize_row_q6_K`, line for line.
    let block: [u8; 210] = std::array::from_fn(|i| (i * 89 + 41) as u8);
    let d = half::f16::from_le_bytes([block[208], block[209]]).to_f32();
    let mut expected = [0.0f32; 256];
    for half in 0..2 {
        let (ql, qh) = (&block[64 * half..], &block[128 + 32 * half..]);
        let sc = |i: usize| f32::from(block[192 + 8 * half + i] as i8);
        for l in 0..32 {
            let is = l / 16;
            let q = |low: u8, high: u8| f32::from((low | (high & 3) << 4) as i8 - 32);
            let y = &mut expected[128 * half..];
            y[l] = d * sc(is) * q(ql[l] & 15, qh[l]);
            y[l + 32] = d * sc(is + 2) * q(ql[l + 32] & 15, qh[l] >> 2);
            y[l + 64] = d * sc(is + 4) * q(ql[l] >> 4, qh[l] >> 4);
            y[l + 96] = d * sc(is + 6) * q(ql[l + 32] >> 4, qh[l] >> 6);
        }
    }
    assert_eq!(BlockType::Q6_K.floats(&block).unwrap(), expected);
}

/// A file under construction.
#[derive(Clone)]
pub(super) struct Builder {
    version: u32,
    counts: Option<(u64, u64)>,
    pub(super) entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub(super) fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

/// `sides` innermost first.
fn tensor(name: &str, sides: &[u64], number: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name.as_bytes());
    bytes.extend((sides.len() as u32).to_le_bytes());
    sides.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
    bytes.extend(number.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

pub(super) fn file() -> Builder {
    Builder {
        version: 3,
        counts: None,
        entries: vec![entry("a", 4, &7u32.to_le_bytes())],
        tensors: vec![tensor("t", &[4, 2], 0, 0), tensor("u", &[8], 1, 32)],
        data: vec![0; 48],
    }
}

impl Builder {
    pub(super) fn build(&self) -> Vec<u8> {
        let (tensors, entries) =
            self.counts.unwrap_or((self.tensors.len() as u64, self.entries.len() as u64));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn refused(&self) -> String {
        Gguf::parse(&self.build()).map(|_| ()).unwrap_err().to_string()
    }
}

#[test]
fn a_hostile_header_is_refused_at_its_byte() {
    let good = file();
    assert_eq!(Gguf::parse(&good.build()).unwrap().tensors["t"].shape, [2, 4]);
    let with_entry = |entry: Vec<u8>| Builder { entries: vec![entry], ..file() };
    let with_tensors = |tensors: Vec<Vec<u8>>| Builder { tensors, ..file() };
    let huge = u64::MAX.to_le_bytes();
    for (case, words) in [
        (Builder { version: 1, ..file() }, "byte 4: the version must be 2 or 3, is 1"),
        (Builder { version: 3u32.swap_bytes(), ..file() }, "big-endian"),
        (Builder { counts: Some((u64::MAX, 1)), ..file() }, "tensors do not fit"),
        (Builder { counts: Some((2, u64::MAX)), ..file() }, "metadata entries do not fit"),
        // Strings and arrays longer than the file, and just past its end.
        (with_entry(entry("a", 8, &huge)), "a string of 18446744073709551615 bytes does not fit"),
        (with_entry([&huge[..], b"key"].concat()), "does not fit"),
        (with_entry(entry("a", 9, &[&8u32.to_le_bytes()[..], &huge].concat())), "do not fit"),
        (
            with_entry(entry(
                "a",
                9,
                &[&10u32.to_le_bytes()[..], &(1u64 << 61).to_le_bytes()].concat(),
            )),
            "do not fit",
        ),
        (
            with_entry(entry("a", 9, &[&9u32.to_le_bytes()[..], &[0; 8]].concat())),
            "arrays of arrays",
        ),
        (with_entry(entry("a", 13, &[])), "no kind 13"),
        (with_entry(entry("a", 7, &[2])), "must be 0 or 1"),
        (with_entry(entry("a", 8, &string(b"\xff"))), "must be UTF-8"),
        (with_entry(entry("general.alignment", 4, &0u32.to_le_bytes())), "power of two"),
        (with_entry(entry("general.alignment", 4, &33u32.to_le_bytes())), "power of two"),
        (with_entry(entry("general.alignment", 10, &(1u64 << 63).to_le_bytes())), "power of two"),
        (with_entry(entry("general.alignment", 8, &string(b"32"))), "must be a whole number"),
        // Sides whose product overflows, zero sides, too many, half a block.
        (with_tensors(vec![tensor("t", &[1 << 32, 1 << 32], 0, 0)]), "overflows"),
        (with_tensors(vec![tensor("t", &[1 << 62, 2], 0, 0)]), "overflows"),
        (with_tensors(vec![tensor("t", &[1 << 62], 0, 0)]), "overflows"),
        (with_tensors(vec![tensor("t", &[0, 4], 0, 0)]), "no side may be 0"),
        (with_tensors(vec![tensor("t", &[], 0, 0)]), "must have 1 to 4 sides, has 0"),
        (with_tensors(vec![tensor("t", &[1; 5], 0, 0)]), "must have 1 to 4 sides, has 5"),
        (with_tensors(vec![tensor("t", &[33], 8, 0)]), "a multiple of 32"),
        (with_tensors(vec![tensor("t", &[4], 99, 0)]), "type 99 is not read"),
        // Offsets that lie.
        (with_tensors(vec![tensor("t", &[4], 0, 64)]), "the file holds 48"),
        (with_tensors(vec![tensor("t", &[4], 0, u64::MAX - 31)]), "truncated?"),
        (with_tensors(vec![tensor("t", &[4], 0, 8)]), "a multiple of 32"),
        (
            with_tensors(vec![tensor("t", &[9], 0, 0), tensor("u", &[4], 0, 32)]),
            "`u`: its data must begin at byte 36",
        ),
        (with_tensors(vec![tensor("t", &[4], 0, 0), tensor("t", &[4], 0, 32)]), "`t` occurs twice"),
    ] {
        let message = case.refused();
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
    let mut twice = file();
    twice.entries.push(twice.entries[0].clone());
    assert!(twice.refused().contains("the key `a` occurs twice"), "{}", twice.refused());
}

#[test]
fn every_truncation_is_refused() {
    let good = file().build();
    for length in 0..good.len() {
        assert!(Gguf::parse(&good[..length]).is_err(), "{length} bytes");
    }
    // Bytes behind the last tensor are allowed: writers pad.
    assert!(Gguf::parse(&[&good[..], &[0; 16]].concat()).is_ok());
}

#[test]
fn values_of_the_wrong_kind_are_named() {
    let bytes = file().build();
    let file = Gguf::parse(&bytes).unwrap();
    let message = file.find::<&str>("a").unwrap_err().to_string();
    assert_eq!(message, "metadata `a`: must be text");
    assert_eq!(file.find::<bool>("b").unwrap(), None);
    assert_eq!(file.get("b").unwrap_err().to_string(), "metadata `b`: must be there");
}
