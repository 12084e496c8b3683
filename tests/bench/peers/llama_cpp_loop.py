#!/usr/bin/env python3
"""llama.cpp on the same work, without adapters: the serving peer of our benchmarks.

    tests/bench/peers/llama_cpp_loop.py prefill|decode|decode8|check --model FILE.gguf [options]

Its C API through llama-cpp-python's bindings: tokens in, logits out; the tokens are fixed and random, and
nothing is sampled. Every combination of a measurement's SETTINGS runs; the fastest counts and is named.
Prints one JSON line as transformers_loop.py does.

  prefill   1024 tokens into an empty cache, logits of the last one
  decode    64 tokens after a prompt of 64, one sequence; decode8: eight sequences, one batch a step
  check     NLL of the stored excerpt beside what transformers gave: whether it computes the same model
"""

import argparse
import itertools
import json
import resource
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np

CHUNK_TOKENS = 1024
PROMPT_TOKENS = DECODE_TOKENS = 64
GOLDEN = Path(__file__).resolve().parents[2] / "parity/data/smollm2/golden.json"
# Of the NLL; both are bf16, but for rounding at other places.
TOLERANCE = 0.005

GGML_TYPE_BF16 = 30  # of ggml.h; the bindings lack it

# Groups of alternatives; each sets fields of llama_context_params.
FLASH = {
    "flash attention": {"flash_attn_type": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED},
    "plain attention": {"flash_attn_type": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED},
}
CACHE_TYPE = {
    "fp16 cache": {"type_k": llama_cpp.GGML_TYPE_F16, "type_v": llama_cpp.GGML_TYPE_F16},
    "bf16 cache": {"type_k": GGML_TYPE_BF16, "type_v": GGML_TYPE_BF16},
}
# Sequences share one cache or have their own; where that was measured, their own was faster.
OWN_CACHE = {"a cache a sequence": {"kv_unified": False}}
SETTINGS = {
    "prefill": [FLASH, CACHE_TYPE],
    "decode": [FLASH, CACHE_TYPE],
    "decode8": [FLASH, CACHE_TYPE, OWN_CACHE],
    "check": [FLASH],
}


@llama_cpp.llama_log_callback
def log_nothing(level, text, user_data):
    pass


class Context:
    """A context of a model, and one batch."""

    def __init__(self, model, threads, sequences, fields):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = CHUNK_TOKENS * sequences
        params.n_batch = CHUNK_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        for name, value in fields.items():
            setattr(params, name, value)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.batch = llama_cpp.llama_batch_init(CHUNK_TOKENS, 0, 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def run(self, tokens):
        """tokens: [(token, position, sequence, logits wanted)]."""
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        self.batch.n_tokens = len(tokens)
        if status := llama_cpp.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode gave {status}")
        llama_cpp.llama_synchronize(self.context)

    def logits(self, index):
        pointer = llama_cpp.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))


def random_tokens(context, count):
    return np.random.default_rng(7).integers(0, context.vocabulary, count).tolist()


def prefill_seconds(context):
    tokens = random_tokens(context, CHUNK_TOKENS)
    work = [(token, i, 0, i == CHUNK_TOKENS - 1) for i, token in enumerate(tokens)]
    context.clear()
    start = time.perf_counter()
    context.run(work)
    return time.perf_counter() - start


def decode_seconds(context, sequences):
    tokens = random_tokens(context, PROMPT_TOKENS + DECODE_TOKENS)
    context.clear()
    for sequence in range(sequences):
        context.run([(tokens[i], i, sequence, i == PROMPT_TOKENS - 1) for i in range(PROMPT_TOKENS)])
    start = time.perf_counter()
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + DECODE_TOKENS):
        context.run([(tokens[position], position, sequence, True) for sequence in range(sequences)])
    return time.perf_counter() - start


def excerpt_nll(context):
    tokens = json.loads(GOLDEN.read_text())["token_ids"]
    context.clear()
    context.run([(token, i, 0, True) for i, token in enumerate(tokens)])
    nll = 0.0
    for i, label in enumerate(tokens[1:]):
        logits = context.logits(i).astype(np.float64)
        nll += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    return nll


WORK = {
    "prefill": (prefill_seconds, 1, CHUNK_TOKENS),
    "decode": (lambda context: decode_seconds(context, 1), 1, DECODE_TOKENS),
    "decode8": (lambda context: decode_seconds(context, 8), 8, 8 * DECODE_TOKENS),
}


def settings(what):
    """(what it is called, {field: value}) of every combination."""
    for chosen in itertools.product(*(group.items() for group in SETTINGS[what])):
        yield ", ".join(name for name, _ in chosen), {k: v for _, one in chosen for k, v in one.items()}


def check(model, threads):
    expected = json.loads(GOLDEN.read_text())["nll_bfloat16"]
    for name, fields in settings("check"):
        context = Context(model, threads, 1, fields)
        nll = excerpt_nll(context)
        context.close()
        line = {"what": "check", "settings": name, "nll": round(nll, 2), "expected": round(expected, 2)}
        print(json.dumps(line))
        if abs(nll / expected - 1) > TOLERANCE:
            sys.exit(f"llama_cpp_loop.py: NLL {nll:.1f}, transformers gives {expected:.1f}: another model")


def measure(model, what, threads, repeat):
    work, sequences, tokens = WORK[what]
    seconds = {}
    for name, fields in settings(what):
        context = Context(model, threads, sequences, fields)
        work(context)
        seconds[name] = [work(context) for _ in range(repeat)]
        context.close()
    best = min(seconds, key=lambda name: min(seconds[name]))
    return {
        "peer": "llama.cpp",
        "what": what,
        "threads": threads,
        "settings": best,
        "tokens": tokens,
        "seconds": {name: round(min(each), 4) for name, each in seconds.items()},
        "tokens_per_second": round(tokens / min(seconds[best]), 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=[*WORK, "check"])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    llama_cpp.llama_log_set(log_nothing, None)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(arguments.model).encode(), params)
    if not model:
        sys.exit(f"llama_cpp_loop.py: {arguments.model} cannot be loaded")
    if arguments.what == "check":
        check(model, arguments.threads)
    else:
        print(json.dumps(measure(model, arguments.what, arguments.threads, arguments.repeat)))


if __name__ == "__main__":
    main()
