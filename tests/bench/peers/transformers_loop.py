#!/usr/bin/env python3
"""The authors' loop in plain transformers and PEFT, measured: the peer of our benchmarks.

    tests/bench/peers/transformers_loop.py prefill|decode|decode8|update|authors [options]

Prints one JSON line: seconds of every repeat (after one warm-up), the best of them as tokens per second, and
the peak resident set of the process. Tokens are fixed and random: the work does not depend on the text.

  prefill   1024 tokens into an empty cache, logits of the last one
  decode    64 tokens after a prompt of 64, one sequence, nothing sampled; decode8: eight at once
  update    learn 1024 tokens: keys and values of `--context` tokens before them are computed
            beforehand, then one epoch (forward, backward, clipping, AdamW) on the chunk with an
            adapter on all linear layers
  authors   the authors' loop for one chunk: `--context` tokens are computed under the adapter, 1024
            tokens are generated after them, then two epochs on context and chunk, all with
            gradients (dropout 0.05); once, without a warm-up, since it takes a minute
"""

import argparse
import copy
import json
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging

CHUNK_TOKENS = 1024
EPOCHS, DROPOUT = 2, 0.05
PROMPT_TOKENS = DECODE_TOKENS = 64
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def random_tokens(model, *shape):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, model.config.vocab_size, shape, generator=generator)


def load(arguments, adapter):
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=DTYPES[arguments.dtype])
    if adapter:
        config = LoraConfig(
            r=arguments.rank,
            lora_alpha=arguments.rank,
            lora_dropout=DROPOUT if arguments.what == "authors" else 0.0,
            bias="none",
            target_modules=LINEARS,
        )
        # PEFT keeps the adapter's weights in fp32, as masters for the optimizer.
        model = get_peft_model(model, config)
    return model.eval()


def measure(repeat, work):
    """Seconds of each run of `work`, without the first."""
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def prefill(arguments):
    model = load(arguments, arguments.adapter)
    tokens = random_tokens(model, 1, CHUNK_TOKENS)

    def run():
        with torch.inference_mode():
            model(tokens, use_cache=True, logits_to_keep=1)

    return measure(arguments.repeat, run), CHUNK_TOKENS


def decode(arguments, batch=1):
    model = load(arguments, arguments.adapter)
    tokens = random_tokens(model, batch, PROMPT_TOKENS + DECODE_TOKENS)
    seconds = []
    with torch.inference_mode():
        for _ in range(arguments.repeat + 1):
            cache = model(tokens[:, :PROMPT_TOKENS], use_cache=True, logits_to_keep=1).past_key_values
            start = time.perf_counter()
            for position in range(PROMPT_TOKENS, PROMPT_TOKENS + DECODE_TOKENS):
                token = tokens[:, position : position + 1]
                cache = model(token, past_key_values=cache, use_cache=True).past_key_values
            seconds.append(time.perf_counter() - start)
    return seconds[1:], batch * DECODE_TOKENS


class Learner:
    """The adapter's optimizer, and one step of it."""

    def __init__(self, model, learning_rate):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=learning_rate, eps=1e-7, weight_decay=0.0)

    def step(self, logits, labels):
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()


def update(arguments):
    model = load(arguments, adapter=True).train()
    learner = Learner(model, learning_rate=2e-3)
    tokens = random_tokens(model, 1, arguments.context + CHUNK_TOKENS)
    prefix = max(arguments.context - 1, 0)
    cache = None
    if prefix > 0:
        with torch.no_grad():
            cache = model(tokens[:, :prefix], use_cache=True, logits_to_keep=1).past_key_values

    def run():
        # The model appends to the cache it is given.
        past = copy.deepcopy(cache)
        inputs = tokens[:, prefix:-1]
        logits = model(inputs, past_key_values=past, use_cache=past is not None).logits
        learner.step(logits[0], tokens[0, prefix + 1 :])

    return measure(arguments.repeat, run), CHUNK_TOKENS


def generate(model, tokens, count):
    """`tokens` [1, n] and `count` more after them, the most probable ones."""
    with torch.inference_mode():
        out = model(tokens, use_cache=True, logits_to_keep=1)
        for _ in range(count):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, token], 1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return tokens


def authors(arguments):
    model = load(arguments, adapter=True)
    learner = Learner(model, learning_rate=5e-5)
    context = random_tokens(model, 1, arguments.context)
    start = time.perf_counter()
    tokens = generate(model.eval(), context, CHUNK_TOKENS).clone()
    model.train()
    for _ in range(EPOCHS):
        # Only the chunk's logits are computed, which the loss needs.
        logits = model(tokens[:, :-1], use_cache=False, logits_to_keep=CHUNK_TOKENS).logits
        learner.step(logits[0], tokens[0, -CHUNK_TOKENS:])
    return [time.perf_counter() - start], CHUNK_TOKENS


MEASUREMENTS = {
    "prefill": prefill,
    "decode": decode,
    "decode8": lambda arguments: decode(arguments, batch=8),
    "update": update,
    "authors": authors,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = Path(__file__).resolve().parents[3]
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--model", type=Path, default=root / "models/smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapter", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024, help="tokens before the chunk")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    seconds, tokens = MEASUREMENTS[arguments.what](arguments)
    line = {
        "peer": "transformers",
        "what": arguments.what,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "adapter": arguments.what in ("update", "authors") or arguments.adapter,
        "rank": arguments.rank,
        "context": arguments.context,
        "tokens": tokens,
        "seconds": [round(second, 4) for second in seconds],
        "tokens_per_second": round(tokens / min(seconds), 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
