#!/usr/bin/env python3
"""Measures the engine beside its peers and writes docs/benchmarks.md and the README's table.

    tests/bench/run.py [--rounds N] [--only NAME] [--no-write]

Ours and the peer's processes take turns, so that a noisy machine hits both alike; what is written are
medians over the rounds and their ratios. One process per measurement: its peak memory is its own.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"
README = ROOT / "README.md"
OURS = ROOT / "build/bin/engine_bench"
REFERENCE = ROOT / ".venv-reference/bin/python"
PEER = ROOT / "tests/bench/peers/transformers_loop.py"
THREADS = 2
# A ratio to the peer that fell by more than this is marked.
REGRESSION = 0.10


@dataclass(frozen=True)
class Measurement:
    name: str
    title: str
    ours: str  # the benchmark's name in engine_bench
    peer: tuple  # arguments of the peer
    target: float | None = None  # times the peer


MEASUREMENTS = [
    Measurement("prefill", "prefill, 1,024 tokens", "Prefill", ("prefill",)),
    Measurement("decode", "decode, one session", "Decode/1", ("decode",), 4.0),
    Measurement("decode8", "decode, eight sessions", "Decode/8", ("decode8",)),
    Measurement("update16", "one update, 1,024 tokens, rank 16", "Update/16", ("update", "--rank", "16"), 2.0),
    Measurement("update64", "one update, 1,024 tokens, rank 64", "Update/64", ("update", "--rank", "64"), 2.0),
]


# ---- running ---------------------------------------------------------------------------------


def run(command):
    environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS))
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"run.py: {command[0]} failed:\n{done.stderr}")
    return done.stdout


def measure_ours(measurement):
    out = run([OURS, f"--benchmark_filter=^{measurement.ours}/", "--benchmark_format=json"])
    benchmark = json.loads(out)["benchmarks"][0]
    return {
        "tokens_per_second": benchmark["items_per_second"],
        "peak_rss_bytes": benchmark["peak_rss_bytes"],
    }


def measure_peer(measurement):
    line = json.loads(run([REFERENCE, PEER, *measurement.peer, "--threads", THREADS]))
    return {key: line[key] for key in ("tokens_per_second", "peak_rss_bytes")}


# ---- figures ---------------------------------------------------------------------------------


def summarize(rounds):
    """{name: {"ours": figures, "peer": figures, "ratio": ours per peer}}, medians over the rounds.

    The ratio is the median of the ratios of each round, since the rounds differ more than the two
    processes within one.
    """
    summary = {}
    for name in rounds[0]:
        ratios = [
            one[name]["ours"]["tokens_per_second"] / one[name]["peer"]["tokens_per_second"]
            for one in rounds
        ]
        summary[name] = {"ratio": round(statistics.median(ratios), 3)}
        for side in ("ours", "peer"):
            summary[name][side] = {
                key: round(statistics.median(one[name][side][key] for one in rounds), 1)
                for key in ("tokens_per_second", "peak_rss_bytes")
            }
    return summary


def regressed(ratio, previous):
    return previous is not None and ratio < previous * (1 - REGRESSION)


def table(summary, previous):
    lines = [
        "| work | Mayfly | transformers + PEFT | times the peer | target | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for measurement in MEASUREMENTS:
        row = summary.get(measurement.name)
        if row is None:
            continue
        ratio = f"{row['ratio']:.1f}"
        before = previous.get(measurement.name, {}).get("ratio")
        if regressed(row["ratio"], before):
            ratio += f" (**was {before:.1f}**)"
        target = "" if measurement.target is None else f"{measurement.target:g}"
        memory = " against ".join(f"{row[side]['peak_rss_bytes'] / 2**20:,.0f}" for side in ("ours", "peer"))
        ours, peer = (f"{row[side]['tokens_per_second']:,.0f} tokens/s" for side in ("ours", "peer"))
        lines.append(f"| {measurement.title} | {ours} | {peer} | {ratio} | {target} | {memory} MiB |")
    return "\n".join(lines)


# ---- pages -----------------------------------------------------------------------------------


def read_figures(page):
    """The figures that a page written by page_text() carries for the next run."""
    match = re.search(r"<!-- figures: (.*) -->", page)
    return json.loads(match.group(1)) if match else {}


def page_text(summary, previous, conditions):
    return f"""# Benchmarks

Written by `./dev bench`. The default model in bf16, adapters on, {THREADS} threads; ours and the peer's
processes take turns on one machine, the figures are medians of {conditions["rounds"]} rounds.

- Machine: {conditions["machine"]}
- Peer: {conditions["peer"]}, a plain loop ([transformers_loop.py](../tests/bench/peers/transformers_loop.py))
- Measured {conditions["date"]} at {conditions["commit"]}, load before {conditions["load"]}

{table(summary, previous)}

What is done: *prefill* computes 1,024 tokens into an empty cache. *Decode* adds 64 tokens to a prompt of
64; with eight sessions each has an adapter of its own, while the peer's eight share one. *Update* is one
epoch on 1,024 tokens after 1,024 tokens of cached context: forward, backward, clipping, AdamW. Sampling,
text and the network are not part of it. Peak memory is the resident set of the process; ours holds the
rows of its sessions (window 2,048), the peer's its Python runtime. A ratio that fell by more than
{REGRESSION:.0%} since the run before is marked.

<!-- figures: {json.dumps(summary)} -->
"""


def with_table(readme, text):
    begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
    head, _, rest = readme.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        sys.exit(f"run.py: {README.name} lacks {begin} and {end}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def conditions(rounds):
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    flags = re.search(r"flags\s*: (.*)", Path("/proc/cpuinfo").read_text())
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flags and name in flags.group(1)]
    versions = "import torch, transformers, peft;" + (
        "print(f'transformers {transformers.__version__}, PEFT {peft.__version__}, torch {torch.__version__}')"
    )
    return {
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores of {cpu.group(1) if cpu else platform.machine()} ({' '.join(wide)})",
        "peer": run([REFERENCE, "-c", versions]).strip(),
        "date": datetime.date.today().isoformat(),
        "commit": run(["git", "describe", "--always", "--dirty"]).strip(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[measurement.name for measurement in MEASUREMENTS])
    parser.add_argument("--no-write", action="store_true", help="print the table, write nothing")
    arguments = parser.parse_args()
    for needed in (OURS, REFERENCE):
        if not needed.exists():
            sys.exit(f"run.py: {needed.relative_to(ROOT)} is missing, run ./dev bench")

    under = conditions(arguments.rounds)
    chosen = [one for one in MEASUREMENTS if arguments.only in (None, one.name)]
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        rounds.append({one.name: {"ours": measure_ours(one), "peer": measure_peer(one)} for one in chosen})

    previous = read_figures(PAGE.read_text()) if PAGE.exists() else {}
    summary = summarize(rounds)
    print(table(summary, previous))
    if arguments.no_write or arguments.only:
        return
    PAGE.write_text(page_text(summary, previous, under))
    README.write_text(with_table(README.read_text(), table(summary, {})))


if __name__ == "__main__":
    main()
