//! Writes a packed model of random trits: in a shape that rivals are measured in, for speed only, or a small one of an
//! architecture, with a tokenizer of which to give it, for `tests/interchange`. In the encodings `s24` and `s24n` the trits
//! keep 2:4, and those of `s24n` have no four zeros together.
//!
//! ```sh
//! cargo run --release -p tern-infer --example random_model -- 25m random-25m.safetensors
//! cargo run --release -p tern-infer --example random_model -- 25m sparse-25m.safetensors --encoding s24n
//! cargo run --release -p tern-infer --example random_model -- gpt2 gpt2.safetensors tokenizer.json
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig};
use tern_format::packed::{
    Encoding, FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor,
};
use tern_format::s24::PATTERNS;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

/// Layers, hidden size, feed-forward size, heads, key/value heads of the small ones.
const SMALL: [usize; 5] = [2, 256, 768, 4, 4];

/// Layers, hidden size, feed-forward size, heads, key/value heads, vocabulary.
const SHAPES: [(&str, [usize; 6]); 4] = [
    ("25m", [12, 256, 1_024, 4, 4, 49_152]),
    ("125m", [12, 768, 2_048, 12, 12, 49_152]),
    ("700m", [24, 1_536, 4_096, 16, 16, 32_002]),
    ("2b4t", [30, 2_560, 6_912, 20, 5, 128_256]),
];

/// A vocabulary of one word: nothing here is text.
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0},"merges":[]}}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (shape, path, file, encoding) = match arguments[..] {
        [shape, path] => (shape, path, None, Encoding::T2),
        [shape, path, "--encoding", name] => (shape, path, None, name.parse()?),
        [shape, path, file] => (shape, path, Some(file), Encoding::T2),
        _ => {
            return Err(
                "usage: random_model 25m|125m|700m|2b4t|bitlm|gpt2|bitnet FILE [TOKENIZER | --encoding t2|t5|s24|s24n]"
                    .into(),
            );
        }
    };
    let tokenizer = match file {
        Some(file) => TokenizerSource::from_bytes(std::fs::read(file)?)?,
        None => TokenizerSource::Json(TOKENIZER.into()),
    };
    let reader = Tokenizer::from_source(&tokenizer)?;
    let measured = SHAPES.into_iter().find(|&(name, _)| name == shape);
    let config = match (measured, shape) {
        (Some((_, shape)), _) => ModelConfig {
            activation_quantizer: ActivationQuantizer::Int8,
            max_position_embeddings: 4_096,
            ..sized(Architecture::Bitlm, shape)
        },
        (None, name) => {
            let architecture = match name {
                "bitlm" => Architecture::Bitlm,
                "gpt2" => Architecture::Gpt2,
                "bitnet" => Architecture::Bitnet,
                _ => return Err(format!("there is no shape {shape}").into()),
            };
            let [a, b, c, d, e] = SMALL;
            sized(architecture, [a, b, c, d, e, reader.vocab_size()])
        }
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut tensors = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let count: usize = shape.iter().product();
        let tensor = if config.is_block_linear(&name) {
            let mut below = |most: usize| random.next_u32() as usize % most;
            let trits: Vec<i8> = match encoding {
                Encoding::T2 | Encoding::T5 => (0..count).map(|_| below(3) as i8 - 1).collect(),
                Encoding::S24 => (0..count / 4).flat_map(|_| PATTERNS[below(33)]).collect(),
                Encoding::S24n => (0..count / 4).flat_map(|_| PATTERNS[1 + below(32)]).collect(),
            };
            let scale = (shape[1] as f32).sqrt().recip();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], scale))
        } else if shape.len() == 1 && name.ends_with(".weight") {
            Tensor::Float(FloatTensor::new(shape, FloatType::F32, &vec![1.0; count]))
        } else {
            // Sums of uniform numbers: near enough to a normal distribution of deviation 0.02.
            let uniform = |random: &mut ChaCha8Rng| random.next_u32() as f32 / 2f32.powi(32) - 0.5;
            let value =
                |random: &mut ChaCha8Rng| 0.02 * (0..12).map(|_| uniform(random)).sum::<f32>();
            let values: Vec<f32> = (0..count).map(|_| value(&mut random)).collect();
            Tensor::Float(FloatTensor::new(shape, FloatType::F16, &values))
        };
        tensors.insert(name, tensor);
    }
    let metadata =
        Metadata { bos: reader.bos(), eos: reader.eos(), ..Metadata::new(config, tokenizer) };
    PackedModel { metadata, tensors }.encode_as(encoding)?.write(Path::new(path))?;
    Ok(())
}

fn sized(architecture: Architecture, shape: [usize; 6]) -> ModelConfig {
    let [layers, hidden, intermediate, heads, key_value_heads, vocab_size] = shape;
    ModelConfig {
        vocab_size,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads,
        head_dim: hidden / heads,
        ..ModelConfig::preset(architecture)
    }
}
