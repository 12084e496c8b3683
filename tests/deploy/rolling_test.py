#!/usr/bin/env python3
"""A rolling update: two servers behind Envoy are drained and replaced in turn while clients generate and learn. No stream fails,
no token is lost or repeated, and each adapter goes on: what clients get is what they would have got of one server."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import grpc

from envoy_test import answers, start_envoy
from support import ROOT, eventually, tool

sys.path.insert(0, str(ROOT / "tests/e2e"))
from harness import CLIENT, PATIENCE_SECONDS, Server  # noqa: E402

BOOK = ROOT / "docs/demo/the-lawton-girl.txt"
CLIENTS = 3
TOKENS = 500
FLAGS = ("--slots=4", "--window_tokens=512", "--max_rank=16", "--chunk_tokens=64", "--context_tokens=64", "--deterministic",
         "--log_level=warning", "--drain_timeout=500ms")


def start_client(folder, address, number, *flags):
    """Reads a piece of a book, then generates; a piece and a seed of its own."""
    text = folder / f"text-{number}.txt"
    text.write_text(BOOK.read_text()[1500 * number:1500 * (number + 1)])
    return subprocess.Popen([CLIENT, "generate", f"--file={text}", f"--max_tokens={TOKENS}", "--ignore_eos", "--temperature=1",
                             f"--seed={number}", "--json", f"--server={address}", *flags],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(client):
    """All that a client was told, without what depends on where and when: its tokens, its text, its updates; and its moves."""
    out, err = client.communicate(timeout=PATIENCE_SECONDS)
    assert client.returncode == 0, err
    text, tokens, updates, summary = "", [], [], None
    for line in map(json.loads, out.splitlines()):
        if line["type"] == "delta":
            text += line.get("text", "")
            tokens += [(token["id"], token["logprob"]) for token in line.get("tokens", [])]
        elif line["type"] == "update":
            updates.append((line["chunk_index"], line["outcome"], line["losses"], line["adapter_version"]))
        elif line["type"] == "summary":
            summary = line
    return (text, tokens, updates, summary["finish_reason"]), summary["moves"]


class RollingTest(unittest.TestCase):
    def setUp(self):
        tool("envoy")
        self.stack = self.enterContext(contextlib.ExitStack())
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "keys").write_text("42" * 32 + "\n")
        (self.folder / "store").mkdir()

    def start(self, **addresses):
        server = Server(*FLAGS, f"--snapshot_key_file={self.folder}/keys", f"--snapshot_store={self.folder}/store", **addresses)
        self.stack.callback(server.kill)
        return server

    def replace(self, server):
        """Drains the server as Kubernetes would, and puts another in its place."""
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 0)
        return self.start(listen=server.address, health_listen=server.health)

    def test_clients_see_one_stream_while_every_server_is_replaced(self):
        servers = [self.start() for _ in range(2)]
        expected = [result(start_client(self.folder, servers[0].address, number)) for number in range(CLIENTS)]
        for (text, tokens, updates, _), _ in expected:
            self.assertEqual(len(tokens), TOKENS)
            self.assertGreater(len(updates), TOKENS // 64)
            self.assertTrue(text)

        address = start_envoy(self.stack, servers)
        with grpc.insecure_channel(address) as channel:
            eventually(lambda: answers(channel), "envoy finds a server")
        clients = [start_client(self.folder, address, number, "--resume") for number in range(CLIENTS)]
        eventually(lambda: sum(4 - server.free_slots() for server in servers) == CLIENTS, "all clients are in")
        for i, server in enumerate(servers):
            servers[i] = self.replace(server)
        seen = [result(client) for client in clients]
        self.assertEqual([told for told, _ in seen], [told for told, _ in expected])
        # Each client's first server was one of the two.
        self.assertTrue(all(moves >= 1 for _, moves in seen), seen)


if __name__ == "__main__":
    unittest.main()
