#!/usr/bin/env python3
"""Keeps a server under mixed load for a long time and writes what it saw into docs/reliability.md.

    tests/load/soak.py [--minutes N] [--no-write]

The load is mayfly_load's with scenarios/soak.json; clients that export and resume run beside it. Every sample
is left in .cache/soak.
"""

import argparse
import contextlib
import csv
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/bench"))
import run as bench  # noqa: E402
from measurements import BIN, THREADS  # noqa: E402
from served import server  # noqa: E402

PAGE = ROOT / "docs/reliability.md"
TEMPLATE = ROOT / "tests/load/soak_template.md"
BEGIN, END = "<!-- soak:begin -->\n", "<!-- soak:end -->"
SCENARIO = ROOT / "tests/load/scenarios/soak.json"
LEFT = ROOT / ".cache/soak"
KEY = "5" * 64

ROWS = 8
WINDOW = 1024
CHUNK = 128
SAMPLE_SECONDS = 10
# Between two clients that export.
EXPORT_PAUSE_SECONDS = 15
# Rows of the page's table.
WINDOWS = 6
# Memory is flat when its median changes by less than this share from the second third of the time to the last.
FLAT_MEMORY = 0.02
# Latency depends on what else the machine does: means of two thirds that differ by less count as alike.
FLAT_LATENCY = 0.25
FIRST_TOKEN = "mayfly_time_to_first_token_seconds"
BETWEEN_TOKENS = "mayfly_inter_token_latency_seconds"
FREE_ROWS = 'mayfly_slots{state="free"}'

# ---- what the server says ----------------------------------------------------------------------------


def parse_metrics(text):
    """{'name{labels}': value}"""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def total(metrics, name):
    """Over all labels."""
    return sum(value for key, value in metrics.items() if key.split("{")[0] == name)


def buckets(metrics, name):
    """{upper bound: observations below it}, over all other labels."""
    found = {}
    for key, value in metrics.items():
        if key.startswith(name + "_bucket{"):
            bound = float(re.search(r'le="([^"]*)"', key).group(1).replace("+Inf", "inf"))
            found[bound] = found.get(bound, 0) + value
    return found


def latency(before, after, name):
    """Mean and the bound below which 99 % lie, of what was observed between the two, seconds."""
    count = total(after, name + "_count") - total(before, name + "_count")
    if count == 0:
        return None
    first, last = buckets(before, name), buckets(after, name)
    bound = min(at for at, below in last.items() if below - first.get(at, 0) >= 0.99 * count)
    return (total(after, name + "_sum") - total(before, name + "_sum")) / count, bound


class Sampler(threading.Thread):
    """Reads the server's metrics until it is stopped."""

    def __init__(self, http, pid):
        super().__init__()
        self._url = f"http://{http}/metrics"
        self._status = Path(f"/proc/{pid}/status")
        self._stopped = threading.Event()
        self._begin = time.monotonic()
        self.samples = []

    def sample(self):
        with urllib.request.urlopen(self._url, timeout=60) as answer:
            metrics = parse_metrics(answer.read().decode())
        threads = int(re.search(r"Threads:\s*(\d+)", self._status.read_text()).group(1))
        self.samples.append({"seconds": time.monotonic() - self._begin, "threads": threads, "metrics": metrics})

    def run(self):
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.sample()

    def stop(self):
        self._stopped.set()
        self.join()


class Exporter(threading.Thread):
    """Clients one after the other: one exports its session in both forms, the next one goes on from it."""

    def __init__(self, address):
        super().__init__()
        self._address = address
        self._stopped = threading.Event()
        self.done = 0
        self.failures = []

    def _generate(self, *flags):
        command = [BIN / "mayfly", "generate", "--server", self._address, "--max_tokens", "8", "--ignore_eos", *flags]
        done = subprocess.run([str(part) for part in command], cwd=LEFT, capture_output=True, text=True)
        if done.returncode != 0:
            self.failures.append(done.stderr.strip())
        return done.returncode == 0

    def _once(self):
        forget()
        prompt = "The river was high that spring, and nobody crossed it. " * 12
        learning = ("--chunk_tokens", "64", "--context_tokens", "64")
        exports = ("--export_snapshot", "session.snapshot", "--export_peft", "peft")
        if not self._generate("--prompt", prompt, *learning, *exports):
            return
        if self._generate("--prompt", "Then", "--resume_from", "session.snapshot"):
            self.done += 1

    def run(self):
        while not self._stopped.wait(EXPORT_PAUSE_SECONDS):
            self._once()

    def stop(self):
        self._stopped.set()
        self.join()


def forget():
    """Removes what an exporter has left."""
    (LEFT / "session.snapshot").unlink(missing_ok=True)
    for file in (LEFT / "peft").glob("*"):
        file.unlink()
    with contextlib.suppress(FileNotFoundError):
        (LEFT / "peft").rmdir()


# ---- the run -----------------------------------------------------------------------------------------


def write_scenario(minutes):
    text = "\n".join(line for line in SCENARIO.read_text().splitlines() if not line.lstrip().startswith("//"))
    asked = json.loads(text)
    asked["phases"]["steady_seconds"] = 60 * minutes
    (LEFT / "scenario.json").write_text(json.dumps(asked, indent=1))


def write_samples(samples):
    names = sorted({name for sample in samples for name in sample["metrics"]})
    with open(LEFT / "samples.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seconds", "threads", *names])
        for sample in samples:
            metrics = sample["metrics"]
            table.writerow([f"{sample['seconds']:.1f}", sample["threads"], *(metrics.get(name, "") for name in names)])


def soak(minutes):
    """{"samples": under load, "rest": once nobody is left, "report": mayfly_load's, "exports", "failures"}"""
    LEFT.mkdir(parents=True, exist_ok=True)
    write_scenario(minutes)
    (LEFT / "keys").write_text(KEY + "\n")
    flags = ("--slots", ROWS, "--window_tokens", WINDOW, "--chunk_tokens", CHUNK, "--context_tokens", CHUNK)
    with server(*flags, "--snapshot_key_file", LEFT / "keys") as (process, address, http):
        sampler, exporter = Sampler(http, process.pid), Exporter(address)
        sampler.sample()
        sampler.start()
        exporter.start()
        command = [BIN / "mayfly_load", LEFT / "scenario.json", "--server", address, "--json", LEFT / "report.json"]
        loaded = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=sys.stderr)
        exporter.stop()
        sampler.stop()
        write_samples(sampler.samples)
        if loaded.returncode != 0:
            sys.exit("soak.py: mayfly_load failed")
        rest = wait_for_rest(sampler)
    forget()
    report = json.loads((LEFT / "report.json").read_text())
    samples = [one for one in sampler.samples if one["seconds"] <= 60 * minutes]
    return {"samples": samples, "rest": rest, "report": report, "exports": exporter.done, "failures": exporter.failures}


def wait_for_rest(sampler):
    """A sample with no session left, or the last one after a minute."""
    deadline = time.monotonic() + 60
    while True:
        sampler.sample()
        metrics = sampler.samples[-1]["metrics"]
        if metrics[FREE_ROWS] == ROWS or time.monotonic() > deadline:
            return sampler.samples[-1]
        time.sleep(1)


# ---- the page ----------------------------------------------------------------------------------------


def resident_mb(sample):
    return sample["metrics"]["process_resident_memory_bytes"] / 1e6


def parts(samples, count):
    """The samples in so many stretches of time; each begins with the last sample of the one before."""
    edges = [round(i * (len(samples) - 1) / count) for i in range(count + 1)]
    return [samples[begin : end + 1] for begin, end in zip(edges, edges[1:])]


def latency_text(found):
    if found is None:
        return "–"
    mean, bound = found
    return f"{1000 * mean:,.0f} / " + (">" if bound == float("inf") else f"{1000 * bound:,.0f}")


def row_cells(part):
    first, last = part[0]["metrics"], part[-1]["metrics"]
    seconds = part[-1]["seconds"] - part[0]["seconds"]
    memory = [resident_mb(sample) for sample in part[1:]]
    generated = 'mayfly_tokens_total{kind="generated"}'
    applied = 'mayfly_adapter_updates_total{outcome="applied"}'
    return [
        f"{part[0]['seconds'] / 60:.0f}–{part[-1]['seconds'] / 60:.0f}",
        f"{statistics.median(memory):,.0f} / {max(memory):,.0f}",
        f"{max(sample['metrics']['process_open_fds'] for sample in part[1:]):.0f}",
        f"{max(sample['threads'] for sample in part[1:])}",
        latency_text(latency(first, last, FIRST_TOKEN)),
        latency_text(latency(first, last, BETWEEN_TOKENS)),
        f"{(last[generated] - first[generated]) / seconds:.0f}",
        f"{total(last, 'mayfly_sessions_opened_total') - total(first, 'mayfly_sessions_opened_total'):.0f}",
        f"{last[applied] - first[applied]:.0f}",
    ]


def windows_table(samples):
    names = ["minutes", "resident, MB", "descriptors", "threads", "first token, ms", "between tokens, ms", "tokens/s"]
    names += ["sessions opened", "updates applied"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row_cells(part)) + " |" for part in parts(samples, WINDOWS)]
    return "\n".join(lines)


def slope_mb_per_hour(samples):
    hours = [sample["seconds"] / 3600 for sample in samples]
    return statistics.linear_regression(hours, [resident_mb(sample) for sample in samples]).slope


def conclusion_text(samples):
    """Of the last two thirds: in the first one, rows and buffers are touched for the first time."""
    _, second, third = parts(samples, 3)
    medians = [statistics.median(resident_mb(sample) for sample in part[1:]) for part in (second, third)]
    change = medians[1] / medians[0] - 1
    lines = [
        f"From the second third of the time to the last, the median of resident memory went from {medians[0]:,.0f} to"
        f" {medians[1]:,.0f} MB ({change:+.1%}; a line through the samples of both rises by"
        f" {slope_mb_per_hour(second + third[1:]):+,.0f} MB an hour): "
        + ("**flat**" if abs(change) < FLAT_MEMORY else "**not flat**")
        + f" by a bound of {FLAT_MEMORY:.0%}."
    ]
    for name, what in ((FIRST_TOKEN, "time to the first token"), (BETWEEN_TOKENS, "time between two tokens")):
        means = [latency(part[0]["metrics"], part[-1]["metrics"], name)[0] for part in (second, third)]
        change = means[1] / means[0] - 1
        lines.append(
            f"The mean {what} went from {1000 * means[0]:,.0f} to {1000 * means[1]:,.0f} ms ({change:+.0%}): "
            + ("**flat**" if abs(change) < FLAT_LATENCY else "**not flat**")
            + f" by a bound of {FLAT_LATENCY:.0%}."
        )
    return "\n".join(lines)


def ends_text(figures):
    metrics, begin = figures["rest"]["metrics"], figures["samples"][0]
    opened = total(metrics, "mayfly_sessions_opened_total")
    closed = {
        re.search(r'reason="([^"]*)"', key).group(1): value
        for key, value in metrics.items()
        if key.startswith("mayfly_sessions_closed_total{") and value > 0
    }
    by_reason = ", ".join(f"{reason} {value:.0f}" for reason, value in sorted(closed.items()))
    exported = f"{figures['exports']} snapshots were exported and resumed"
    failures = len(figures["failures"])
    return (
        f"{opened:.0f} sessions were opened; streams ended by reason: {by_reason}. {exported}, {failures} of those clients failed."
        f" Once all clients had gone, {metrics[FREE_ROWS]:.0f} of {ROWS} rows were free, with"
        f" {metrics['process_open_fds']:.0f} descriptors open ({begin['metrics']['process_open_fds']:.0f} at the start),"
        f" {figures['rest']['threads']} threads ({begin['threads']}) and {resident_mb(figures['rest']):,.0f} MB resident."
    )


def section_text(figures, under):
    samples = figures["samples"]
    return TEMPLATE.read_text().format(
        **under,
        rows=ROWS,
        window=f"{WINDOW:,}",
        threads=THREADS,
        clients=figures["report"]["runs"][0]["asked"]["arrivals"]["sessions"],
        sample_seconds=SAMPLE_SECONDS,
        windows=windows_table(samples),
        conclusion=conclusion_text(samples),
        ends=ends_text(figures),
    )


def with_section(page, section):
    before, rest = page.split(BEGIN)
    return before + BEGIN + section + END + rest.split(END)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30, help="of load, at most 60")
    parser.add_argument("--no-write", action="store_true", help="print it, write nothing")
    arguments = parser.parse_args()
    under = {
        "minutes": f"{arguments.minutes:g}",
        "machine": bench.machine_name(),
        "date": datetime.date.today().isoformat(),
        "commit": bench.run(["git", "describe", "--always", "--dirty"]).strip(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }
    figures = soak(arguments.minutes)
    for failure in figures["failures"]:
        print(f"soak.py: an exporting client failed: {failure}", file=sys.stderr)
    under["load_after"] = f"{os.getloadavg()[0]:.2f}"
    section = section_text(figures, under)
    if arguments.no_write:
        print(section)
    else:
        PAGE.write_text(with_section(PAGE.read_text(), section))


if __name__ == "__main__":
    main()
