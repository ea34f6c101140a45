//! Keys and values of the tokens seen so far.

use tern_format::config::ModelConfig;
use tern_kernels::attention::{BLOCK, write_key};

/// The key/value cache of one sequence. It grows with the tokens: an empty one costs next to nothing,
/// whatever the context that the config allows.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    seq: usize,
}

/// Keys and values of one block, for each key/value head as [`tern_kernels::attention`] reads them.
#[derive(Clone, Debug)]
pub struct LayerCache {
    head_dim: usize,
    /// `[blocks, head_dim, BLOCK]` each.
    keys: Vec<Vec<f32>>,
    /// `[seq, head_dim]` each.
    values: Vec<Vec<f32>>,
}

impl Cache {
    /// A cache that has seen nothing.
    pub fn new(config: &ModelConfig) -> Self {
        let layer = LayerCache {
            head_dim: config.head_dim,
            keys: vec![Vec::new(); config.num_key_value_heads],
            values: vec![Vec::new(); config.num_key_value_heads],
        };
        Self { layers: vec![layer; config.num_hidden_layers], seq: 0 }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.seq
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.seq == 0
    }

    /// Forgets all but the first `seq` tokens.
    pub fn truncate(&mut self, seq: usize) {
        self.seq = self.seq.min(seq);
        for layer in &mut self.layers {
            let blocks = self.seq.next_multiple_of(BLOCK) * layer.head_dim;
            layer.keys.iter_mut().for_each(|head| head.truncate(blocks));
            layer.values.iter_mut().for_each(|head| head.truncate(self.seq * layer.head_dim));
        }
    }

    /// Whether it was made for a model of this shape.
    pub(crate) fn fits(&self, config: &ModelConfig) -> bool {
        self.layers.len() == config.num_hidden_layers
            && self.layers.iter().all(|layer| {
                layer.head_dim == config.head_dim && layer.keys.len() == config.num_key_value_heads
            })
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Counts tokens that every layer has taken.
    pub(crate) fn advance(&mut self, seq: usize) {
        self.seq += seq;
    }
}

impl LayerCache {
    /// Takes the keys and values of a new token.
    ///
    /// # Shapes
    ///
    /// - `keys_values`: `[2, key_value_heads, head_dim]`
    pub(crate) fn push(&mut self, keys_values: &[f32]) {
        let (keys, values) = keys_values.split_at(self.keys.len() * self.head_dim);
        let token = self.values[0].len() / self.head_dim;
        for (head, key) in self.keys.iter_mut().zip(keys.chunks_exact(self.head_dim)) {
            if token.is_multiple_of(BLOCK) {
                head.resize((token + BLOCK) * self.head_dim, 0.0);
            }
            write_key(head, token, key);
        }
        for (head, value) in self.values.iter_mut().zip(values.chunks_exact(self.head_dim)) {
            head.extend_from_slice(value);
        }
    }

    /// Keys and values of one head.
    pub(crate) fn head(&self, head: usize) -> (&[f32], &[f32]) {
        (&self.keys[head], &self.values[head])
    }
}
