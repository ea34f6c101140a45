//! Tensors of a golden under the names and in the layout of this project.

use std::collections::BTreeMap;

use crate::Golden;

/// Tensors of BitLM, BitGPT, GPT-2 or Hugging Face's LLaMA and BitNet, told apart by their names.
pub fn ours(golden: BTreeMap<String, Golden>) -> BTreeMap<String, Golden> {
    golden.into_iter().flat_map(|(name, tensor)| renamed(&name, tensor)).collect()
}

fn renamed(name: &str, tensor: Golden) -> Vec<(String, Golden)> {
    let parts: Vec<&str> = name.split('.').collect();
    let one = |name: String, tensor| vec![(name, tensor)];
    match parts[..] {
        ["model" | "lm_head", ..] => one(name.into(), tensor),
        ["embed" | "tok", "weight"] | ["transformer", "wte", "weight"] => {
            one("model.embed_tokens.weight".into(), tensor)
        }
        ["pos", "weight"] | ["transformer", "wpe", "weight"] => {
            one("model.embed_positions.weight".into(), tensor)
        }
        ["norm" | "norm_f", kind] | ["transformer", "ln_f", kind] => {
            one(format!("model.norm.{kind}"), tensor)
        }
        ["blocks", layer, part, "weight"] => {
            let part = match part {
                "attn_norm" | "norm1" => "input_layernorm".to_owned(),
                "ffn_norm" | "norm2" => "post_attention_layernorm".to_owned(),
                "q" | "k" | "v" | "o" => format!("self_attn.{part}_proj"),
                "gate" | "up" | "down" => format!("mlp.{part}_proj"),
                other => panic!("no part {other} in a block"),
            };
            one(format!("model.layers.{layer}.{part}.weight"), tensor)
        }
        ["transformer", "h", layer, ref part @ .., kind] => {
            let name = |part: &str| format!("model.layers.{layer}.{part}.{kind}");
            // GPT-2's matrices are [d_input, d_output].
            let tensor = if tensor.shape.len() == 2 { transposed(&tensor) } else { tensor };
            match part {
                ["ln_1"] => one(name("input_layernorm"), tensor),
                ["ln_2"] => one(name("post_attention_layernorm"), tensor),
                ["attn", "c_attn"] => ["q_proj", "k_proj", "v_proj"]
                    .into_iter()
                    .zip(thirds(&tensor))
                    .map(|(part, third)| (name(&format!("self_attn.{part}")), third))
                    .collect(),
                ["attn", "c_proj"] => one(name("self_attn.o_proj"), tensor),
                ["mlp", "c_fc"] => one(name("mlp.up_proj"), tensor),
                ["mlp", "c_proj"] => one(name("mlp.down_proj"), tensor),
                other => panic!("no part {other:?} in a block of GPT-2"),
            }
        }
        _ => panic!("no tensor {name} in any golden"),
    }
}

fn transposed(matrix: &Golden) -> Golden {
    let [rows, columns] = matrix.shape[..] else { panic!("no matrix: {:?}", matrix.shape) };
    let values = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| row * columns + column))
        .map(|place| matrix.values[place])
        .collect();
    Golden { shape: vec![columns, rows], values }
}

/// The three parts of a tensor along its first axis.
fn thirds(tensor: &Golden) -> [Golden; 3] {
    let mut shape = tensor.shape.clone();
    shape[0] /= 3;
    let length = tensor.values.len() / 3;
    [0, 1, 2].map(|third| Golden {
        shape: shape.clone(),
        values: tensor.values[third * length..][..length].to_vec(),
    })
}
