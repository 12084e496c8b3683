#!/usr/bin/env python3
"""Measures the engine beside its peers and writes docs/benchmarks.md and the README's table.

    tests/bench/run.py [--rounds N] [--only ROW] [--no-write] [--mode cascaded|parallel] [--under COMMAND]

Ours and the peers' processes take turns, so that a noisy machine hits them alike; what is written are
medians over the rounds, of the figures and of their ratios. One process a source: its peak memory is its own.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from measurements import BIN, GGUF, LLAMA, MODEL, PEERS, REFERENCE, ROOT
from measurements import HEAD, LINEAR, ROWS, SOURCES, THREADS, run

PAGE = ROOT / "docs/benchmarks.md"
README = ROOT / "README.md"
TEMPLATE = ROOT / "tests/bench/page_template.md"
# A ratio that got worse by more than this is marked.
REGRESSION = 0.10

# ---- rounds ----------------------------------------------------------------------------------------


def measure_round(rows, number, measure):
    """{(row, source): figures}; `measure(source)` runs it."""
    seen, figures = {}, {}
    for row in rows:
        for source in dict.fromkeys([row.source, *(against.source for against in row.against)]):
            if number > SOURCES[source].rounds:
                continue
            if source not in seen or SOURCES[source].again:
                seen[source] = measure(source)
            figures[row.name, source] = seen[source]
    return figures


# ---- figures ---------------------------------------------------------------------------------------


def median(values):
    values = list(values)
    return float(f"{statistics.median(values):.5g}") if isinstance(values[0], (int, float)) else values[-1]


def summarize(rows, rounds):
    """{row: {"ours": figures, "against": {label: figures and "ratio"}}}, medians over the rounds.

    A ratio is the median of the ratios of each round, since the rounds differ more than the processes
    within one.
    """

    def medians(row, source):
        all_figures = [one[row, source] for one in rounds if (row, source) in one]
        return {key: median(figures[key] for figures in all_figures) for key in all_figures[0]}

    def ratio(row, against, figures):
        divisor = figures[row.name, against.source][against.figure or row.figure]
        return figures[row.name, row.source][row.figure] * against.work / divisor

    summary = {}
    for row in rows:
        summary[row.name] = {"ours": medians(row.name, row.source), "against": {}}
        for against in row.against:
            ratios = [ratio(row, against, one) for one in rounds if (row.name, against.source) in one]
            summary[row.name]["against"][against.label] = {
                **medians(row.name, against.source),
                "ratio": median(ratios),
            }
    return summary


def regressed(ratio, previous, at_most=False):
    if previous is None:
        return False
    return ratio > previous * (1 + REGRESSION) if at_most else ratio < previous * (1 - REGRESSION)


def percent(share):
    return f"{100 * share:.0f} %"


def verdict(ratio, target, at_most=False):
    if (ratio <= target) if at_most else (ratio >= target):
        return "pass"
    return f"**missed by {percent(abs(ratio / target - 1))}**"


UNITS = {
    "tokens_per_second": lambda value: f"{value:,.0f} tokens/s" if value >= 100 else f"{value:.1f} tokens/s",
    "gap_p99_seconds": lambda value: f"{1000 * value:,.0f} ms",
    "gap_max_seconds": lambda value: f"{1000 * value:,.0f} ms",
    "flops": lambda value: f"{value / 1e9:,.0f} GFLOP/s",
    "bytes_per_second": lambda value: f"{value / 1e9:,.1f} GB/s",
}


def ratio_text(ratio, against):
    return percent(ratio) if against.percent else f"{ratio:.2f}x"


def table(rows, summary, previous, mode):
    lines = ["| work | Mayfly | beside | | Mayfly to it | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = summary[row.name]
        cells = [row.title.format(mode=mode), UNITS[row.figure](figures["ours"][row.figure])]
        for against in row.against:
            other = figures["against"][against.label]
            figure = against.figure or row.figure
            ratio = ratio_text(other["ratio"], against)
            before = previous.get(row.name, {}).get("against", {}).get(against.label, {}).get("ratio")
            if regressed(other["ratio"], before, against.at_most):
                ratio += f" (**was {ratio_text(before, against)}**)"
            target, judgement = "", ""
            if against.target is not None:
                target = ("≤ " if against.at_most else "≥ ") + ratio_text(against.target, against)
                judgement = verdict(other["ratio"], against.target, against.at_most)
                if against.only_mode not in ("", mode):
                    judgement = f"set for mode {against.only_mode}"
            beside = [against.label, UNITS[figure](other[figure]), ratio, target, judgement]
            lines.append("| " + " | ".join(cells + beside) + " |")
            cells = ["", ""]
    return "\n".join(lines)


def memory_table(rows, summary):
    lines = ["| work | Mayfly | beside | |", "|---|---|---|---|"]
    for row in rows:
        ours = summary[row.name]["ours"].get("peak_rss_bytes")
        cells = [row.title, "" if ours is None else f"{ours / 2**20:,.0f} MiB"]
        for label, other in summary[row.name]["against"].items():
            if ours is None or "peak_rss_bytes" not in other:
                continue
            cells += [label, f"{other['peak_rss_bytes'] / 2**20:,.0f} MiB"]
            lines.append("| " + " | ".join(cells) + " |")
            cells = ["", ""]
    return "\n".join(lines)


# ---- pages -----------------------------------------------------------------------------------------


def read_figures(page):
    """The figures that a page written by page_text() carries for the next run."""
    match = re.search(r"<!-- figures: (.*) -->", page)
    return json.loads(match.group(1)) if match else {}


def between(text, name):
    match = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", text, re.DOTALL)
    return match.group(1) if match else ""


def llama_settings(summary):
    """Which of llama.cpp's settings won, by row."""
    return "; ".join(
        f"{name}: {other['settings']}"
        for name, figures in summary.items()
        for label, other in figures["against"].items()
        if "settings" in other and "Q4" not in label
    )


def page_text(rows, summary, previous, under, notes):
    learned = summary.get("learning", {}).get("ours", {}).get("learned_tokens", 0)
    return TEMPLATE.read_text().format(
        **under,
        threads=THREADS,
        regression=percent(REGRESSION),
        linear=f"{LINEAR / 1e6:.1f}",
        head=f"{HEAD / 1e6:.1f}",
        learned=f"{learned:,.0f}",
        llama_settings=llama_settings(summary),
        table=table(rows, summary, previous, under["mode"]),
        memory=memory_table(rows, summary),
        notes=notes,
        figures=json.dumps(summary),
    )


def with_table(readme, text):
    begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
    head, _, rest = readme.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        sys.exit(f"run.py: {README.name} lacks {begin} and {end}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def machine_name():
    about = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*: (.*)", about)
    flags = re.search(r"flags\s*: (.*)", about)
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    present = [name for name in wide if flags and name in flags.group(1).split()]
    return f"{os.cpu_count()} cores of {cpu.group(1) if cpu else platform.machine()} ({' '.join(present)})"


def transformers_name():
    modules = "transformers, peft, torch"
    show = f"import {modules}; print(*(one.__version__ for one in ({modules})))"
    return "transformers {}, PEFT {}, torch {}".format(*run([REFERENCE, "-c", show]).split())


def llama_name():
    """Also makes sure that it computes the same model."""
    check = run([LLAMA, PEERS / "llama_cpp_loop.py", "check", "--model", GGUF])
    nll = json.loads(check.splitlines()[0])
    package = run([LLAMA, "-c", "import llama_cpp; print(llama_cpp.__version__)"]).strip()
    return (
        f"llama.cpp of llama-cpp-python {package}, built for this CPU, OpenMP, the same bf16 weights"
        f" (NLL of an excerpt {nll['nll']:,.1f}, transformers {nll['expected']:,.1f})"
    )


def conditions(arguments):
    return {
        "rounds": arguments.rounds,
        "mode": arguments.mode,
        "machine": machine_name(),
        "transformers": transformers_name(),
        "llama": llama_name(),
        "date": datetime.date.today().isoformat(),
        "commit": run(["git", "describe", "--always", "--dirty"]).strip(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def committed(path):
    shown = subprocess.run(
        ["git", "show", f"HEAD:{path.relative_to(ROOT)}"], cwd=ROOT, capture_output=True, text=True
    )
    return shown.stdout if shown.returncode == 0 else ""


def prepare():
    for needed in (BIN / "engine_bench", BIN / "service_bench", REFERENCE, LLAMA):
        if not needed.exists():
            sys.exit(f"run.py: {needed.relative_to(ROOT)} is missing, run ./dev bench")
    if not GGUF.exists() or GGUF.stat().st_mtime < (MODEL / "model.safetensors").stat().st_mtime:
        run([LLAMA, PEERS / "write_gguf.py", MODEL, GGUF])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[row.name for row in ROWS])
    parser.add_argument("--no-write", action="store_true", help="print the table, write nothing")
    parser.add_argument("--mode", choices=["cascaded", "parallel"], default="cascaded", help="of learning")
    parser.add_argument("--under", default="", help="a command to run each source under: 'taskset -c 0,1'")
    parser.add_argument("--source", choices=SOURCES, help="measure this once and print its figures")
    arguments = parser.parse_args()
    prepare()
    if arguments.source:
        print(json.dumps(SOURCES[arguments.source].measure(arguments.mode)))
        return

    under = conditions(arguments)
    loads = []

    def measure(source):
        command = [sys.executable, __file__, "--source", source, "--mode", arguments.mode]
        figures = json.loads(run([*shlex.split(arguments.under), *command]))
        loads.append(os.getloadavg()[0])
        print(f"  {source}: {json.dumps(figures)}", file=sys.stderr, flush=True)
        return figures

    rows = [row for row in ROWS if arguments.only in (None, row.name)]
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        rounds.append(measure_round(rows, number, measure))

    under["load"] += f" before, {min(loads):.1f} to {max(loads):.1f} after each process of two threads"
    summary = summarize(rows, rounds)
    previous = read_figures(committed(PAGE))
    print(table(rows, summary, previous, arguments.mode))
    if arguments.no_write or arguments.only:
        return
    notes = between(PAGE.read_text(), "notes") if PAGE.exists() else ""
    PAGE.write_text(page_text(rows, summary, previous, under, notes))
    README.write_text(with_table(README.read_text(), table(rows, summary, {}, arguments.mode)))


if __name__ == "__main__":
    main()
