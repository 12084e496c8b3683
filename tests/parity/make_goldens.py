#!/usr/bin/env python3
"""Writes the reference values of tests/parity with transformers, PEFT and torch.

    tests/parity/make_goldens.py [--out tests/parity/data] [--model models/smollm2-135m-instruct]
                                 [--book BOOK.txt]

Everything is fp32 on the CPU with fixed seeds, eager attention, dropout 0. Versions:
requirements.txt.

data/<case>/            a tiny random Hugging Face model: config.json, model.safetensors (or shards)
  golden.safetensors    input_ids [tokens] int64, logits [tokens, vocab] fp32, of the weights as
                        stored, converted to fp32
  golden.json           {"case", "what"}: what is special about the case

In the cases of ADAPTER_CASES also, for LoRA of rank 4 and alpha 8 (scale 2) on all seven linears.
A module is `layers.<i>.<linear>`, linear one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
down_proj; its matrices are `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank].

  adapter.safetensors   a random adapter (A and B nonzero):
      <module>.lora_A, <module>.lora_B
      tokens [T]        first `context_tokens` (adapter.json) of context, then the chunk
      logits [T, vocab] with the adapter on
      weights [chunk]   a loss weight for each token of the chunk
      <scope>.<module>.lora_A.grad, .lora_B.grad            mean NLL over the chunk
      <scope>.weighted.<module>.lora_A.grad, .lora_B.grad   sum(weight x NLL) / sum(weight)
  adapter.json          rank, alpha, context_tokens, and loss and gradient norm (before clipping) of
                        each gradient: <scope>, <scope>.weighted

  Scopes: `window` runs context and chunk with gradients; only chunk tokens are labels. `chunk`
  computes the keys and values of tokens[0, start-1) under the adapter without gradients, then runs
  tokens[start-1, end-1) on them; the labels are tokens[start, end).

  optimizer.safetensors <run>.<module>.lora_A, .lora_B after ten AdamW steps on the unweighted loss
                        above, from the adapter above
  optimizer.json        options, and for each run the losses and gradient norms before each step
  Runs: <scope>.wd0 and <scope>.wd0.01 for `window`, for `chunk` (the prefix's keys and values
  computed once, before the first step) and for `chunk_fresh` (computed again under the adapter
  before each step).

  trajectory.safetensors  a stream learned chunk by chunk: tokens [128]; initial.<module>.lora_A
                          (B is zero); <scope>.<module>.lora_A, .lora_B at the end
  trajectory.json         options, and for each scope one entry a chunk: learning_rate, labels, nll
                          (summed, of the chunk's tokens, scored before the update in one forward
                          over context and chunk), base_nll (adapter off), losses and
                          gradient_norms before each epoch's step. In scope `chunk` the prefix is
                          computed again each epoch. The first token of the stream is no label; the
                          optimizer's state lives through all chunks.

data/smollm2/           excerpt.txt, and golden.json: token_ids, and the summed NLL of all but the
                        first token in fp32 and bf16 (logits in bf16, softmax in fp32) of the
                        default model
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

VOCAB = 96
RANK, ALPHA = 4, 8
ADAM = {"betas": (0.9, 0.999), "eps": 1e-7}
CLIP = 1.0
ADAPTER_CASES = ("llama_tied", "qwen3")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXCERPT_START, EXCERPT_TOKENS = 20000, 1024

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
QWEN2 = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 128,
    "use_sliding_window": False,
    "max_window_layers": 2,
}


def scaled(rope, **changes):
    return LLAMA | {"rope_scaling": rope} | changes


def yarn(**more):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64} | more
    return scaled(rope, head_dim=16)


# Name to (config.json, what is special). Configs have the form that published models have; the key
# "form" asks for another: transformers 5's own, or shards.
CASES = {
    "llama": (LLAMA | {"eos_token_id": [2, 3]}, "untied embeddings, a list of EOS tokens"),
    "llama_tied": (
        LLAMA | {"tie_word_embeddings": True, "num_hidden_layers": 3},
        "tied embeddings, three layers",
    ),
    "llama_biases": (
        LLAMA | {"attention_bias": True, "mlp_bias": True},
        "a bias on every linear layer",
    ),
    "mistral": (
        LLAMA
        | {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": None,
        },
        "Mistral",
    ),
    "qwen2": (QWEN2, "biases on q, k and v"),
    "qwen3": (
        QWEN2
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "head_dim": 16,
            "attention_bias": False,
        },
        "norms on q and k, head_dim is not hidden / heads",
    ),
    "rope_linear": (scaled({"type": "linear", "factor": 2.5}), "RoPE linear, older key 'type'"),
    "rope_dynamic": (
        scaled({"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=64),
        "RoPE dynamic NTK, sequence longer than max_position_embeddings",
    ),
    "rope_llama3": (
        scaled(
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
        "RoPE llama3, frequencies in all three bands",
    ),
    "rope_yarn": (yarn(), "RoPE YaRN, attention factor from the scaling factor"),
    "rope_yarn_attention": (
        yarn(attention_factor=1.25, beta_fast=16.0, beta_slow=2.0, truncate=False),
        "RoPE YaRN, attention factor and betas given, range not truncated",
    ),
    "rope_yarn_mscale": (
        yarn(mscale=0.8, mscale_all_dim=0.5),
        "RoPE YaRN, attention factor from mscale and mscale_all_dim",
    ),
    "config_form_5": (
        scaled({"rope_type": "linear", "factor": 2.5}) | {"form": "transformers5"},
        "config.json as transformers 5 writes it: rope_parameters, dtype",
    ),
    "sharded": (LLAMA | {"form": "sharded"}, "several files and an index"),
    "file_bf16": (LLAMA | {"torch_dtype": "bfloat16"}, "weights stored in bf16"),
    "file_fp16": (LLAMA | {"torch_dtype": "float16"}, "weights stored in fp16"),
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def randomize(model, generator):
    """Weights large enough for every part of the model to show in its logits."""
    for name, weight in sorted(model.named_parameters()):
        values = torch.randn(weight.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.2 * values
        elif "embed_tokens" in name:
            values = 0.5 * values
        else:
            values = values / weight.shape[1] ** 0.5
        weight.data.copy_(values)


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def write_model(folder, config, generator):
    config = copy.deepcopy(config)
    form = config.pop("form", "")
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).float()
    randomize(model, generator)
    model.to(getattr(torch, config["torch_dtype"]))
    model.save_pretrained(folder, max_shard_size="64KB" if form == "sharded" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if form != "transformers5":
        write_json(folder / "config.json", config)


def write_logits(folder, name, what, generator):
    model = load(folder)
    tokens = 96 if name.startswith("rope") else 48
    ids = torch.randint(0, VOCAB, (tokens,), generator=generator)
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "golden.safetensors")
    write_json(folder / "golden.json", {"case": name, "what": what})


def with_lora(model):
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=LINEARS
    )
    return get_peft_model(copy.deepcopy(model), config)


def adapter(model):
    """Our name to parameter, in order."""
    found = {}
    for name, weight in model.named_parameters():
        if "lora_" in name:
            parts = name.split(".")
            layer, linear = parts[parts.index("layers") + 1], parts[-4]
            found[f"layers.{layer}.{linear}.{parts[-3]}"] = weight
    return found


def randomize_adapter(model, generator, zero_b=False):
    for name, weight in adapter(model).items():
        values = torch.randn(weight.shape, generator=generator)
        if name.endswith("lora_A"):
            values = values / weight.shape[1] ** 0.5
        else:
            values = values * (0.0 if zero_b else 0.2)
        weight.data.copy_(values)


def snapshot(model, prefix=""):
    return {prefix + name: weight.detach().clone() for name, weight in adapter(model).items()}


def nll(logits, labels):
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def prefix_cache(model, tokens, start):
    if start <= 1:
        return None
    with torch.no_grad():
        return model(tokens[None, : start - 1], use_cache=True).past_key_values


def token_losses(model, tokens, start, scope, cache=None):
    """NLL of tokens[start, end), without the first where the stream begins with the chunk."""
    first_label = max(start, 1)
    if scope == "window":
        logits = model(tokens[None]).logits[0]
        return nll(logits[first_label - 1 : -1], tokens[first_label:])
    if cache is None:
        cache = prefix_cache(model, tokens, start)
    # The model appends to the cache it is given.
    logits = model(
        tokens[None, first_label - 1 : -1], past_key_values=copy.deepcopy(cache), use_cache=True
    ).logits[0]
    return nll(logits, tokens[first_label:])


def gradient_norm(model):
    gradients = [weight.grad for weight in adapter(model).values()]
    return torch.stack([g.norm() for g in gradients]).norm().item()


def write_adapter(folder, base, generator):
    context, chunk = 40, 24
    model = with_lora(base)
    randomize_adapter(model, generator)
    tokens = torch.randint(0, VOCAB, (context + chunk,), generator=generator)
    weights = torch.rand(chunk, generator=generator)
    weights[::5] = 0.0
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    out = snapshot(model) | {"tokens": tokens, "weights": weights, "logits": logits.contiguous()}
    about = {"rank": RANK, "alpha": ALPHA, "context_tokens": context}
    for scope in ("window", "chunk"):
        for weighted in (False, True):
            model.zero_grad()
            losses = token_losses(model, tokens, context, scope)
            loss = (losses * weights).sum() / weights.sum() if weighted else losses.mean()
            loss.backward()
            key = scope + (".weighted" if weighted else "")
            about[key] = {"loss": loss.item(), "gradient_norm": gradient_norm(model)}
            for name, weight in adapter(model).items():
                out[f"{key}.{name}.grad"] = weight.grad.clone()
    save_file(out, folder / "adapter.safetensors")
    write_json(folder / "adapter.json", about)
    return model, tokens, context


def step(model, optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(list(adapter(model).values()), CLIP).item()
    optimizer.step()
    return norm


def write_optimizer(folder, start_model, tokens, context):
    learning_rate, steps = 1e-2, 10
    out = {}
    about = {"learning_rate": learning_rate, "steps": steps, "grad_clip": CLIP, **ADAM, "runs": {}}
    for scope in ("window", "chunk", "chunk_fresh"):
        for decay in (0, 0.01):
            model = copy.deepcopy(start_model)
            optimizer = torch.optim.AdamW(
                adapter(model).values(), lr=learning_rate, weight_decay=decay, **ADAM
            )
            cache = prefix_cache(model, tokens, context) if scope == "chunk" else None
            losses, norms = [], []
            for _ in range(steps):
                kind = "window" if scope == "window" else "chunk"
                loss = token_losses(model, tokens, context, kind, cache).mean()
                losses.append(loss.item())
                norms.append(step(model, optimizer, loss))
            run = f"{scope}.wd{decay}"
            about["runs"][run] = {
                "weight_decay": decay,
                "losses": losses,
                "gradient_norms": norms,
            }
            out |= snapshot(model, f"{run}.")
    save_file(out, folder / "optimizer.safetensors")
    write_json(folder / "optimizer.json", about)


def learn_stream(model, tokens, options, scope):
    """The authors' loop: score each chunk, then learn it."""
    optimizer = torch.optim.AdamW(adapter(model).values(), lr=0.0, weight_decay=0.0, **ADAM)
    chunk, chunks = options["chunk_tokens"], []
    for index, start in enumerate(range(0, len(tokens), chunk)):
        begin = max(0, start - options["context_tokens"])
        window = tokens[begin : start + chunk]
        warm = min(1.0, index / options["warmup_chunks"])
        for group in optimizer.param_groups:
            group["lr"] = options["learning_rate"] * warm
        with torch.no_grad():
            before = token_losses(model, window, start - begin, "window")
            with model.disable_adapter():
                base = token_losses(model, window, start - begin, "window")
        losses, norms = [], []
        for _ in range(options["epochs"]):
            loss = token_losses(model, window, start - begin, scope).mean()
            losses.append(loss.item())
            norms.append(step(model, optimizer, loss))
        chunks.append(
            {
                "learning_rate": optimizer.param_groups[0]["lr"],
                "labels": len(before),
                "nll": before.sum().item(),
                "base_nll": base.sum().item(),
                "losses": losses,
                "gradient_norms": norms,
            }
        )
    return chunks


def write_trajectory(folder, base, generator):
    options = {
        "rank": RANK,
        "alpha": ALPHA,
        "chunk_tokens": 32,
        "context_tokens": 96,
        "epochs": 2,
        "learning_rate": 1e-2,
        "warmup_chunks": 2,
        "grad_clip": CLIP,
        **ADAM,
    }
    # A stream that repeats itself, with noise: there is something to learn.
    phrase = torch.randint(0, VOCAB, (24,), generator=generator)
    tokens = phrase.repeat(6)[:128].clone()
    noise = torch.rand(128, generator=generator) < 0.15
    tokens[noise] = torch.randint(0, VOCAB, (int(noise.sum()),), generator=generator)

    start = with_lora(base)
    randomize_adapter(start, generator, zero_b=True)
    out = {"tokens": tokens}
    out |= {k: v for k, v in snapshot(start, "initial.").items() if k.endswith("lora_A")}
    about = options | {"scopes": {}}
    for scope in ("window", "chunk"):
        model = copy.deepcopy(start)
        about["scopes"][scope] = learn_stream(model, tokens, options, scope)
        out |= snapshot(model, f"{scope}.")
    save_file(out, folder / "trajectory.safetensors")
    write_json(folder / "trajectory.json", about)


def write_case(out, name):
    config, what = CASES[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    # One stream of random numbers a case, so that adding a case changes no other.
    generator = torch.Generator().manual_seed(sum(name.encode()) * 1000 + len(name))
    write_model(folder, config, generator)
    write_logits(folder, name, what, generator)
    if name in ADAPTER_CASES:
        base = load(folder)
        write_optimizer(folder, *write_adapter(folder, base, generator))
        write_trajectory(folder, base, generator)


def write_smollm2(folder, model_dir, book):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if book is not None:
        text = book.read_text(encoding="utf-8")[EXCERPT_START:][: EXCERPT_TOKENS * 8]
        ids = tokenizer(text)["input_ids"][:EXCERPT_TOKENS]
        (folder / "excerpt.txt").write_text(tokenizer.decode(ids), encoding="utf-8")
    ids = tokenizer((folder / "excerpt.txt").read_text(encoding="utf-8"))["input_ids"]
    tokens = torch.tensor(ids)
    about = {"token_ids": ids, "labels": len(ids) - 1}
    for dtype in ("float32", "bfloat16"):
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
        with torch.no_grad():
            losses = nll(model(tokens[None]).logits[0, :-1], tokens[1:])
        about[f"nll_{dtype}"] = losses.double().sum().item()
        print(f"smollm2 {dtype}: perplexity {losses.mean().exp().item():.4f}")
    # Token ids on one line.
    (folder / "golden.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests/parity/data")
    parser.add_argument("--model", type=Path, default=root / "models/smollm2-135m-instruct")
    parser.add_argument("--book", type=Path, help="take the excerpt anew from this text")
    parser.add_argument("--only", nargs="*", help="names of cases, or smollm2")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)

    wanted = arguments.only or [*CASES, "smollm2"]
    for name in wanted:
        if name == "smollm2":
            write_smollm2(arguments.out / name, arguments.model, arguments.book)
        else:
            write_case(arguments.out, name)
            print(name)


if __name__ == "__main__":
    main()
