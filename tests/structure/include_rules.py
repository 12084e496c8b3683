#!/usr/bin/env python3
"""Which folder may include what (docs/architecture.md), and that no file is forgotten.

    tests/structure/include_rules.py [ROOT]     one line for each breach; exit 1 if there is one
"""

import re
import sys
from pathlib import Path

STOREYS = ("engine", "session", "server", "client")
LIBTORCH = ("ATen/", "torch/", "c10/")
CUDA = ("ATen/cuda/", "c10/cuda/", "cuda")
WIRE = ("grpc/", "grpcpp/", "google/", "mayfly/v1/")
ENGINE_API = ("engine/engine.h", "engine/types.h", "engine/options.h", "engine/metrics.h",
              "engine/row_state.h")

# Longest matching folder or file first: what its files may not include, and what they may in spite of it.
RULES = {
    "engine/base/": (("engine/", "session/", "server/", "client/", "tests/", *LIBTORCH, *WIRE), ("engine/base/",)),
    "engine/text/": (("session/", "server/", "client/", "tests/", *LIBTORCH, *WIRE), ()),
    "engine/": (("session/", "server/", "client/", "tests/", *WIRE, *CUDA), ()),
    "engine/device/cuda/": (("session/", "server/", "client/", "tests/", *WIRE), ()),
    "session/": (("engine/", "server/", "client/", "tests/", *LIBTORCH, *WIRE), ("engine/base/", *ENGINE_API)),
    "server/": (("engine/", "client/", "tests/", *LIBTORCH), ("engine/base/", *ENGINE_API)),
    "server/main.cc": (("client/", "tests/", *LIBTORCH), ()),
    "client/": (("engine/", "session/", "server/", "tests/", *LIBTORCH), ("engine/base/",)),
    "tests/": ((), ()),
} | {header: ((*LIBTORCH, *WIRE, "session/", "server/"), ()) for header in (*ENGINE_API, "engine/create_engine.h")}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def rule_for(path):
    return RULES[max((key for key in RULES if path.startswith(key)), key=len)]


def include_breaches(path, text):
    forbidden, allowed = rule_for(path)
    for included in INCLUDE.findall(text):
        if included == "torch/torch.h":
            yield f"{path}: includes torch/torch.h (25 s a file): take ATen/ATen.h"
        elif included.startswith(forbidden) and not included.startswith(allowed or ("\0",)):
            yield f"{path}: may not include {included}"


def file_breaches(root, path, text):
    if path.endswith(".h") and not re.search(r"^#pragma once$", text, re.MULTILINE):
        yield f"{path}: has no #pragma once"
    if path.endswith((".cc", ".cu")) and not is_listed(root, path):
        yield f"{path}: no CMakeLists.txt names it"


def is_listed(root, path):
    folder = (root / path).parent
    while folder != root.parent:
        lists = folder / "CMakeLists.txt"
        if lists.exists() and (root / path).relative_to(folder).as_posix() in lists.read_text():
            return True
        folder = folder.parent
    return False


def breaches(root):
    for storey in (*STOREYS, "tests"):
        for file in sorted((root / storey).rglob("*")):
            if file.suffix in (".h", ".cc", ".cu"):
                path, text = file.relative_to(root).as_posix(), file.read_text()
                yield from include_breaches(path, text)
                yield from file_breaches(root, path, text)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    found = list(breaches(root))
    print("\n".join(found) or "every include goes down")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
