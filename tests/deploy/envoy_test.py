#!/usr/bin/env python3
"""deploy/envoy before two real servers: streams are spread, outlive their server's drain, and new ones go to the other."""

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import unittest

import grpc
import yaml

from support import DEPLOY, ROOT, eventually, free_port, tool

sys.path.insert(0, str(ROOT / "tests/e2e"))
from harness import Server, Stream, service_grpc, service_pb2  # noqa: E402

FLAGS = ("--slots=2", "--window_tokens=256", "--max_rank=8", "--preset=off", "--threads=1", "--log_level=warning", "--drain_timeout=60s")


def start_envoy(stack, servers):
    """Its address, with deploy/envoy's configuration but for the addresses."""
    config = yaml.safe_load((DEPLOY / "envoy/envoy.yaml").read_text())
    listener = config["static_resources"]["listeners"][0]["address"]["socket_address"]
    listener["port_value"] = free_port()
    [cluster] = config["static_resources"]["clusters"]
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for endpoint, server in zip(endpoints, servers, strict=True):
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = int(server.address.rsplit(":", 1)[1])
        endpoint["endpoint"]["health_check_config"]["port_value"] = int(server.health.rsplit(":", 1)[1])
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen([tool("envoy"), "-c", folder / "envoy.yaml", "--log-level", "error", "--concurrency", "1",
                                "--use-dynamic-base-id"])
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return f"127.0.0.1:{listener['port_value']}"


def answers(channel):
    try:
        return service_grpc.InferenceServiceStub(channel).GetServerInfo(service_pb2.GetServerInfoRequest(), timeout=5)
    except grpc.RpcError:
        return None


class EnvoyTest(unittest.TestCase):
    def setUp(self):
        tool("envoy")
        stack = self.enterContext(contextlib.ExitStack())
        self.servers = [Server(*FLAGS) for _ in range(2)]
        for server in self.servers:
            stack.callback(server.kill)
        address = start_envoy(stack, self.servers)
        self.channel = stack.enter_context(grpc.insecure_channel(address))
        eventually(lambda: answers(self.channel), "envoy finds a server")

    def open(self, stack):
        stream = stack.enter_context(Stream(self.channel))
        stream.open()
        return stream

    def test_streams_are_spread_and_a_draining_server_keeps_its_own_and_gets_no_others(self):
        with contextlib.ExitStack() as stack:
            streams = [self.open(stack) for _ in range(2)]
            self.assertEqual([server.free_slots() for server in self.servers], [1, 1])

            leaving, staying = self.servers
            leaving.signal(15)
            eventually(lambda: leaving.get("/readyz")[0] == 503, "the first server drains")
            third = eventually(lambda: self.open_on(staying, stack), "a new stream finds the server that stays")
            for stream in (*streams, third):
                self.assertTrue(stream.append("The river rose in the night.").done)
                stream.half_close()
                stream.next("closed")
            self.assertEqual(leaving.wait(), 0)

    def open_on(self, server, stack):
        """A new stream; nothing while Envoy still sends it to the other server."""
        try:
            stream = self.open(stack)
        except grpc.RpcError:
            return None
        self.assertEqual(server.free_slots(), 0)
        return stream


if __name__ == "__main__":
    unittest.main()
