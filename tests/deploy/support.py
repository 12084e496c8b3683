"""What the tests of deploy/ and docker/ share: where things are, how tools are run, and a Prometheus that sees a recording."""

import contextlib
import gzip
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/mayfly"
RULES = DEPLOY / "prometheus/mayfly.rules.yaml"
ALERTS = DEPLOY / "prometheus/mayfly.alerts.yaml"
DASHBOARD = DEPLOY / "grafana/mayfly.json"
RECORDED = pathlib.Path(__file__).with_name("recorded.txt.gz")

# Far longer than anything here takes.
PATIENCE_SECONDS = 120
METRIC = re.compile(r"\b(?:mayfly|grpc_server|process)_[a-z_]+\b")


def tool(name):
    """The path of a program; skips the test where there is none, and fails it under ./dev check-deploy."""
    path = shutil.which(name)
    if path is None and "MAYFLY_CHECK_DEPLOY" in os.environ:
        raise AssertionError(f"{name} is not installed")
    if path is None:
        raise unittest.SkipTest(f"no {name} here; ./dev check-deploy installs it")
    return path


def run(*command, **options):
    """Output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def all_rules(path):
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alert_names():
    return {rule["alert"] for rule in all_rules(ALERTS)}


def record_names():
    return {rule["record"] for rule in all_rules(RULES)}


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def family(series, suffixes=("_bucket", "_sum", "_count")):
    """mayfly_x_seconds of mayfly_x_seconds_bucket."""
    for suffix in suffixes:
        if series.endswith(suffix):
            return series.removesuffix(suffix)
    return series


def table_metrics():
    """Names in the server's table of metrics."""
    return set(re.findall(r'^ +{"([a-z_]+)", k(?:Counter|Gauge|Histogram)', (ROOT / "server/metrics_table.cc").read_text(), re.M))


def scrapes():
    text = gzip.decompress(RECORDED.read_bytes()).decode()
    return re.split(r"^# scraped at .*\n", text, flags=re.M)[1:]


def eventually(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Replay(http.server.ThreadingHTTPServer):
    """Serves the recorded scrapes one after the other, then the last one for ever."""

    def __init__(self):
        self.remaining = scrapes()
        super().__init__(("127.0.0.1", 0), _ReplayHandler)


class _ReplayHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802  (http.server's name)
        remaining = self.server.remaining
        body = (remaining.pop(0) if len(remaining) > 1 else remaining[0]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Prometheus:
    """A real one, with the rules of deploy/prometheus, that has scraped the whole recording, one scrape each second."""

    # The recording's time runs this many times faster: it was scraped every 15 s.
    SCRAPE_SECONDS = 1

    @classmethod
    @contextlib.contextmanager
    def that_saw_the_recording(cls):
        with contextlib.ExitStack() as stack:
            replay = stack.enter_context(Replay())
            threading.Thread(target=replay.serve_forever, daemon=True).start()
            stack.callback(replay.shutdown)
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield cls(stack, folder, replay)

    def __init__(self, stack, folder, replay):
        for path in (RULES, ALERTS):
            shutil.copy(path, folder)
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": f"{self.SCRAPE_SECONDS}s", "evaluation_interval": "1s"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / "targets.yaml").write_text(yaml.safe_dump([{
            "targets": [f"127.0.0.1:{replay.server_port}"], "labels": {"namespace": "serving", "pod": "mayfly-0"}}]))
        self.url = f"http://127.0.0.1:{free_port()}"
        process = subprocess.Popen(
            [tool("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=error"])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        eventually(lambda: len(replay.remaining) == 1, "the last scrape")
        wanted = record_names()
        eventually(lambda: wanted <= set(self.names()), "every recording rule has a value")

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["data"]

    def names(self):
        return self.get("label/__name__/values")

    def query(self, expression):
        """Labels and value of each sample, now."""
        return [(sample["metric"], float(sample["value"][1])) for sample in self.get("query", query=expression)["result"]]
