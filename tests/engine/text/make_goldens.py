#!/usr/bin/env python3
"""Writes the reference values of the text tests with Hugging Face's tokenizers and transformers.

    tests/engine/text/make_goldens.py [--model models/smollm2-135m-instruct]

goldens/tokenizers/<name>.json   tiny tokenizers, trained on tests/parity/data/smollm2/excerpt.txt
goldens/<name>.golden.json       texts: text, ids, special_ids (add_special_tokens), decoded (of
                                 special_ids, special tokens kept), skipped (left out)
                                 sequences: random ids, decoded and skipped
goldens/smollm2.golden.json      the same for the tokenizer of --model
goldens/chat_templates.json      templates, chats, and what transformers renders of them

Versions: tests/parity/requirements.txt.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
GOLDENS = HERE / "goldens"

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    "\t \t",
    "a",
    " a",
    "a ",
    "Hello, world!",
    "  two leading,  two inner, two trailing  ",
    "It's we're I'LL they'd o'clock 'tis",
    "In 1984,  12 345 men   6 miles\u00b2 \u0663\u0664 \u00bd \u2167 3.14159e-10 0x1F",
    "caf\u00e9 na\u00efve e\u0301 \u00c5ngstr\u00f6m A\u030a",
    "\u65e5\u672c\u8a9e\u306e\u6587\u3001\u4e2d\u6587\u3002\ud55c\uad6d\uc5b4",
    "\u1112\u1161\u11ab decomposed Hangul",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd \U0001f1e9\U0001f1ea",
    "zero\u200bwidth\ufeff bom \u00a0nbsp\u2003em\u3000ideographic",
    "right\u202eto\u202cleft",
    "control \x01\x1b[0m\x7f\u0085 nul \x00 end",
    "replacement \ufffd and private \ue000 and last \U0010fffd",
    "\u2581metaspace \u2581\u2581 in text",
    "<0x41> <0xE2> byte fallback names",
    "\u0120\u010a byte-level letters",
    "<s></s><unk>",
    " <s> a</s> b<|im_start|> c<|im_end|><|im_start",
    "<|im_start|>user\nWhat's that?<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return {\n\t'a': x**2,\n    }\n\n\n# done",
    "https://example.org/a?b=c&d=%20#e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...---***___",
    "snake_case camelCase kebab-case SCREAMING",
    "\u201cquoted\u201d \u2018single\u2019 \u2014 dash\u2026",
    "\U0001d54f\U0001d550 math \u2211\u222b\u221e \u00b5\u03bc \ufb01 ligature",
    "x\u0302\u0323\u0301 stacked marks",
    "tail bytes \u00ff\u0100\u07ff\u0800\uffff\U00010000",
]


def excerpt():
    return (ROOT / "tests/parity/data/smollm2/excerpt.txt").read_text(encoding="utf-8")


def byte_level():
    """As SmolLM2's: digits alone, GPT-2's pattern; with a BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([excerpt()], trainer)
    # Not special, and with a letter that GPT-2's alphabet has for a byte and one that it has not.
    tokenizer.add_tokens([AddedToken("\u65e5\u672c", normalized=False), AddedToken("caf\u00e9")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def split_nfc():
    """As Qwen's and Llama 3's: NFC, a pattern with lookahead, then bytes."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def sentencepiece():
    """As Llama 2's: spaces as U+2581, bytes for unknown characters, the first space dropped."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=12,
    )
    spaced = (line.replace(" ", " \0") for line in excerpt().splitlines())
    words = [piece for line in spaced for piece in line.split("\0")]
    tokenizer.train_from_iterator(words, trainer)
    # The trainer makes the bytes special tokens; in a real model they are plain ones.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    state["post_processor"] = json.loads(
        processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]).__getstate__()
    )
    return Tokenizer.from_str(json.dumps(state))


def tokenizer_goldens(tokenizer):
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        texts.append(
            {
                "text": text,
                "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                "special_ids": ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    numbers = random.Random(1)
    sequences = []
    for _ in range(40):
        # The small ids are special tokens and bytes: broken characters of every kind.
        top = numbers.choice([270, tokenizer.get_vocab_size()])
        ids = [numbers.randrange(top) for _ in range(numbers.randrange(1, 24))]
        sequences.append(
            {
                "ids": ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return {"texts": texts, "sequences": sequences}


# In our own words, with the means that published templates use.
TEMPLATES = {
    "chatml": {
        "source": "{% for message in messages %}"
        "{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    },
    "llama3": {
        "source": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- message | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    },
    "mistral": {
        "source": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("turns must alternate: user, assistant, user, ...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, not " + message["role"]) }}
    {%- endif %}
{%- endfor %}
""",
    },
    "qwen3": {
        "source": """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    },
    "gemma": {
        "source": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    },
    # Blocks on their own lines, loop controls, macros, Python's methods and its spelling of values.
    "everything": {
        "source": """{% macro turn(name, text='nothing') %}
  <{{ name.upper() }}>{{ text }}</{{ name | title }}>
{% endmacro %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 4 %}
        {% break %}
    {% endif %}
    {% if message.role == 'assistant' %}
{% generation %}
{{ turn(message.role, message.content) }}
{% endgeneration %}
    {% else %}
{{ turn(message.role, text=message.content) }}
    {% endif %}
{% endfor %}
{# a comment #}
{{ true }} {{ none }} {{ add_generation_prompt }} {{ missing }} {{ 3 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }}
{{ messages | map(attribute='role') | join(', ') }} {{ messages[-1].content[:3] }} {{ 'a' ~ 1 }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages[0] | tojson }}
{{ messages[0] | tojson(indent=2) }}
{{ messages[0].get('name', 'unnamed') }} {{ messages[0].keys() | list | length }}
{%- for key, value in messages[0].items() %} {{ key }}={{ value | length }}{% endfor %}
{{ 'x' if messages is iterable and messages is not string and messages[0] is mapping else 'y' }}
{{ ' pad '.strip() }}|{{ 'a,b,c'.split(',') | last }}|{{ 'abc'.replace('b', '') }}|{{ 'abc'.find('c') }}
{{ 'one\\ntwo' | indent(2) }} {{ [3, 1, 2] | sort | first }} {{ range(3) | list | length }}
{{ missing | default('fallback') }} {{ "quote's" }} {{ '<b>' }} {{ namespace(a=1).a }}
""",
    },
}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATS = {
    "one": [{"role": "user", "content": "Hello"}],
    "system": [
        {"role": "system", "content": " Be brief. \n"},
        {"role": "user", "content": "  What is \u201c\u03c0\u201d? \U0001f600 <b>&amp; "},
        {"role": "assistant", "content": "\nAbout 3.14.\n"},
        {"role": "user", "content": "More\ndigits"},
    ],
    "thinking": [
        {"role": "user", "content": "Think."},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nDone."},
        {"role": "user", "content": "Again."},
        {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nDone again."},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "tool", "content": "{\"rain\": true}"},
        {"role": "assistant", "content": "Rain."},
    ],
    "out_of_order": [
        {"role": "assistant", "content": "I go first."},
        {"role": "assistant", "content": "And second."},
    ],
    "empty_content": [{"role": "user", "content": ""}],
}


def chat_goldens():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), **SPECIAL_TOKENS)
    cases = []
    for template, about in TEMPLATES.items():
        for chat, messages in CHATS.items():
            for prompt in (False, True):
                case = {"template": template, "chat": chat, "add_generation_prompt": prompt}
                try:
                    case["text"] = tokenizer.apply_chat_template(
                        messages,
                        chat_template=about["source"],
                        add_generation_prompt=prompt,
                        tokenize=False,
                    )
                except Exception as error:
                    case["error"] = str(error)
                cases.append(case)
    sources = {name: about["source"] for name, about in TEMPLATES.items()}
    return {"special_tokens": SPECIAL_TOKENS, "templates": sources, "chats": CHATS, "cases": cases}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, indent=None) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/smollm2-135m-instruct")
    arguments = parser.parse_args()
    for make in (byte_level, split_nfc, sentencepiece):
        tokenizer = make()
        path = GOLDENS / "tokenizers" / f"{make.__name__}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path), pretty=False)
        write(GOLDENS / f"{make.__name__}.golden.json", tokenizer_goldens(tokenizer))
    if arguments.model.exists():
        tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
        write(GOLDENS / "smollm2.golden.json", tokenizer_goldens(tokenizer))
    write(GOLDENS / "chat_templates.json", chat_goldens())


if __name__ == "__main__":
    main()
