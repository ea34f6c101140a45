//! Keys and values of the tokens seen so far.

use tern_format::config::ModelConfig;

/// The key/value cache of one sequence. It grows with the tokens: an empty one costs next to nothing,
/// whatever the context that the config allows.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    seq: usize,
}

/// Keys and values of one block: for each key/value head `[seq, head_dim]`, so that attention reads
/// them in a row.
#[derive(Clone, Debug)]
pub struct LayerCache {
    head_dim: usize,
    keys: Vec<Vec<f32>>,
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
            let length = self.seq * layer.head_dim;
            layer.keys.iter_mut().chain(&mut layer.values).for_each(|head| head.truncate(length));
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
        let heads = self.keys.iter_mut().chain(&mut self.values);
        for (head, new) in heads.zip(keys_values.chunks_exact(self.head_dim)) {
            head.extend_from_slice(new);
        }
    }

    /// Keys and values of one head for the first `seq` tokens, each `[seq, head_dim]`.
    pub(crate) fn head(&self, head: usize, seq: usize) -> (&[f32], &[f32]) {
        let length = seq * self.head_dim;
        (&self.keys[head][..length], &self.values[head][..length])
    }
}
