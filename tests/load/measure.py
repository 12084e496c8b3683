#!/usr/bin/env python3
"""Measures what clients see of the server under load and writes docs/load.md.

    tests/load/measure.py [--seconds N] [--trials N] [--mode parallel|cascaded] [--no-write]

One server for all: 1 to 16 sessions in a closed loop with learning off and on, one run whose updates say
what they gained, and two searches for the rate of sessions that keeps the SLO. Takes about eight minutes.
Scenarios, reports and pages with plots are left in .cache/load.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/bench"))
import run as bench  # noqa: E402
from measurements import BIN, THREADS  # noqa: E402
from served import server  # noqa: E402

PAGE = ROOT / "docs/load.md"
TEMPLATE = ROOT / "tests/load/page_template.md"
LEFT = ROOT / ".cache/load"
BOOK = "docs/demo/the-lawton-girl.txt"

SESSIONS = (1, 2, 4, 8, 16)
ROWS = 16
WINDOW = 2048
# A session: turns of so many bytes read (about a token for four) and tokens generated.
TURNS, READ_BYTES, GENERATED = 6, 256, 32
CHUNK = 256
SLO = {"ttft_ms": 1000, "inter_token_p99_ms": 200, "attainment": 0.95}
RAMP, WARMUP, DRAIN = 1, 3, 20
# Sessions a second that a search begins with.
FIRST_RATE = {"off": 0.5, "on": 0.25}

# ---- scenarios -------------------------------------------------------------------------------------


def adaptation(learning, mode, receipt=False):
    if learning == "off":
        return {"preset": "PRESET_OFF"}
    options = {"preset": "PRESET_BALANCED", "mode": f"MODE_{mode.upper()}", "receipt": receipt}
    return {**options, "chunk_tokens": CHUNK, "context_tokens": CHUNK}


def scenario(arrivals, options, seconds):
    turn = [
        {"append": {"text_bytes": READ_BYTES}},
        {"generate": {"max_tokens": GENERATED, "sampling": {"temperature": 1}}},
    ]
    return {
        "seed": 1,
        "text": BOOK,
        "arrivals": arrivals,
        "phases": {
            "ramp_seconds": RAMP,
            "warmup_seconds": WARMUP,
            "steady_seconds": seconds,
            "drain_seconds": DRAIN,
        },
        "slo": SLO,
        "scripts": [
            {
                "name": "reader",
                "open": {"adaptation": options},
                "steps": [{"repeat": TURNS, "steps": turn}],
            }
        ],
    }


def measure(name, asked, addresses, *flags):
    """The report of mayfly_load on this scenario."""
    stem = LEFT / name
    scenario_file, report, page = stem.with_suffix(".scenario.json"), stem.with_suffix(".json"), stem.with_suffix(".html")
    scenario_file.write_text(json.dumps(asked, indent=1))
    command = [BIN / "mayfly_load", scenario_file, "--server", addresses[0], "--http_server", addresses[1]]
    command += ["--json", report, "--html", page, *flags]
    print(f"{name}:", file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=sys.stderr)
    if done.returncode != 0:
        sys.exit(f"measure.py: mayfly_load failed on {name}")
    return json.loads(report.read_text())


def measure_all(seconds, trials, mode):
    """{"points": [(sessions, learning, run)], "receipts": run, "capacity": {learning: report}}"""
    LEFT.mkdir(parents=True, exist_ok=True)
    with server("--slots", ROWS, "--window_tokens", WINDOW) as (_, *addresses):

        def closed(name, sessions, options):
            asked = scenario({"sessions": sessions}, options, seconds)
            return measure(name, asked, addresses)["runs"][0]

        points = [
            (sessions, learning, closed(f"{sessions}-{learning}", sessions, adaptation(learning, mode)))
            for sessions in SESSIONS
            for learning in ("off", "on")
        ]
        receipts = closed("receipts", 4, adaptation("on", mode, receipt=True))
        capacity = {}
        for learning, rate in FIRST_RATE.items():
            asked = scenario({"sessions_per_second": rate}, adaptation(learning, mode), seconds)
            flags = ("--find_capacity", "--max_trials", trials)
            capacity[learning] = measure(f"capacity-{learning}", asked, addresses, *flags)
    return {"points": points, "receipts": receipts, "capacity": capacity}


# ---- the page ----------------------------------------------------------------------------------------


def milliseconds(latency):
    """Three percentiles; long waits in seconds."""
    if not latency["count"]:
        return "–"
    values = [1000 * latency[key] for key in ("p50", "p95", "p99")]
    return " / ".join(f"{value:,.0f}" for value in values)


def in_slo(run):
    return f"{run['goodput']['attainment']:.0%} of {run['turns']['good'] + run['turns']['bad']}"


def points_table(points):
    lines = [
        "| sessions | learning | first token, ms | between tokens, ms | tokens/s | turns in the SLO |"
        " goodput, turns/s | goodput, tokens/s | learned |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for sessions, learning, run in points:
        latency, goodput = run["latency_seconds"], run["goodput"]
        cells = [
            f"{sessions}",
            learning,
            milliseconds(latency["ttft"]),
            milliseconds(latency["inter_token"]),
            f"{run['tokens']['generated_per_second']:,.0f}",
            in_slo(run),
            f"{goodput['turns_per_second']:.2f}",
            f"{goodput['tokens_per_second']:,.0f}",
            f"{run['learning']['learned_fraction']:.0%}" if learning == "on" else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def capacity_table(capacity):
    lines = [
        "| learning | highest rate that kept the SLO | lowest that did not | turns/s in the SLO there | rates tried, with their turns in the SLO |",
        "|---|---|---|---|---|",
    ]
    for learning, report in capacity.items():
        found = report["capacity"]
        rates = [trial["sessions_per_second"] for trial in found["trials"]]
        runs = dict(zip(rates, report["runs"]))
        kept = [runs[rate]["goodput"]["turns_per_second"] for rate in rates if rate == found["sessions_per_second"]]
        tried = ", ".join(f"{rate:.2f} ({in_slo(runs[rate])})" for rate in rates)
        cells = [
            learning,
            f"{found['sessions_per_second']:.2f} sessions/s" if kept else "none",
            f"{found['too_much']:.2f} sessions/s" if found["too_much"] else "none",
            f"{kept[0]:.2f}" if kept else "",
            tried,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain_text(run):
    learning = run["learning"]
    if "gained_nats" not in learning:
        return "No chunk was compared with the frozen base in the time."
    text = f"{learning['gained_nats_per_token']:+.3f} nats a token over the frozen base"
    if "gained_nats_per_busy_second" in learning:
        text += f", {learning['gained_nats_per_busy_second']:+.1f} nats a second of training"
    return f"{text} ({learning['updates'].get('applied', 0)} updates applied)."


def most_lag(points):
    """The latest start of a session over all runs, milliseconds."""
    return max(1000 * run["latency_seconds"]["start_lag"].get("max", 0) for _, _, run in points)


def page_text(figures, under, notes):
    points = figures["points"]
    return TEMPLATE.read_text().format(
        **under,
        rows=ROWS,
        window=f"{WINDOW:,}",
        threads=THREADS,
        turns=TURNS,
        read_bytes=READ_BYTES,
        generated=GENERATED,
        chunk=CHUNK,
        ttft_ms=f"{SLO['ttft_ms']:,}",
        gap_ms=SLO["inter_token_p99_ms"],
        attainment=f"{SLO['attainment']:.0%}",
        points=points_table(points),
        capacity=capacity_table(figures["capacity"]),
        gain=gain_text(figures["receipts"]),
        lag=f"{most_lag(points):.0f}",
        client_cpu=f"{max(run['client_cpu_seconds'] for _, _, run in points):.1f}",
        notes=notes,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=15, help="of each run that are measured")
    parser.add_argument("--trials", type=int, default=6, help="rates that a search may try")
    parser.add_argument("--mode", choices=["parallel", "cascaded"], default="parallel", help="of learning")
    parser.add_argument("--no-write", action="store_true", help="print the page, write nothing")
    arguments = parser.parse_args()
    under = {
        "seconds": f"{arguments.seconds:g}",
        "mode": arguments.mode,
        "machine": bench.machine_name(),
        "date": datetime.date.today().isoformat(),
        "commit": bench.run(["git", "describe", "--always", "--dirty"]).strip(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }
    figures = measure_all(arguments.seconds, arguments.trials, arguments.mode)
    notes = bench.between(PAGE.read_text(), "notes") if PAGE.exists() else ""
    page = page_text(figures, under, notes)
    if arguments.no_write:
        print(page)
    else:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
