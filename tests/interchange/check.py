#!/usr/bin/env python3
"""Loads what `tern export` writes into the programs that it is meant for, and compares them with Tern on a real text.

    cargo build --release -p tern --no-default-features
    cargo build --release -p tern-infer --example teacher_forcing
    tern train configs/bitlm-256.toml --out runs/bitlm-256 && tern export runs/bitlm-256
    python3 tests/interchange/check.py runs/bitlm-256/model.safetensors valid.txt

Every window of the text is read by both sides, token by token (teacher forcing): at least 99 % of the largest logits
must be at the same token, and the perplexities within 0.5 % of each other. The text's ids must be the same too.

Needs `pip install llama-cpp-python gguf` for GGUF, `pip install torch transformers accelerate` for directories; what is
not installed is skipped with a line that says so. Nothing is fetched from anywhere.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

LEAST_EQUAL = 0.99
MOST_PERPLEXITY = 0.005


def installed(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {', '.join(missing)} not installed in {sys.executable}", flush=True)
    return not missing


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


class Comparison:
    """Argmax and loss of one program beside Tern's."""

    def __init__(self, name, expected):
        self.name, self.expected = name, expected
        self.equal = self.count = 0
        self.loss = self.own = 0.0

    def window(self, window, logits):
        import numpy

        logits = numpy.asarray(logits, dtype=numpy.float64)
        following = window["ids"][1:]
        assert logits.shape[0] == len(following), (logits.shape, len(following))
        most = logits.max(axis=1)
        sums = numpy.log(numpy.exp(logits - most[:, None]).sum(axis=1))
        self.loss += float((sums + most - logits[range(len(following)), following]).sum())
        self.own += sum(window["loss"])
        self.equal += int((logits.argmax(axis=1) == numpy.array(window["argmax"])).sum())
        self.count += len(following)

    def ids(self, found):
        expected = self.expected["text_ids"]
        if list(found) == expected:
            return True
        first = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        print(f"  FAILED: ids differ at {first}: {list(found[first : first + 8])}, Tern's {expected[first : first + 8]}")
        return False

    def verdict(self, ids_are_equal):
        loss, own = self.loss / self.count, self.own / self.count
        equal, ratio = self.equal / self.count, math.exp(loss - own) - 1
        holds = equal >= LEAST_EQUAL and abs(ratio) <= MOST_PERPLEXITY and ids_are_equal
        print(
            f"  {self.name:<14} {'ok    ' if holds else 'FAILED'} {equal:8.3%} of {self.count} argmax equal, loss {loss:.5f}, "
            f"Tern's {own:.5f}, perplexity {ratio:+.3%}, ids {'equal' if ids_are_equal else 'DIFFER'}",
            flush=True,
        )
        return holds


def check_llama_cpp(path, name, expected):
    import llama_cpp

    longest = max(len(window["ids"]) for window in expected["windows"])
    model = llama_cpp.Llama(str(path), n_ctx=longest, n_batch=longest, logits_all=True, verbose=False)
    comparison = Comparison(name, expected)
    for window in expected["windows"]:
        model.reset()
        ids = window["ids"][:-1]
        model.eval(ids)
        comparison.window(window, model.scores[: len(ids)])
    found = model.tokenize(expected["text"].encode(), add_bos=False, special=False)
    return comparison.verdict(comparison.ids(found))


def check_gguf(files):
    """Other code for the same bytes: trits times scale are the floats of the exact file, row by row."""
    import gguf
    import numpy

    def tensors(path):
        return {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}

    def values(tensor):
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    exact = tensors(files["f32"])
    holds = True
    for kind in ("tq2_0", "tq1_0"):
        if kind not in files:
            continue
        found = tensors(files[kind])
        worst = 0.0
        for name, tensor in exact.items():
            w = values(found[name])
            scale = found.get(name.removesuffix("weight") + "scale") if name.endswith("weight") else None
            if scale is not None:
                w = w * values(scale)
            most = float(numpy.abs(values(tensor)).max()) or 1.0
            worst = max(worst, float(numpy.abs(w - values(tensor)).max()) / most)
        # Where a scale is in the blocks it has the 11 bits of f16.
        exactly = any(name.endswith(".scale") for name in found)
        good = worst == 0.0 if exactly else worst < 2.0**-11
        print(f"  gguf {kind:<9} {'ok    ' if good else 'FAILED'} {len(found)} tensors, largest relative difference {worst:.1e}")
        holds &= good
    return holds


def check_transformers(path, name, expected):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    comparison = Comparison(name, expected)
    with torch.no_grad():
        for window in expected["windows"]:
            logits = model(torch.tensor([window["ids"][:-1]])).logits[0]
            comparison.window(window, logits.float().numpy())
        prompt = tokenizer("Once upon a time", return_tensors="pt")
        story = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    print(f"    {tokenizer.decode(story[0])!r}")
    found = tokenizer(expected["text"], add_special_tokens=False, truncation=False)["input_ids"]
    return comparison.verdict(comparison.ids(found))


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a packed model")
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--tern", type=pathlib.Path, default=target / "tern")
    parser.add_argument("--teacher", type=pathlib.Path, default=target / "examples" / "teacher_forcing")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--gguf-types", default="tq2_0,tq1_0,f16,q8_0,f32")
    parser.add_argument("--hf-types", default="")
    arguments = parser.parse_args()

    tern, teacher = arguments.tern.resolve(), arguments.teacher.resolve()
    print(arguments.model, flush=True)
    expected = json.loads(run(teacher, arguments.model, arguments.text, arguments.tokens, arguments.window))
    holds = True
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        if installed("llama_cpp", "gguf"):
            files = {}
            for kind in filter(None, arguments.gguf_types.split(",")):
                files[kind] = place / f"{kind}.gguf"
                run(tern, "-q", "export", arguments.model, "--to", "gguf", "--type", kind, "--out", files[kind])
                holds &= check_llama_cpp(files[kind], f"gguf {kind}", expected)
            if "f32" in files:
                holds &= check_gguf(files)
        if installed("torch", "transformers", "accelerate"):
            for kind in arguments.hf_types.split(","):
                path = place / f"hf-{kind}"
                option = ["--type", kind] if kind else []
                run(tern, "-q", "export", arguments.model, "--to", "hf", *option, "--out", path)
                name = json.loads((path / "config.json").read_text())["model_type"]
                holds &= check_transformers(path, f"hf {name} {kind}", expected)
    sys.exit(0 if holds else 1)


main()
