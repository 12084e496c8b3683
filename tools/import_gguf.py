#!/usr/bin/env python3
"""Turns a Llama-family GGUF file into a Hugging Face directory.

    tools/import_gguf.py FILE.gguf OUT_DIR

OUT_DIR gets model.safetensors (bf16), config.json, generation_config.json, tokenizer.json and
tokenizer_config.json (with the chat template). Quantised weights are dequantised in fp32 and
rounded to the nearest bf16, ties to even. The same file always gives the same bytes. OUT_DIR
appears whole or not at all; an OUT_DIR that exists is replaced.

What GGUF cannot say is taken from llama.cpp's conventions: q and k rows are interleaved for its
rotary embedding (undone here), a missing `output.weight` means tied embeddings, the name of the
pre-tokenizer stands for its rules, and `rope_freqs.weight` for Llama 3's RoPE scaling.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# GGUF's name of each tensor of a layer, and its name in Hugging Face's Llama.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GLOBAL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class ImportFailure(Exception):
    """The file cannot be imported; the message says why."""


class Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader):
        self._fields = reader.fields
        architecture = self.required("general.architecture")
        if architecture != "llama":
            raise ImportFailure(f"architecture is '{architecture}', only 'llama' can be imported")

    def get(self, key, default=None):
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def required(self, key):
        value = self.get(key)
        if value is None:
            raise ImportFailure(f"the file has no '{key}'")
        return value


def shortest_float(value):
    """A float32 as the shortest decimal that reads back as it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def to_bf16(values):
    """float32 to the bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    if np.isnan(values).any():
        raise ImportFailure("a weight is not a number")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def undo_interleave(weight, heads):
    """llama.cpp stores the rows of a q or k head as pairs (i, i + half); we need two halves."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def huggingface_name(name):
    if name in GLOBAL_TENSORS:
        return GLOBAL_TENSORS[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if not match or match[2] not in LAYER_TENSORS:
        raise ImportFailure(f"tensor '{name}' has no place in a Llama model")
    return f"model.layers.{match[1]}.{LAYER_TENSORS[match[2]]}.{match[3]}"


def convert_weights(reader, heads, kv_heads):
    """Name to bf16 bits of every tensor but rope_freqs."""
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise ImportFailure(
                f"tensor '{tensor.name}' has type {tensor.tensor_type.name}, "
                "which cannot be dequantised"
            ) from error
        # GGUF counts dimensions from the innermost.
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        if ".attn_q." in tensor.name:
            values = undo_interleave(values, heads)
        elif ".attn_k." in tensor.name:
            values = undo_interleave(values, kv_heads)
        weights[huggingface_name(tensor.name)] = to_bf16(values)
    return weights


def llama3_frequency_divisors(theta, head_dim, factor):
    """What `rope_freqs.weight` holds for Llama 3.1 and later (low 1, high 4, original 8192)."""
    low, high, original = 1.0, 4.0, 8192
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def rope_scaling(reader, metadata, theta, head_dim):
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            divisors = dequantize(tensor.data, tensor.tensor_type).reshape(-1)
            factor = float(np.round(divisors.max(), 3))
            if not np.allclose(
                divisors, llama3_frequency_divisors(theta, head_dim, factor), rtol=1e-3
            ):
                raise ImportFailure("rope_freqs.weight does not hold Llama 3's RoPE scaling")
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {
        "rope_type": kind,
        "factor": shortest_float(metadata.required("llama.rope.scaling.factor")),
    }
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.required(
            "llama.rope.scaling.original_context_length"
        )
    elif kind != "linear":
        raise ImportFailure(f"RoPE scaling '{kind}' is not known")
    return scaling


def make_config(reader, metadata):
    names = {tensor.name for tensor in reader.tensors}
    hidden = metadata.required("llama.embedding_length")
    heads = metadata.required("llama.attention.head_count")
    kv_heads = metadata.get("llama.attention.head_count_kv", heads)
    for count in (heads, kv_heads):
        if isinstance(count, list):
            raise ImportFailure("the number of heads differs between layers")
    head_dim = metadata.get("llama.attention.key_length", hidden // heads)
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ImportFailure("only a part of each head is rotated, which Llama does not do")
    theta = shortest_float(metadata.get("llama.rope.freq_base", 10000.0))
    eos = [
        metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")
    ]
    eos = list(dict.fromkeys(token for token in eos if token is not None))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata.required("llama.feed_forward_length"),
        "num_hidden_layers": metadata.required("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": metadata.required("llama.context_length"),
        "rms_norm_eps": shortest_float(
            metadata.required("llama.attention.layer_norm_rms_epsilon")
        ),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(reader, metadata, theta, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
        "vocab_size": len(metadata.required("tokenizer.ggml.tokens")),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos[0] if len(eos) == 1 else (eos or None),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "bfloat16",
    }


def pre_tokenizer(name):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return byte_level
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        )
    if name in ("llama-bpe", "llama3", "llama-v3"):
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise ImportFailure(f"pre-tokenizer '{name}' is not known")


def make_tokenizer(metadata):
    kind = metadata.required("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ImportFailure(f"tokenizer is '{kind}', only 'gpt2' (byte-level BPE) can be imported")
    tokens = metadata.required("tokenizer.ggml.tokens")
    kinds = metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.required("tokenizer.ggml.merges")]
    name = metadata.get("tokenizer.ggml.pre", "default")

    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            # Llama 3's vocabulary holds whole words that its merges do not reach.
            ignore_merges=name.startswith("llama"),
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, normalized=False, special=kinds[index] == TokenType.CONTROL)
        for index, token in enumerate(tokens)
        if kinds[index] in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    tokenizer.add_tokens(added)

    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A",
            pair=f"{tokens[bos]} $A {tokens[bos]}:1 $B:1",
            special_tokens=[(tokens[bos], bos)],
        )
    return tokenizer


def make_tokenizer_config(metadata, config):
    tokens = metadata.required("tokenizer.ggml.tokens")

    def token(name):
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if index is None else tokens[index]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": False,
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": metadata.get("tokenizer.chat_template"),
    }


def write_json(path, value):
    kept = {key: item for key, item in value.items() if item is not None}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_directory(source, out):
    reader = GGUFReader(source)
    metadata = Metadata(reader)
    config = make_config(reader, metadata)
    tokenizer = make_tokenizer(metadata)

    write_json(out / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out / "generation_config.json", ids)
    write_json(out / "tokenizer_config.json", make_tokenizer_config(metadata, config))
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)

    weights = convert_weights(
        reader, config["num_attention_heads"], config["num_key_value_heads"]
    )
    serialize_file(
        {
            name: TensorSpec(
                dtype="bfloat16",
                shape=bits.shape,
                data_ptr=bits.ctypes.data,
                data_len=bits.nbytes,
            )
            for name, bits in weights.items()
        },
        str(out / "model.safetensors"),
        {"format": "pt"},
    )


def replace_directory(new, target):
    """Puts `new` in the place of `target`; a reader sees the old directory or the new one."""
    old = None
    if target.exists():
        old = new.with_name(new.name + ".old")
        os.rename(target, old)
    os.rename(new, target)
    if old is not None:
        shutil.rmtree(old)


def import_gguf(source, target):
    if not source.is_file():
        raise ImportFailure(f"no such file: {source}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_dir():
        raise ImportFailure(f"{target} is not a directory")
    # Beside the target, so that the rename stays inside one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        try:
            write_directory(source, work)
        except (ValueError, IndexError) as error:
            raise ImportFailure(f"{source} is damaged or not a GGUF file: {error}") from error
        work.chmod(0o755)
        for path in work.iterdir():
            path.chmod(0o644)
        replace_directory(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()
    try:
        import_gguf(arguments.gguf, arguments.out_dir.absolute())
    except (ImportFailure, OSError) as error:
        sys.exit(f"import_gguf: {error}")


if __name__ == "__main__":
    main()
