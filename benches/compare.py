"""Tern beside llama.cpp (TQ2_0 with a Q6_K embedding) on models of the same shape: one run, one machine, turn by turn.

    pip install numpy gguf llama-cpp-python
    cargo build --release
    cargo build --release -p tern-infer --example random_model
    python benches/compare.py --shapes 25m,125m,2b4t --threads 1,2 --rounds 3
    python benches/compare.py --shapes 125m --threads 2 --busy 0,1,2        # beside threads that do something else

Prints a line of JSON for each pair and a table at the end. The random models take 1.2 GB for the largest shape, in --models.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def output(*command):
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", default="25m,125m,2b4t")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--busy", default="0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement; the median counts")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--target", type=pathlib.Path, default=HERE.parent / "target/release")
    parser.add_argument("--models", type=pathlib.Path, default=HERE / "target/models")
    arguments = parser.parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    sizes = [arguments.prompt_tokens, arguments.decode_tokens, arguments.repetitions]
    rows = []
    for shape in arguments.shapes.split(","):
        ours, theirs = (arguments.models / f"{shape}{ending}" for ending in (".safetensors", ".gguf"))
        if not ours.exists():
            subprocess.run([arguments.target / "examples/random_model", shape, ours], check=True)
        if not theirs.exists():
            subprocess.run([sys.executable, HERE / "random_gguf.py", shape, theirs], check=True)
        for threads in arguments.threads.split(","):
            for busy in map(int, arguments.busy.split(",")):
                others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
                try:
                    pairs = [pair(arguments, ours, theirs, threads, sizes) for _ in range(arguments.rounds)]
                finally:
                    for other in others:
                        other.kill()
                rows.append((shape, threads, busy, pairs))
                print(json.dumps({"shape": shape, "threads": threads, "busy": busy, "pairs": pairs}), flush=True)
    print("\n| shape | threads | busy beside | | Tern | TQ2_0 | ratio | of memory's bandwidth |")
    print("|---|---|---|---|---|---|---|---|")
    for shape, threads, busy, pairs in rows:
        for what in ("decode", "prefill"):
            key = f"{what}_tokens_per_second"
            ours, theirs = ([pair[side][key] for pair in pairs] for side in (0, 1))
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            share = statistics.median(pair[0]["memory_bandwidth_fraction"] for pair in pairs)
            share = f"{share:.0%}" if what == "decode" else ""
            ours, theirs = statistics.median(ours), statistics.median(theirs)
            print(f"| {shape} | {threads} | {busy} | {what} | {ours:,.1f} | {theirs:,.1f} | {ratio:.2f} | {share} |")


def pair(arguments, ours, theirs, threads, sizes):
    prompt, decode, repetitions = map(str, sizes)
    bench = output(
        arguments.target / "tern", "--json", "bench", ours, "--threads", threads,
        "--prompt-tokens", prompt, "--decode-tokens", decode, "--repetitions", repetitions,
    )
    keep = ("decode_tokens_per_second", "prefill_tokens_per_second", "memory_bytes_per_second", "memory_bandwidth_fraction", "kernel")
    return [
        {key: bench[key] for key in keep},
        output(sys.executable, HERE / "llama_cpp_bench.py", theirs, threads, prompt, decode, repetitions),
    ]


main()
