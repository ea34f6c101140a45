//! What is written reads back as itself, whatever it is.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tern_datasets::token_file::{Header, TokenFile, TokenFileWriter};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig};
use tern_format::packed::{
    Check, FloatTensor, FloatType, GenerationDefaults, Metadata, PackedModel, Tensor, TernaryTensor,
};
use tern_format::safetensors::{parse_f32, read_f32, write_f32};
use tern_format::t2;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};
use tern_train::config::RunConfig;

/// Few cases: the tests of a format try every byte of a small file besides.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() }
}

fn config() -> impl Strategy<Value = ModelConfig> {
    let sizes = (1..40usize, 1..24usize, 1..24usize, 1..3usize, 1..4usize, 1..3usize);
    (sizes, 1..9usize, any::<bool>(), any::<bool>(), 1e-6..1e6f64).prop_map(
        |((vocab, hidden, inner, layers, groups, half), positions, tied, int8, theta)| {
            ModelConfig {
                vocab_size: vocab + 2,
                hidden_size: hidden,
                intermediate_size: inner,
                num_hidden_layers: layers,
                num_attention_heads: groups * 2,
                num_key_value_heads: groups,
                head_dim: half * 2,
                max_position_embeddings: positions + 1,
                rope_theta: theta,
                tie_word_embeddings: tied,
                activation_quantizer: if int8 {
                    ActivationQuantizer::Int8
                } else {
                    ActivationQuantizer::None
                },
                ..ModelConfig::preset(Architecture::Bitlm)
            }
        },
    )
}

fn dtype() -> impl Strategy<Value = FloatType> {
    proptest::sample::select(&[FloatType::F32, FloatType::F16, FloatType::BF16][..])
}

/// One tensor of a config: trits where they may be, else floats.
fn tensor(config: &ModelConfig, name: &str, shape: Vec<usize>) -> BoxedStrategy<Tensor> {
    let count = shape.iter().product::<usize>();
    let sides = shape.clone();
    let floats = (dtype(), vec(-60_000.0..60_000.0f32, count)).prop_map(move |(dtype, values)| {
        Tensor::Float(FloatTensor::new(sides.clone(), dtype, &values))
    });
    if !config.is_block_linear(name) {
        return floats.boxed();
    }
    let trits = (vec(-1..=1i8, count), proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL)
        .prop_map(move |(trits, scale)| {
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], scale))
        });
    prop_oneof![4 => trits, 1 => floats].boxed()
}

fn generation() -> impl Strategy<Value = GenerationDefaults> {
    (0.0..9.0f32, 0..99usize, 0.01..1.0f32, 0.0..1.0f32, 0.1..3.0f32, any::<String>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, prompt)| GenerationDefaults {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            max_tokens: top_k * 7,
            prompt,
        },
    )
}

fn model() -> impl Strategy<Value = PackedModel> {
    let tokenizer = prop_oneof![
        any::<String>().prop_map(TokenizerSource::Json),
        vec(any::<u8>(), 0..50).prop_map(TokenizerSource::SentencePiece),
    ];
    let metadata =
        (config(), tokenizer, generation(), any::<(Option<String>, bool, bool)>(), -1e9..1e9f64)
            .prop_map(|(config, tokenizer, generation, (template, ends, checked), loss)| {
                let check = Check { windows: vec![vec![0, 1]; 3], loss };
                Metadata {
                    generation,
                    chat_template: template,
                    bos: ends.then_some(1),
                    check: checked.then_some(check),
                    ..Metadata::new(config, tokenizer)
                }
            });
    metadata.prop_flat_map(|metadata| {
        let config = &metadata.config;
        let one = |(name, shape): (String, Vec<usize>)| {
            let tensor = tensor(config, &name, shape);
            (Just(name), tensor)
        };
        let tensors: Vec<_> = config.tensors().into_iter().map(one).collect();
        (Just(metadata), tensors).prop_map(|(metadata, tensors)| PackedModel {
            metadata,
            tensors: tensors.into_iter().collect(),
        })
    })
}

/// Words of a vocabulary of this size; the first three are special.
fn words(vocab_size: usize) -> Tokenizer {
    let vocab: serde_json::Map<_, _> =
        (0..vocab_size).map(|id| (format!("w{id}"), id.into())).collect();
    let json = serde_json::json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}});
    Tokenizer::from_source(&TokenizerSource::Json(json.to_string())).unwrap()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn trits(trits in vec(-1..=1i8, 0..400), d_input in 1..70usize) {
        let rows = trits.len() / d_input;
        let trits = &trits[..rows * d_input];
        let bytes = t2::pack(trits, d_input);
        prop_assert_eq!(bytes.len(), rows * t2::row_bytes(d_input));
        prop_assert_eq!(t2::unpack(&bytes, rows, d_input).unwrap(), trits);
    }

    #[test]
    fn packed_models(model in model()) {
        let bytes = model.to_bytes().unwrap();
        let read = PackedModel::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read, &model);
        prop_assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn tensors(
        tensors in btree_map("[a-z.\u{1b}\"é]{1,9}", vec(proptest::num::f32::NORMAL | proptest::num::f32::ZERO, 0..20), 0..6),
        metadata in btree_map(any::<String>(), any::<String>(), 0..4),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.safetensors");
        let all: Vec<_> =
            tensors.iter().map(|(name, values)| (name.clone(), vec![values.len(), 1], values.clone())).collect();
        write_f32(&path, &all, &metadata).unwrap();
        let expected: BTreeMap<_, _> =
            all.into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
        let read = read_f32(&path).unwrap();
        prop_assert_eq!(&read, &(expected, metadata));
        prop_assert_eq!(parse_f32(&std::fs::read(&path).unwrap()).unwrap(), read);
    }

    #[test]
    fn configurations(
        model in config(),
        generation in generation(),
        seed in 0..=i64::MAX as u64,
        rate in 1e-9..1.0f64,
        texts in vec(any::<String>(), 0..3),
        counts in (1..1_000_000u64, 1..9usize, 1..9usize),
    ) {
        let text = "[model]\narchitecture = \"bitlm\"\n[data]\ntrain = [\"a\"]\nseq_len = 1\nmicro_batch = 1\n\
                    tokenizer = { file = \"b\" }\n";
        let mut config = RunConfig::parse(text, Path::new("run.toml"), &[]).unwrap();
        (config.model, config.generate, config.seed) = (model, generation, seed);
        config.train.optimizer.learning_rate = rate;
        (config.train.steps, config.train.grad_accum, config.data.micro_batch) = counts;
        config.samples.prompts.clone_from(&texts);
        config.data.licence = texts.first().cloned();
        // The name of a file is not empty.
        config.data.train.extend(texts.into_iter().filter(|text| !text.is_empty()));
        let again = RunConfig::parse(&config.to_toml(), Path::new("config.toml"), &[]).unwrap();
        prop_assert_eq!(&again, &config);
        prop_assert_eq!(again.hash(), config.hash());
    }
}

proptest! {
    // A vocabulary of 65,537 words takes a moment to build.
    #![proptest_config(ProptestConfig { cases: 24, ..cases() })]

    #[test]
    fn token_files(
        vocab_size in prop_oneof![4..=256usize, Just(257), Just(65_536), Just(65_537)],
        documents in vec(vec(any::<u32>(), 0..30), 0..5),
        delimited in any::<(bool, bool)>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tokens");
        let tokenizer = words(vocab_size);
        let (bos, eos) = (delimited.0.then_some(1), delimited.1.then_some(2));
        let mut writer = TokenFileWriter::resume(&path, Header::empty(&tokenizer, bos, eos)).unwrap();
        let mut expected = Vec::new();
        for document in &documents {
            let ids: Vec<u32> = document.iter().map(|id| id % vocab_size as u32).collect();
            writer.push(&ids, ids.len()).unwrap();
            expected.extend(bos.into_iter().chain(ids).chain(eos));
        }
        let written = writer.finish().unwrap();
        let file = TokenFile::open_for(&path, &tokenizer).unwrap();
        prop_assert_eq!(file.header(), &written);
        prop_assert_eq!(file.ids(0..file.len()).collect::<Vec<_>>(), expected);
    }
}
