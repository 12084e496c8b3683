#!/usr/bin/env python3
"""The authors' loop in plain transformers and PEFT, measured: the peer of our benchmarks.

    tests/bench/peers/transformers_loop.py prefill|decode|decode8|update|all [options]

Prints one JSON line for each measurement: seconds of every repeat (after one warm-up), the best of
them as tokens per second, and the peak resident set of the process so far. Each prompt is made of
fixed random tokens: the work does not depend on the text.

  prefill   1024 tokens into an empty cache, logits of the last one
  decode    64 tokens after a prompt of 64, greedy, one sequence; decode8: eight sequences at once
  update    learn 1024 tokens: keys and values of `--context` tokens before them are computed
            beforehand, then one epoch (forward, backward, clipping, AdamW) on the chunk with an
            adapter on all linear layers
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
            r=arguments.rank, lora_alpha=arguments.rank, bias="none", target_modules=LINEARS
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
    prompt = random_tokens(model, batch, PROMPT_TOKENS)
    seconds = []
    with torch.inference_mode():
        for _ in range(arguments.repeat + 1):
            out = model(prompt, use_cache=True, logits_to_keep=1)
            start = time.perf_counter()
            for _ in range(DECODE_TOKENS):
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
            seconds.append(time.perf_counter() - start)
    return seconds[1:], batch * DECODE_TOKENS


def update(arguments):
    model = load(arguments, adapter=True).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, eps=1e-7, weight_decay=0.0)
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
        loss = torch.nn.functional.cross_entropy(logits[0].float(), tokens[0, prefix + 1 :])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return measure(arguments.repeat, run), CHUNK_TOKENS


MEASUREMENTS = {
    "prefill": prefill,
    "decode": decode,
    "decode8": lambda arguments: decode(arguments, batch=8),
    "update": update,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = Path(__file__).resolve().parents[3]
    parser.add_argument("what", choices=[*MEASUREMENTS, "all"])
    parser.add_argument("--model", type=Path, default=root / "models/smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapter", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024, help="tokens before the learned chunk")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    for what in MEASUREMENTS if arguments.what == "all" else [arguments.what]:
        seconds, tokens = MEASUREMENTS[what](arguments)
        line = {
            "peer": "transformers",
            "what": what,
            "dtype": arguments.dtype,
            "threads": arguments.threads,
            "adapter": what == "update" or arguments.adapter,
            "rank": arguments.rank,
            "tokens": tokens,
            "seconds": [round(second, 4) for second in seconds],
            "tokens_per_second": round(tokens / min(seconds), 2),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if what == "update":
            line["context"] = arguments.context
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
