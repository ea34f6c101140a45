"""Decoding and prefill of llama.cpp, through llama-cpp-python's plain bindings, as one line of JSON.

    python llama_cpp_bench.py MODEL.gguf THREADS PROMPT_TOKENS DECODE_TOKENS REPETITIONS
"""

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as llama


@llama.llama_log_callback
def silent(level, text, data):
    pass


def main():
    path = sys.argv[1]
    threads, prompt, decode, repetitions = map(int, sys.argv[2:])
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    assert model, path
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    settings = llama.llama_context_default_params()
    settings.n_ctx = max(prompt, decode) + 128
    settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = threads
    context = llama.llama_init_from_model(model, settings)
    memory = llama.llama_get_memory(context)

    def run(ids):
        array = (llama.llama_token * len(ids))(*ids)
        batch = llama.llama_batch_get_one(array, len(ids))
        assert llama.llama_decode(context, batch) == 0
        llama.llama_synchronize(context)

    def seconds(steps):
        llama.llama_memory_clear(memory, True)
        start = time.perf_counter()
        for ids in steps:
            run(ids)
        return time.perf_counter() - start

    ids = [(i * 2654435761) % vocab for i in range(max(prompt, decode))]
    seconds([ids[:32]])
    print(
        json.dumps(
            {
                "decode_tokens_per_second": decode
                / statistics.median(
                    seconds([[id] for id in ids[:decode]]) for _ in range(repetitions)
                ),
                "prefill_tokens_per_second": prompt
                / statistics.median(seconds([ids[:prompt]]) for _ in range(repetitions)),
            }
        )
    )


main()
