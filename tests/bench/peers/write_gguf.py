#!/usr/bin/env python3
"""Writes a Llama-family Hugging Face directory as a bf16 GGUF file, for llama.cpp to run.

    tests/bench/peers/write_gguf.py MODEL_DIR OUT.gguf

The weights are copied bit for bit (norms widened to fp32, which is exact, since llama.cpp keeps them so);
the way back from tools/import_gguf.py. The vocabulary is there for llama.cpp to load the file; the peer
feeds token ids.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

# GGUF's name of each tensor of a layer, by its name in Hugging Face's Llama.
LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GLOBAL_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def read_bf16(path):
    """Name to bits (uint16) of every tensor; numpy has no bfloat16."""
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8 : 8 + header_size]).items():
        if name == "__metadata__":
            continue
        if about["dtype"] != "BF16":
            raise SystemExit(f"write_gguf: {name} is {about['dtype']}, only BF16 is copied")
        begin, end = (8 + header_size + offset for offset in about["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], np.uint16).reshape(about["shape"])
    return tensors


def gguf_name(name):
    if name in GLOBAL_TENSORS:
        return GLOBAL_TENSORS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[rest.removesuffix('.weight')]}.weight"


def interleave(weight, heads):
    """llama.cpp rotates neighbours (2i, 2i + 1) where Hugging Face rotates (i, i + half)."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def add_weights(writer, tensors, config):
    for name, bits in tensors.items():
        if "q_proj" in name:
            bits = interleave(bits, config["num_attention_heads"])
        elif "k_proj" in name:
            bits = interleave(bits, config["num_key_value_heads"])
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            raw = np.ascontiguousarray(bits).view(np.uint8)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)


def add_vocabulary(writer, tokenizer, config):
    vocabulary = tokenizer["model"]["vocab"]
    kinds = [gguf.TokenType.NORMAL] * len(vocabulary)
    for token in tokenizer["added_tokens"]:
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def write(model, out):
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_vocabulary(writer, json.loads((model / "tokenizer.json").read_text()), config)
    add_weights(writer, read_bf16(model / "model.safetensors"), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that a broken run leaves no half of a file there.
    part = arguments.out.with_suffix(".part")
    write(arguments.model, part)
    part.rename(arguments.out)


if __name__ == "__main__":
    main()
