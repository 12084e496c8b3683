#!/usr/bin/env python3
"""Lets clang check what the sources say about their mutexes (gcc, which builds them, ignores it)."""

import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Everything that a clang without libtorch's headers can read.
FOLDERS = ("engine/base/", "session/", "server/", "client/")


def clang_command(entry):
    words = shlex.split(entry["command"])
    kept = [word for word in words if word.startswith(("-I", "-D", "-std="))]
    for flag, value in zip(words, words[1:]):
        if flag == "-isystem":
            kept += [flag, value]
    return ["clang++", "-fsyntax-only", "-Wthread-safety", "-Werror", *kept, entry["file"]]


def main():
    entries = json.loads((ROOT / "build/compile_commands.json").read_text())
    entries = [
        one for one in entries
        if Path(one["file"]).is_relative_to(ROOT)
        and Path(one["file"]).relative_to(ROOT).as_posix().startswith(FOLDERS)
    ]
    with ThreadPoolExecutor(cpu_count()) as workers:
        results = list(workers.map(lambda one: subprocess.run(clang_command(one)).returncode, entries))
    print(f"thread annotations of {len(entries)} sources checked")
    sys.exit(any(results))


if __name__ == "__main__":
    main()
