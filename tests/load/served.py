"""The real server for the measurements of this folder."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/bench"))
from measurements import BIN, MODEL, THREADS  # noqa: E402


@contextlib.contextmanager
def server(*flags):
    """On ports of its own choice, with rank 16; gives its process, its address and that of its metrics."""
    command = [BIN / "mayflyd", "--model", MODEL, "--listen", "127.0.0.1:0", "--http_listen", "127.0.0.1:0"]
    command += ["--max_rank", 16, "--threads", THREADS, "--log_level", "warning", *flags]
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        addresses = re.findall(r"127\.0\.0\.1:\d+", process.stdout.readline())
        if len(addresses) != 2:
            sys.exit("the server did not start")
        yield process, *addresses
    finally:
        process.terminate()
        process.wait()
