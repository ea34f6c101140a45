#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::config::{Architecture, ModelConfig, Quantizer};
use crate::tokenizer::TokenizerSource;

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";
const DOWN_PROJ: &str = "model.layers.0.mlp.down_proj.weight";
const NORM: &str = "model.norm.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// One block, with rows of 5 and of 2 inputs, so that padding occurs.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 3,
        hidden_size: 4,
        intermediate_size: 5,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 2,
        max_position_embeddings: 8,
        ..ModelConfig::preset(Architecture::Bitlm)
    }
}

fn model() -> PackedModel {
    let config = config();
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let tensor = if config.is_block_linear(&name) {
            let trits: Vec<i8> = (0..count).map(|i| (i * 5 % 7 % 3) as i8 - 1).collect();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], 0.037))
        } else {
            let values: Vec<f32> = (0..count).map(|i| i as f32 * 0.1 - 0.3).collect();
            let dtype = if name == EMBEDDING { FloatType::F16 } else { FloatType::F32 };
            Tensor::Float(FloatTensor::new(shape, dtype, &values))
        };
        (name, tensor)
    });
    let tensors = tensors.collect();
    let mut metadata = Metadata::new(config, TokenizerSource::Json("{\"a\": \"ü\\n\"}".into()));
    metadata.bos = Some(1);
    metadata.eos = Some(2);
    metadata.chat_template = Some("{{ messages }}".into());
    metadata.provenance = Some(Provenance {
        run: "tiny".into(),
        step: 1250,
        tokens: u64::MAX,
        data_identity: "00".repeat(32),
        data_licence: Some("CC0".into()),
        teacher_licence: None,
        commit: "abc".into(),
        // No short decimal: a reader that is off by a bit shows.
        val_loss: Some(1.755_123_456_789_012_3),
    });
    metadata.check = Some(Check { windows: vec![vec![1, 0, 2], vec![0, 0]], loss: 0.1 + 0.2 });
    PackedModel { metadata, tensors }
}

/// The header as JSON, and the data.
fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let (header, data) =
        bytes[8..].split_at(u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

fn file(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// What the reader says of the model's file after a change to its header or data.
fn refusal(change: impl Fn(&mut Value, &mut Vec<u8>)) -> String {
    let (mut header, mut data) = parts(&model().to_bytes().unwrap());
    change(&mut header, &mut data);
    PackedModel::from_bytes(&file(&header, &data)).unwrap_err().to_string()
}

/// First byte of a tensor's data.
fn begin(header: &Value, name: &str) -> usize {
    header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn a_model_comes_back_and_its_bytes_are_the_same_every_time() {
    let model = model();
    let bytes = model.to_bytes().unwrap();
    let read = PackedModel::from_bytes(&bytes).unwrap();
    assert_eq!(read, model);
    assert_eq!(read.to_bytes().unwrap(), bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    model.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(PackedModel::read(&path).unwrap(), model);
    assert!(::safetensors::SafeTensors::deserialize(&bytes).is_ok());
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let bytes = model().to_bytes().unwrap();
    for place in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        assert!(PackedModel::from_bytes(&bytes).is_err(), "byte {place}");
    }
    // Of a trit that stays a trit, and of a number that stays one, only the checksum knows.
    let (header, _) = parts(&bytes);
    let trit = begin(&header, "model.layers.0.self_attn.q_proj.weight");
    let changed = |data: &mut Vec<u8>| {
        data[trit] = if data[trit] & 3 == 1 { data[trit] + 1 } else { data[trit] & !3 | 1 }
    };
    let message = refusal(|_, data| changed(data));
    assert!(message.contains("file_sha256") && message.contains("changed or damaged"), "{message}");
    let message = refusal(|header, _| {
        let config = header["__metadata__"]["config"].as_str().unwrap();
        let config = config.replace("\"rope_theta\":10000.0", "\"rope_theta\":20000.0");
        header["__metadata__"]["config"] = config.into();
    });
    assert!(message.contains("file_sha256") && message.contains("changed or damaged"), "{message}");
    let message = refusal(|header, _| header["__metadata__"]["file_sha256"] = "0".into());
    assert!(message.contains("file_sha256") && message.contains("64 hexadecimal"), "{message}");
}

#[test]
fn a_file_without_a_checksum_is_read_and_says_so() {
    let bytes = model().to_bytes().unwrap();
    let (_, checksum) = PackedModel::parse(bytes.clone().into()).unwrap();
    let (mut header, data) = parts(&bytes);
    assert_eq!(header["__metadata__"]["file_sha256"], checksum.unwrap());
    header["__metadata__"].as_object_mut().unwrap().remove("file_sha256");
    assert_eq!(PackedModel::parse(file(&header, &data).into()).unwrap(), (model(), None));
}

#[test]
fn a_model_that_says_no_more_than_it_must_comes_back() {
    let mut model = model();
    model.metadata = Metadata::new(config(), TokenizerSource::SentencePiece(vec![0, 255, 10]));
    let read = PackedModel::from_bytes(&model.to_bytes().unwrap()).unwrap();
    assert_eq!(read, model);
}

#[test]
fn the_bytes_of_a_matrix_are_those_of_the_example() {
    let mut model = model();
    let trits = [[1, 0, -1, 0, -1], [0, 0, 0, 0, 1], [0; 5], [0; 5]].concat();
    let down = TernaryTensor::from_trits(&trits, 5, 0.5);
    model.tensors.insert(DOWN_PROJ.into(), Tensor::Ternary(down));
    let (header, data) = parts(&model.to_bytes().unwrap());
    assert_eq!(header[DOWN_PROJ]["dtype"], "U8");
    assert_eq!(header[DOWN_PROJ]["shape"], json!([4, 2]));
    let scale = format!("{DOWN_PROJ}_scale");
    assert_eq!(header[&scale]["shape"], json!([1]));
    assert_eq!(
        data[begin(&header, DOWN_PROJ)..][..8],
        [0x46, 0x00, 0x55, 0x02, 0x55, 0x01, 0x55, 0x01]
    );
    assert_eq!(data[begin(&header, &scale)..][..4], [0x00, 0x00, 0x00, 0x3f]);
}

/// Rows of 4 and of 16 inputs, of which each four hold one or two that are not zero.
fn two_four() -> PackedModel {
    let mut model = model();
    model.metadata.config.head_dim = 4;
    model.metadata.config.intermediate_size = 16;
    let config = model.config().clone();
    for (name, shape) in config.tensors() {
        let groups = shape.iter().product::<usize>() / 4;
        let tensor = if config.is_block_linear(&name) {
            let group = |g: usize| crate::s24::PATTERNS[g * 7 % 32 + 1];
            let trits: Vec<i8> = (0..groups).flat_map(group).collect();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], 0.037))
        } else {
            Tensor::Float(FloatTensor::new(shape, FloatType::F32, &vec![1.0; 4 * groups]))
        };
        model.tensors.insert(name, tensor);
    }
    model
}

#[test]
fn a_model_keeps_its_trits_in_every_encoding_and_back() {
    let model = two_four();
    let mut sizes = Vec::new();
    for encoding in Encoding::ALL {
        let other = model.clone().encode_as(encoding).unwrap();
        let bytes = other.to_bytes().unwrap();
        let read = PackedModel::from_bytes(&bytes).unwrap();
        assert_eq!(read, other);
        assert_eq!(parts(&bytes).0["__metadata__"]["encoding"], encoding.name());
        sizes.push(other.tensors[DOWN_PROJ].size_bytes() - 4);
        for back in Encoding::ALL {
            assert_eq!(
                read.clone().encode_as(back).unwrap().encode_as(Encoding::T2).unwrap(),
                model,
                "{encoding:?} {back:?}"
            );
        }
    }
    // Four rows of sixteen inputs.
    assert_eq!(sizes, [4 * 4, 4 * 4, 4 * 4, 4 * 3]);
    assert_eq!(size_of_row(12 * 320), [960, 768, 640, 600]);
}

fn size_of_row(d_input: usize) -> [usize; 4] {
    Encoding::ALL.map(|encoding| encoding.row_bytes(d_input).unwrap())
}

#[test]
fn the_bytes_of_every_encoding_are_those_of_the_examples() {
    let mut model = two_four();
    let trits = [&[1, 0, -1, 0, 0, -1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0][..]; 4].concat();
    let down = TernaryTensor::from_trits(&trits, 16, 0.5);
    model.tensors.insert(DOWN_PROJ.into(), Tensor::Ternary(down));
    for (encoding, row) in [
        (Encoding::T2, &[0x46, 0x51, 0x69, 0x56][..]),
        (Encoding::T5, &[0x71, 0xc9, 0x83, 0x01]),
        // 7 + 33 * 28 + 1089 * 13, and 25.
        (Encoding::S24, &[0xf0, 0x3a, 0x19, 0x00]),
        // 6, 27, 12 and 24.
        (Encoding::S24n, &[0x66, 0x33, 0x0c]),
    ] {
        let bytes = model.clone().encode_as(encoding).unwrap().to_bytes().unwrap();
        let (header, data) = parts(&bytes);
        assert_eq!(data[begin(&header, DOWN_PROJ)..][..row.len()], *row, "{encoding:?}");
        assert_eq!(header[DOWN_PROJ]["shape"], json!([4, row.len()]));
    }
}

#[test]
fn what_an_encoding_cannot_hold_is_refused_with_its_place() {
    let named = |rule: &str| format!("tensor `{DOWN_PROJ}`: {rule}");
    let refused = |model: PackedModel, encoding| model.encode_as(encoding).unwrap_err().to_string();
    // Rows of five inputs.
    let rule = "has groups of four: d_input must be a multiple of 4, is 5";
    assert_eq!(refused(model(), Encoding::S24), named(&format!("s24 {rule}")));
    assert_eq!(refused(model(), Encoding::S24n), named(&format!("s24n {rule}")));
    let mut unchecked = model();
    unchecked.metadata.encoding = Encoding::S24;
    for tensor in unchecked.tensors.values_mut() {
        if let Tensor::Ternary(ternary) = tensor {
            ternary.encoding = Encoding::S24;
        }
    }
    assert_eq!(unchecked.to_bytes().unwrap_err().to_string(), named(&format!("s24 {rule}")));
    let with = |group: [i8; 4]| {
        let mut model = two_four();
        let trits = [&[1, 0, 0, 0].repeat(9)[..], &group, &[1, 0, 0, 0].repeat(6)].concat();
        let down = TernaryTensor::from_trits(&trits, 16, 0.5);
        model.tensors.insert(DOWN_PROJ.into(), Tensor::Ternary(down));
        model
    };
    let place = "row 2, columns 4 to 7:";
    assert_eq!(
        refused(with([1, 1, 0, 1]), Encoding::S24),
        named(&format!("{place} s24 has no code for 3 trits that are not zero"))
    );
    assert!(with([0; 4]).encode_as(Encoding::S24).is_ok());
    assert_eq!(
        refused(with([0; 4]), Encoding::S24n),
        named(&format!("{place} s24n has no code for 0 trits that are not zero"))
    );
    assert!(with([1, 1, 0, 1]).encode_as(Encoding::T5).is_ok());
    // One file has one encoding.
    let mut mixed = two_four();
    mixed.metadata.encoding = Encoding::S24n;
    assert_eq!(
        mixed.to_bytes().unwrap_err().to_string(),
        named("must be packed as the file is, s24n, is t2")
    );
}

#[test]
fn bad_bytes_of_every_encoding_are_named_with_their_place() {
    let poke = |encoding, offset: usize, bytes: &[u8]| {
        let model = two_four().encode_as(encoding).unwrap();
        let (header, mut data) = parts(&model.to_bytes().unwrap());
        let begin = begin(&header, DOWN_PROJ) + offset;
        data[begin..begin + bytes.len()].copy_from_slice(bytes);
        PackedModel::from_bytes(&file(&header, &data)).unwrap_err().to_string()
    };
    let down = |rule: &str| format!("tensor `{DOWN_PROJ}`: {rule}");
    assert_eq!(
        poke(Encoding::T5, 5, &[243]),
        down("row 1, column 5: 243 is no code of trits, the largest is 242")
    );
    let padding = down("row 1: the bits past column 16 must be zero");
    assert_eq!(poke(Encoding::T5, 7, &[3]), padding);
    assert_eq!(
        poke(Encoding::S24, 4, &[0x61, 0x8c]),
        down("row 1, column 0: 35937 is no code of trits, the largest is 35936")
    );
    assert_eq!(poke(Encoding::S24, 6, &[33, 0]), padding);
    assert_eq!(poke(Encoding::S24n, 5, &[1 << 4]), padding);
}

#[test]
fn no_change_of_a_byte_makes_a_model_of_another_encoding_that_cannot_be_written_again() {
    for encoding in [Encoding::T5, Encoding::S24, Encoding::S24n] {
        let model = two_four().encode_as(encoding).unwrap();
        let (mut header, data) = parts(&model.to_bytes().unwrap());
        header["__metadata__"].as_object_mut().unwrap().remove("file_sha256");
        for place in 0..data.len() {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut data = data.clone();
                data[place] ^= change;
                if let Ok(read) = PackedModel::from_bytes(&file(&header, &data)) {
                    let again = PackedModel::from_bytes(&read.to_bytes().unwrap()).unwrap();
                    assert_eq!(again, read, "{encoding:?} byte {place}");
                    for (name, tensor) in &read.tensors {
                        if let Tensor::Ternary(ternary) = tensor {
                            assert!(ternary.trits().is_ok(), "{name}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn parameters_and_bytes_are_counted() {
    let model = model();
    assert_eq!(model.parameters(), model.config().parameters());
    assert_eq!(model.ternary_parameters(), 3 * 8 + 8 + 3 * 20);
    assert_eq!(model.tensors[DOWN_PROJ].size_bytes(), 8 + 4);
    assert_eq!(model.tensors[EMBEDDING].size_bytes(), 24);
    assert_eq!(model.tensors[NORM].size_bytes(), 16);
    let (_, data) = parts(&model.to_bytes().unwrap());
    assert_eq!(model.tensors.values().map(Tensor::size_bytes).sum::<u64>(), data.len() as u64);
}

#[test]
fn a_latent_or_a_collapsed_model_can_be_read_for_the_verifier_to_judge() {
    let mut model = model();
    let float = FloatTensor::new(vec![2, 4], FloatType::BF16, &[0.3; 8]);
    model.tensors.insert(Q_PROJ.into(), Tensor::Float(float));
    for scale in [0.0, -1.0, 1e-30] {
        let down = Tensor::Ternary(TernaryTensor::from_trits(&[1; 20], 5, scale));
        model.tensors.insert(DOWN_PROJ.into(), down);
        assert_eq!(PackedModel::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
    }
}

#[test]
fn a_file_of_another_kind_or_version_is_refused_first() {
    let set = |key: &'static str, value: &'static str| {
        refusal(move |header, _| header["__metadata__"][key] = json!(value))
    };
    assert_eq!(set("format", "pt"), "metadata `format`: must be \"tern\", is `pt`");
    assert_eq!(set("format_version", "7"), "the file says format version 7, this program reads 1");
    assert_eq!(
        set("format_version", "01"),
        "the file says format version 01, this program reads 1"
    );
    assert_eq!(set("encoding", "t9"), "the encoding must be t2, t5, s24 or s24n, is `t9`");
    let error = refusal(|header, _| drop(header.as_object_mut().unwrap().remove("__metadata__")));
    assert_eq!(error, "metadata `format`: must be there, is missing");
}

#[test]
fn metadata_that_breaks_a_rule_is_named() {
    let valid_check = json!({"windows": [[0, 1]], "loss": 1.0});
    let with = |base: &Value, key: &str, value: Value| {
        let mut object = base.clone();
        object[key] = value;
        object.to_string()
    };
    let config = serde_json::to_value(config()).unwrap();
    let generation = serde_json::to_value(GenerationDefaults::default()).unwrap();
    for (key, value, expected) in [
        ("config", "{".into(), "metadata `config`: EOF"),
        ("config", "[]".into(), "metadata `config`: invalid"),
        (
            "config",
            with(&config, "hidden_sise", json!(4)),
            "metadata `config`: unknown field `hidden_sise`",
        ),
        (
            "config",
            with(&config, "hidden_size", json!(-4)),
            "metadata `config`: invalid value: integer `-4`",
        ),
        (
            "config",
            with(&config, "hidden_size", json!(u64::MAX)),
            "model.hidden_size must be 1 to 131072",
        ),
        ("config", with(&config, "vocab_size", json!(1u64 << 60)), "model.vocab_size must be 1 to"),
        ("config", with(&config, "head_dim", json!(3)), "model.head_dim must be even"),
        (
            "config",
            with(&config, "num_hidden_layers", json!(4096)),
            "metadata `config`: num_hidden_layers is 4096, but the file has only 18 tensors",
        ),
        (
            "config",
            with(&config, "num_hidden_layers", json!(2)),
            "tensor `model.layers.1.input_layernorm.weight`: the config asks for it, but it is missing",
        ),
        (
            "config",
            with(&config, "hidden_act", json!("relu9")),
            "metadata `config`: unknown variant `relu9`",
        ),
        (
            "tokenizer_config",
            "{}".into(),
            "metadata `tokenizer_config`: format version 1 has no such key",
        ),
        ("bos_token_id", "3".into(), "metadata `bos_token_id`: must be below vocab_size 3, is 3"),
        (
            "eos_token_id",
            "4294967295".into(),
            "metadata `eos_token_id`: must be below vocab_size 3",
        ),
        ("eos_token_id", "-1".into(), "metadata `eos_token_id`: invalid"),
        (
            "generation",
            with(&generation, "top_q", json!(1)),
            "metadata `generation`: unknown field `top_q`",
        ),
        (
            "generation",
            with(&generation, "temperature", json!(-1)),
            "temperature must be at least 0, is -1",
        ),
        ("generation", with(&generation, "top_p", json!(0)), "top_p must be above 0"),
        ("generation", with(&generation, "min_p", json!(1.5)), "min_p must be 0 to 1"),
        (
            "generation",
            with(&generation, "repetition_penalty", json!(0)),
            "repetition_penalty must be above 0",
        ),
        (
            "generation",
            with(&generation, "max_tokens", json!(u64::MAX)),
            "max_tokens must be at most",
        ),
        ("provenance", "{}".into(), "metadata `provenance`: missing field"),
        (
            "check",
            with(&valid_check, "windows", json!([[0, 3]])),
            "metadata `check`: window 0, id 1 must be below vocab_size 3, is 3",
        ),
        (
            "check",
            with(&valid_check, "windows", json!([])),
            "metadata `check`: there must be a window",
        ),
        (
            "check",
            with(&valid_check, "windows", json!([[0, 1], [0]])),
            "metadata `check`: window 1 must have 2 to 9 ids, has 1",
        ),
        (
            "check",
            with(&valid_check, "windows", json!([vec![0; 10]])),
            "metadata `check`: window 0 must have 2 to 9 ids, has 10",
        ),
        (
            "check",
            with(&valid_check, "windows", json!(vec![[0; 9]; 456])),
            "metadata `check`: at most 4096 ids, are 4104",
        ),
        ("check", with(&valid_check, "loss", json!(null)), "metadata `check`: invalid type: null"),
        (
            "check",
            r#"{"windows":[[0,1]],"loss":1e999}"#.into(),
            "metadata `check`: number out of range",
        ),
        ("check", "[".repeat(100_000), "metadata `check`"),
    ] {
        let error = refusal(|header, _| header["__metadata__"][key] = json!(value));
        assert!(error.contains(expected), "{key}\n{error}\n{expected}");
    }
    for key in ["config", "generation", "tokenizer", "encoding", "format_version"] {
        let error = refusal(|header, _| {
            header["__metadata__"].as_object_mut().unwrap().remove(key);
        });
        assert_eq!(error, format!("metadata `{key}`: must be there, is missing"));
    }
}

#[test]
fn two_tokenizers_are_one_too_many() {
    let add = |dtype: &'static str, shape: Value| {
        refusal(move |header, data| {
            let end = data.len();
            header["tokenizer.model"] =
                json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + 2]});
            data.extend([1, 2]);
        })
    };
    let error = add("U8", json!([2]));
    assert!(error.contains("metadata `tokenizer`: there must be one"), "{error}");
    let error = add("I8", json!([2]));
    assert_eq!(error, "tensor `tokenizer.model`: the dtype must be U8, is I8");
    let error = add("U8", json!([1, 2]));
    assert_eq!(error, "tensor `tokenizer.model`: the shape must be [2], is [1, 2]");
}

#[test]
fn a_tensor_that_is_not_the_configs_is_named_with_the_rule() {
    let scale = format!("{Q_PROJ}_scale");
    let rename = |from: &str, to: &str| {
        refusal(|header, _| {
            let place = header.as_object_mut().unwrap().remove(from).unwrap();
            header[to] = place;
        })
    };
    let missing = "the config asks for it, but it is missing";
    assert_eq!(rename(NORM, "model.nrom.weight"), format!("tensor `{NORM}`: {missing}"));
    assert_eq!(rename(&scale, "x"), format!("tensor `{scale}`: {missing}"));
    let error = refusal(|header, data| {
        let end = data.len();
        header["model.norm.bias"] =
            json!({"dtype": "U8", "shape": [1], "data_offsets": [end, end + 1]});
        data.push(0);
    });
    assert_eq!(error, "tensor `model.norm.bias`: the config has no such tensor");

    for (name, key, value, expected) in [
        (
            NORM,
            "dtype",
            json!("I32"),
            format!("tensor `{NORM}`: the dtype must be F32, F16 or BF16, is I32"),
        ),
        (
            Q_PROJ,
            "dtype",
            json!("I8"),
            format!("tensor `{Q_PROJ}`: the dtype must be U8, F32, F16 or BF16, is I8"),
        ),
        (&scale, "dtype", json!("I32"), format!("tensor `{scale}`: the dtype must be F32, is I32")),
        (
            NORM,
            "shape",
            json!([2, 2]),
            format!("tensor `{NORM}`: the shape must be [4], is [2, 2]"),
        ),
        (
            EMBEDDING,
            "shape",
            json!([4, 3]),
            format!("tensor `{EMBEDDING}`: the shape must be [3, 4], is [4, 3]"),
        ),
        (
            DOWN_PROJ,
            "shape",
            json!([2, 4]),
            format!("tensor `{DOWN_PROJ}`: the shape must be [4, 2], is [2, 4]"),
        ),
        (&scale, "shape", json!([]), format!("tensor `{scale}`: the shape must be [1], is []")),
    ] {
        let error = refusal(|header, _| header[name][key] = value.clone());
        assert_eq!(error, expected);
    }
}

#[test]
fn trits_are_refused_where_the_config_has_none() {
    let mut float = model();
    float.metadata.config.quantizer = Quantizer::None;
    let error = float.to_bytes().unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `model.layers.0.mlp.down_proj.weight`: the dtype must be F32, F16 or BF16, is U8"
    );
    let error = refusal(|header, _| {
        let config = serde_json::to_string(&float.metadata.config).unwrap();
        header["__metadata__"]["config"] = json!(config);
    });
    assert!(error.ends_with("the dtype must be F32, F16 or BF16, is U8"), "{error}");
}

#[test]
fn bad_bytes_inside_a_tensor_are_named_with_their_place() {
    let poke = |name: &str, offset: usize, bytes: &[u8]| {
        refusal(|header, data| {
            let begin = begin(header, name) + offset;
            data[begin..begin + bytes.len()].copy_from_slice(bytes);
        })
    };
    assert_eq!(
        poke(Q_PROJ, 1, &[0b0011_0000]),
        format!("tensor `{Q_PROJ}`: row 1, column 2: code 3 is no trit")
    );
    assert_eq!(
        poke(DOWN_PROJ, 3, &[0b0000_0100]),
        format!("tensor `{DOWN_PROJ}`: row 1: the bits past column 5 must be zero")
    );
    assert_eq!(
        poke(NORM, 8, &f32::NAN.to_le_bytes()),
        format!("tensor `{NORM}`: value 2 must be a finite f32, is NaN")
    );
    // The largest exponent of f16 is infinity.
    assert_eq!(
        poke(EMBEDDING, 2, &[0x00, 0xfc]),
        format!("tensor `{EMBEDDING}`: value 1 must be a finite f16, is -inf")
    );
    let scale = format!("{Q_PROJ}_scale");
    for value in [f32::NAN, f32::INFINITY] {
        assert_eq!(
            poke(&scale, 0, &value.to_le_bytes()),
            format!("tensor `{scale}`: value 0 must be a finite f32, is {value}")
        );
    }
}

#[test]
fn a_file_cut_anywhere_or_with_a_tail_is_refused() {
    let bytes = model().to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(PackedModel::from_bytes(&bytes[..length]).is_err(), "cut at {length}");
    }
    let error = PackedModel::from_bytes(&[&bytes[..], &[0]].concat()).unwrap_err().to_string();
    assert_eq!(error, "1 bytes after the last tensor belong to nothing");
}

#[test]
fn no_change_of_a_byte_makes_a_model_that_cannot_be_written_again() {
    let bytes = model().to_bytes().unwrap();
    for place in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= change;
            if let Ok(read) = PackedModel::from_bytes(&changed) {
                let again = PackedModel::from_bytes(&read.to_bytes().unwrap()).unwrap();
                assert_eq!(again, read, "byte {place}");
            }
        }
    }
}

#[test]
fn what_the_reader_refuses_is_not_written() {
    fn with(change: impl Fn(&mut PackedModel)) -> String {
        let mut model = model();
        change(&mut model);
        model.to_bytes().unwrap_err().to_string()
    }
    let float = |dtype, values: Vec<f32>| {
        move |model: &mut PackedModel| {
            let float = FloatTensor::new(vec![4], dtype, &values);
            model.tensors.insert(NORM.into(), Tensor::Float(float));
        }
    };
    let ternary = |change: fn(&mut TernaryTensor)| {
        move |model: &mut PackedModel| {
            if let Some(Tensor::Ternary(ternary)) = model.tensors.get_mut(DOWN_PROJ) {
                change(ternary);
            }
        }
    };
    let norm = |rule: &str| format!("tensor `{NORM}`: {rule}");
    let down = |rule: &str| format!("tensor `{DOWN_PROJ}`: {rule}");
    let large = vec![0.0, 65_520.0, 0.0, 0.0];
    assert_eq!(with(float(FloatType::F16, large)), norm("value 1 must be a finite f16, is inf"));
    assert_eq!(
        with(float(FloatType::F32, vec![0.1; 3])),
        norm("the shape asks for 4 values, found 3")
    );
    assert_eq!(
        with(ternary(|t| t.scale = f32::NAN)),
        down("value 0 must be a finite scale, is NaN")
    );
    assert_eq!(
        with(ternary(|t| t.bytes = [&[3], &t.bytes[1..]].concat().into())),
        down("row 0, column 0: code 3 is no trit")
    );
    assert_eq!(with(ternary(|t| t.d_output = 8)), down("the shape must be [4, 5], is [8, 5]"));
    assert_eq!(
        with(|m| drop(m.tensors.remove(NORM))),
        norm("the config asks for it, but it is missing")
    );
    assert_eq!(
        with(|m| m.metadata.format_version = 2),
        "the file says format version 2, this program reads 1"
    );
    let nan_loss = |m: &mut PackedModel| m.metadata.check.as_mut().unwrap().loss = f64::NAN;
    assert_eq!(with(nan_loss), "metadata `check`: loss must be finite, is NaN");
}

#[test]
fn the_tokenizer_must_fit_the_embedding() {
    let metadata = model().metadata;
    metadata.validate_tokenizer(3).unwrap();
    let error = metadata.validate_tokenizer(4).unwrap_err().to_string();
    assert_eq!(error, "metadata `tokenizer`: its vocabulary must fit vocab_size 3, has 4");
    // An embedding may have more rows than there are tokens, but EOS must be one of them.
    let error = metadata.validate_tokenizer(2).unwrap_err().to_string();
    let expected = "must be a token of the tokenizer, which has 2, is 2";
    assert_eq!(error, format!("metadata `eos_token_id`: {expected}"));
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let error = PackedModel::read(&path).unwrap_err().to_string();
    let expected = "not a safetensors file: it looks like GGUF (llama.cpp)";
    assert_eq!(error, format!("{}: {expected}", path.display()));
    if cfg!(target_os = "linux") {
        let error = model().write(std::path::Path::new("/dev/full")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/full: "), "{error}");
    }
}
