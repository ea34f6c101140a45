"""Writes a GGUF file of random weights, TQ2_0 with a Q6_K embedding, in the shapes of infer/examples/random_model.rs.

    python random_gguf.py 25m|125m|700m|2b4t OUT.gguf          (needs numpy and gguf from PyPI)
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter

SHAPES = {  # layers, hidden, intermediate, heads, key/value heads, vocabulary, rope theta
    "25m": (12, 256, 1024, 4, 4, 49152, 1e4),
    "125m": (12, 768, 2048, 12, 12, 49152, 1e4),
    "700m": (24, 1536, 4096, 16, 16, 32002, 1e4),
    "2b4t": (30, 2560, 6912, 20, 5, 128256, 5e5),
}
SCALE = np.frombuffer(np.float16(0.02).tobytes(), np.uint8)
random = np.random.default_rng(1)


def tq2_0(rows, columns):
    codes = random.integers(0, 3, (4, rows, columns // 256, 64), dtype=np.uint8)
    blocks = np.empty((rows, columns // 256, 66), np.uint8)
    blocks[..., :64] = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    blocks[..., 64:] = SCALE
    return blocks.reshape(rows, -1)


def q6_k(rows, columns):
    blocks = random.integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., 192:208] = random.integers(20, 60, blocks[..., 192:208].shape, dtype=np.uint8)
    blocks[..., 208:] = np.frombuffer(np.float16(0.02 / 600).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def main():
    shape, out = sys.argv[1:]
    layers, hidden, intermediate, heads, kv_heads, vocab, theta = SHAPES[shape]
    kv = hidden // heads * kv_heads
    file = GGUFWriter(out, "llama")
    file.add_vocab_size(vocab)
    file.add_context_length(4096)
    file.add_embedding_length(hidden)
    file.add_block_count(layers)
    file.add_feed_forward_length(intermediate)
    file.add_rope_dimension_count(hidden // heads)
    file.add_rope_freq_base(theta)
    file.add_head_count(heads)
    file.add_head_count_kv(kv_heads)
    file.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [f"\u2581t{i}" for i in range(vocab - len(tokens))]
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores([-float(i) for i in range(vocab)])
    file.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_tensor("token_embd.weight", q6_k(vocab, hidden), raw_dtype=Type.Q6_K)
    file.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(hidden, np.float32))
        for name, rows, columns in (
            ("attn_q", hidden, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", intermediate, hidden),
            ("ffn_up", intermediate, hidden),
            ("ffn_down", hidden, intermediate),
        ):
            name = f"blk.{layer}.{name}.weight"
            file.add_tensor(name, tq2_0(rows, columns), raw_dtype=Type.TQ2_0)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


main()
