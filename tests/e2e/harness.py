"""Starts the real server and talks to it with a client that is not ours: Python's grpcio, generated
from the public contract."""

import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = pathlib.Path(os.environ.get("MAYFLYD", ROOT / "build/bin/mayflyd"))
CLIENT = pathlib.Path(os.environ.get("MAYFLY", ROOT / "build/bin/mayfly"))
MODEL = pathlib.Path(os.environ.get("MAYFLY_E2E_MODEL", ROOT / "models/smollm2-135m-instruct"))

# Far longer than anything here takes; a test that meets it has failed.
PATIENCE_SECONDS = 120


def generate_stubs():
    """Compiles the contract into a temporary folder and imports it."""
    folder = tempfile.TemporaryDirectory(prefix="mayfly-e2e-")
    protos = [str(path) for path in sorted((ROOT / "proto/mayfly/v1").glob("*.proto"))]
    status = protoc.main(
        ["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={folder.name}",
         f"--grpc_python_out={folder.name}", *protos])
    if status != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, folder.name)
    return folder


_stubs = generate_stubs()
from mayfly.v1 import admin_service_pb2 as admin_pb  # noqa: E402
from mayfly.v1 import admin_service_pb2_grpc as admin_grpc  # noqa: E402
from mayfly.v1 import inference_service_pb2 as service_pb2  # noqa: E402
from mayfly.v1 import inference_service_pb2_grpc as service_grpc  # noqa: E402
from mayfly.v1 import options_pb2  # noqa: E402
from mayfly.v1 import session_pb2 as pb  # noqa: E402


def stubs_folder():
    """Where other processes find the compiled contract."""
    return _stubs.name


def eventually(condition, what):
    """Waits until `condition` holds; returns its value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
    raise AssertionError(f"never happened: {what}")


class Server:
    """One mayflyd, on ports of the system's choice unless `listen` and `health_listen` name others. Ready
    when the constructor returns."""

    def __init__(self, *flags, listen="127.0.0.1:0", health_listen="127.0.0.1:0"):
        self.process = subprocess.Popen(
            [str(SERVER), f"--model={MODEL}", f"--listen={listen}", "--http_listen=127.0.0.1:0",
             f"--health_listen={health_listen}", *flags],
            stdout=subprocess.PIPE, stderr=None, text=True)
        line = self.process.stdout.readline()
        addresses = re.fullmatch(
            r"mayflyd listening on (\S+), http (\S+), health (\S+)\n", line)
        if addresses is None:
            self.kill()
            raise RuntimeError(f"the server did not start: {line!r}")
        self.address, self.http, self.health = addresses.groups()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """The exit status, once the server has ended."""
        status = self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        return status

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def get(self, path):
        """Status and body of an HTTP request."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name):
        """The value of one series, named as in the exposition format."""
        status, text = self.get("/metrics")
        assert status == 200, status
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def free_slots(self):
        return self.metric('mayfly_slots{state="free"}')

    def wait_for_free_slots(self, count):
        eventually(lambda: self.free_slots() == count, f"{count} free rows")

    def channel(self):
        # A connection of its own, so that tests do not meet in one.
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])


class Stream:
    """One session's stream; leaving its `with` block cancels the call."""

    def __init__(self, channel, timeout=PATIENCE_SECONDS):
        self._requests = queue.SimpleQueue()
        self._last_id = 0
        self.call = service_grpc.InferenceServiceStub(channel).Session(
            iter(self._requests.get, None), timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call.cancel()
        self._requests.put(None)

    def send(self, **command):
        """Sends one command; returns its request id."""
        self._last_id += 1
        self._requests.put(pb.SessionRequest(request_id=self._last_id, **command))
        return self._last_id

    def half_close(self):
        self._requests.put(None)

    def next(self, kind):
        """The next event of this kind, past all others."""
        for response in self.call:
            if response.WhichOneof("event") == kind:
                return response
        raise AssertionError(f"the stream ended before any {kind}")

    def rest(self):
        """Every event until the stream ends well."""
        return list(self.call)

    def code(self):
        """The status code with which the stream ends."""
        try:
            self.rest()
        except grpc.RpcError:
            pass
        return self.call.code()

    def open(self, **fields):
        self.send(open=pb.Open(**fields))
        return self.next("opened").opened

    def append(self, text, **fields):
        """Appends text; returns the append's last event."""
        request_id = self.send(append=pb.Append(text=text, **fields))
        while True:
            response = self.next("appended")
            assert response.request_id == request_id
            if response.appended.done:
                return response.appended

    def export(self, **fields):
        """Exports; returns the files by name."""
        self.send(export=pb.Export(**fields))
        files = {}
        while True:
            part = self.next("exported").exported
            files[part.file] = files.get(part.file, b"") + part.data
            if part.done:
                return files

    def generate(self, **fields):
        """Generates; returns the text, its tokens and the last event."""
        self.send(generate=pb.Generate(**fields))
        text, tokens = "", []
        for response in self.call:
            kind = response.WhichOneof("event")
            if kind == "delta":
                text += response.delta.text
                tokens += response.delta.tokens
            if kind == "generated":
                return text, tokens, response.generated
            assert kind != "error", response.error
        raise AssertionError("the stream ended in the middle of a generation")
