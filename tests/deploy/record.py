#!/usr/bin/env python3
"""Records what Prometheus would see of a real server at work: tests/deploy/recorded.txt.gz.

    tests/deploy/record.py [--seconds N]     about N seconds; the queries of dashboard and rules are checked against it

A server with three rows, a certificate and a token reads a book, continues texts, lets clients wait and turns them away; its
metrics are kept as they were scraped, each scrape behind a line `# scraped at UNIX_SECONDS`.
"""

import argparse
import gzip
import itertools
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MAYFLY_BIN", ROOT / "build/bin"))
MODEL = ROOT / "models/smollm2-135m-instruct"
BOOK = ROOT / "docs/demo/the-lawton-girl.txt"
RECORDED = pathlib.Path(__file__).with_name("recorded.txt.gz")

SCRAPE_SECONDS = 15
SERVER_FLAGS = ("--slots=3", "--window_tokens=1024", "--max_rank=16", "--chunk_tokens=256", "--context_tokens=256",
                "--log_level=warning", "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--admission_wait=5s",
                "--max_tokens_per_minute_per_tenant=6000")
CLIENTS = (
    ("score", BOOK, "--compare_base", "--receipt=on", "--max_tokens=4096"),
    ("generate", "--prompt=It was a dark and stormy night", "--max_tokens=400", "--ignore_eos", "--mode=parallel",
     "--max_lag_chunks=1"),
    ("generate", "--prompt=The river rose", "--max_tokens=120", "--adaptation=off", "--logprobs=1"),
    ("generate", "--prompt=Once", "--max_tokens=32"),  # finds no row most of the time
)


def make_secrets(folder):
    """Flags of the server and of its clients for a certificate and a token made in this folder."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
                    "-out", folder / "cert.pem"], check=True, capture_output=True)
    (folder / "tokens").write_text("recorded acme\n")
    (folder / "token").write_text("recorded\n")
    return ((f"--tls_cert={folder}/cert.pem", f"--tls_key={folder}/key.pem", f"--auth_tokens_file={folder}/tokens"),
            (f"--tls_ca={folder}/cert.pem", f"--token_file={folder}/token"))


def start_server(flags):
    server = subprocess.Popen([BIN / "mayflyd", f"--model={MODEL}", *SERVER_FLAGS, *flags], stdout=subprocess.PIPE, text=True)
    return server, *re.search(r"listening on (\S+), http (\S+)", server.stdout.readline()).groups()


def keep_calling(address, command, stop):
    """One client after the other, each with a seed of its own; the last one is interrupted."""
    for seed in itertools.count():
        client = subprocess.Popen([BIN / "mayfly", *command, f"--server={address}", f"--seed={seed}"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while client.poll() is None and not stop.is_set():
            stop.wait(0.2)
        if stop.wait(1):
            client.terminate()
            return client.wait()


def scrape(http):
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        return answer.read().decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=360)
    seconds = parser.parse_args().seconds
    folder = tempfile.TemporaryDirectory(prefix="mayfly-record-")
    server_flags, client_flags = make_secrets(pathlib.Path(folder.name))
    server, address, http = start_server(server_flags)
    stop = threading.Event()
    clients = [threading.Thread(target=keep_calling, args=(address, (*command, *client_flags), stop)) for command in CLIENTS]
    scrapes = []
    try:
        for begin in range(0, seconds, SCRAPE_SECONDS):
            scrapes.append(f"# scraped at {time.time():.3f}\n{scrape(http)}")
            if begin == 0:  # the first scrape is of an idle server: counters start at zero
                for client in clients:
                    client.start()
            time.sleep(SCRAPE_SECONDS)
    finally:
        stop.set()
        server.terminate()
        for client in clients:
            client.join()
        server.wait()
        folder.cleanup()
    with gzip.GzipFile(RECORDED, "wb", mtime=0) as file:
        file.write("".join(scrapes).encode())
    print(f"{RECORDED.name}: {len(scrapes)} scrapes, {RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
