#!/usr/bin/env python3
"""Checks tools/import_gguf.py against transformers loading the same GGUF file by itself.

    tests/parity/check_import.py FILE.gguf MODEL_DIR

Compares every weight (bit for bit, after rounding to bf16), the logits of a passage, and token ids.
transformers knows a GGUF's vocabulary but not its pre-tokenizer: it splits no digits from the
spaces before them, as the original SmolLM2 tokenizer does. So ids are compared with transformers'
tokenizer as it is on text without digits, and with its pre-tokenizer set right on all text.
"""

import argparse
import sys
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

PASSAGES = [
    "It was the best of times, it was the worst of times; we had everything before us.",
    "  leading,   inner and trailing spaces  \n\n\ttabs\r\nand lines \n",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e "
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \U0001f600\u200d\U0001f525 e\u0301",
    "<|im_start|>user\nWhat's that?<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x  # comment\n",
    "<|im_start|><|endoftext|> <repo_name>x<|im_en",
    "In 1984,  12 345 men   6 miles\u00b2 \u0663 \u00bd 3.14159e-10",
]


def check(condition, what):
    if not condition:
        sys.exit(f"check_import: {what} differs")
    print(f"equal: {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("model_dir", type=Path)
    arguments = parser.parse_args()
    source = {"gguf_file": arguments.gguf.name}
    folder = arguments.gguf.parent

    imported_tokenizer = AutoTokenizer.from_pretrained(arguments.model_dir)
    reference_tokenizer = AutoTokenizer.from_pretrained(folder, **source)

    def same_ids(texts):
        return all(
            imported_tokenizer(text)["input_ids"] == reference_tokenizer(text)["input_ids"]
            for text in texts
        )

    without_digits = [text for text in PASSAGES if not any(c.isnumeric() for c in text)]
    check(same_ids(without_digits), "token ids of text without digits")
    reference_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    check(same_ids(PASSAGES), "token ids of all text, digits split")
    check(imported_tokenizer.chat_template == reference_tokenizer.chat_template, "chat template")
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        check(getattr(imported_tokenizer, name) == getattr(reference_tokenizer, name), name)

    imported = AutoModelForCausalLM.from_pretrained(arguments.model_dir, dtype=torch.bfloat16)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **source)
    expected = reference.state_dict()
    actual = imported.state_dict()
    check(actual.keys() == expected.keys(), "the set of weights")
    check(all(torch.equal(actual[name], expected[name]) for name in expected), "every weight")

    ids = torch.tensor([sum((imported_tokenizer(text)["input_ids"] for text in PASSAGES), [])])
    # Its weights stay quantised inside transformers' own model: a plain one is filled with them.
    plain = AutoModelForCausalLM.from_config(reference.config, dtype=torch.float32)
    plain.load_state_dict({name: weight.float() for name, weight in expected.items()})
    with torch.no_grad():
        difference = imported.float()(ids).logits - plain.eval()(ids).logits
    check(difference.abs().max().item() < 1e-4, f"logits of {ids.shape[1]} tokens")


if __name__ == "__main__":
    main()
