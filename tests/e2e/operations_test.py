"""What operators rely on: starting, probes, metrics, reflection, draining, stopping."""

import pathlib
import signal
import socket
import subprocess
import tempfile
import unittest

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

from harness import MODEL, PATIENCE_SECONDS, SERVER, Server, Stream, admin_grpc, admin_pb, pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def start(*flags):
    return Server("--slots=2", "--window_tokens=256", "--max_rank=16", "--chunk_tokens=64",
                  "--context_tokens=64", "--log_level=warning", *flags)


def health(address, service):
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_SECONDS).status


class RunningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = start()
        cls.addClassCleanup(cls.server.kill)

    def test_the_process_has_the_programs_name(self):
        name = pathlib.Path(f"/proc/{self.server.process.pid}/comm").read_text()
        self.assertEqual(name, "mayflyd\n")

    def test_probes(self):
        self.assertEqual(self.server.get("/healthz")[0], 200)
        self.assertEqual(self.server.get("/readyz")[0], 200)
        for address in (self.server.address, self.server.health):
            for service in ("", "mayfly.v1.InferenceService", "readiness", "liveness"):
                self.assertEqual(health(address, service), SERVING)

    def test_metrics_are_well_formed(self):
        status, text = self.server.get("/metrics")
        self.assertEqual(status, 200)
        described = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
        typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        self.assertEqual(described, typed)
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            float(line.rsplit(" ", 1)[1])
            name = line.split("{")[0].split(" ")[0]
            family = name
            for suffix in ("_bucket", "_sum", "_count"):
                if name not in typed and name.endswith(suffix):
                    family = name.removesuffix(suffix)
            self.assertIn(family, typed)
        self.assertEqual(self.server.free_slots(), 2)
        self.assertEqual(self.server.metric("mayfly_engine_healthy"), 1)
        self.assertGreater(self.server.metric("process_resident_memory_bytes"), 1e6)

    def test_metrics_count_a_session(self):
        with self.server.channel() as channel, Stream(channel) as stream:
            stream.open()
            stream.append("Hello, world.")
            stream.generate(max_tokens=3, ignore_eos=True)
            self.assertEqual(self.server.metric("mayfly_sessions_active"), 1)
            stream.half_close()
            stream.rest()
        self.assertEqual(self.server.metric('mayfly_tokens_total{kind="generated"}'), 3)
        self.assertEqual(self.server.metric("mayfly_sessions_opened_total"), 1)
        self.assertEqual(self.server.metric("mayfly_time_to_first_token_seconds_count"), 1)
        series = 'grpc_server_handled_total{grpc_method="Session",grpc_code="OK"}'
        self.assertEqual(self.server.metric(series), 1)

    def test_services_are_listed_and_called_through_reflection(self):
        with self.server.channel() as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            self.assertLessEqual({"mayfly.v1.InferenceService", "grpc.health.v1.Health"},
                                 set(database.get_services()))
            pool = descriptor_pool.DescriptorPool(database)
            session = pool.FindServiceByName("mayfly.v1.InferenceService").methods_by_name["Session"]
            self.assertTrue(session.client_streaming and session.server_streaming)

            check = pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Check"]
            request = message_factory.GetMessageClass(check.input_type)(service="readiness")
            answer = message_factory.GetMessageClass(check.output_type)
            call = channel.unary_unary("/grpc.health.v1.Health/Check",
                                       request_serializer=lambda message: message.SerializeToString(),
                                       response_deserializer=answer.FromString)
            self.assertEqual(call(request).status, SERVING)


class StoppingTest(unittest.TestCase):
    def test_an_idle_server_stops_at_once(self):
        self.assertEqual(start("--drain_timeout=1h").stop(), 0)

    def test_a_drain_lets_open_streams_finish(self):
        server = start("--drain_timeout=1h")
        self.addCleanup(server.kill)
        with server.channel() as channel, Stream(channel) as stream:
            stream.open()
            server.signal(signal.SIGTERM)
            stream.next("draining")
            self.assertEqual(server.get("/readyz")[0], 503)
            self.assertEqual(server.get("/healthz")[0], 200)
            self.assertEqual(health(server.health, "readiness"), NOT_SERVING)
            self.assertEqual(health(server.health, "liveness"), SERVING)
            with Stream(channel) as late:
                late.send(open=pb.Open())
                self.assertEqual(late.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertGreater(stream.append("Still served.").tokens, 0)
            stream.half_close()
            stream.rest()
            self.assertEqual(stream.call.code(), grpc.StatusCode.OK)
        self.assertEqual(server.wait(), 0)

    def test_a_drain_ends_streams_at_its_deadline(self):
        server = start("--drain_timeout=0.2s")
        self.addCleanup(server.kill)
        with server.channel() as channel, Stream(channel) as stream:
            stream.open()
            server.signal(signal.SIGTERM)
            self.assertEqual(stream.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(server.wait(), 0)

    def test_an_operators_drain_ends_as_a_signal_does_and_outlasts_one(self):
        server = start("--drain_timeout=1h")
        self.addCleanup(server.kill)
        with server.channel() as channel, Stream(channel) as stream:
            session_id = stream.open().session_id
            admin = admin_grpc.AdminServiceStub(channel)
            answer = admin.Drain(admin_pb.DrainRequest(), timeout=PATIENCE_SECONDS)
            self.assertEqual(answer.open_sessions, 1)
            stream.next("draining")
            server.signal(signal.SIGTERM)
            sessions = admin.ListSessions(admin_pb.ListSessionsRequest(), timeout=PATIENCE_SECONDS)
            self.assertEqual([info.session_id for info in sessions.sessions], [session_id])
            self.assertGreater(stream.append("Still served.").tokens, 0)
            stream.half_close()
            stream.rest()
        self.assertEqual(server.wait(), 0)

    def test_a_second_signal_ends_at_once(self):
        server = start("--drain_timeout=1h")
        self.addCleanup(server.kill)
        with server.channel() as channel, Stream(channel) as stream:
            stream.open()
            server.signal(signal.SIGTERM)
            stream.next("draining")
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 128 + signal.SIGTERM)


class StartingTest(unittest.TestCase):
    def refused(self, *flags):
        """Exit status and the one line on stderr of a server that does not start."""
        result = subprocess.run([str(SERVER), *flags], capture_output=True, text=True,
                                timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(result.stdout, "")
        lines = [line for line in result.stderr.splitlines() if line.startswith("mayflyd: ")]
        self.assertEqual(len(lines), 1, result.stderr)
        return result.returncode, lines[0]

    def test_bad_configuration(self):
        for flag in ("--slots=0", "--device=abacus", "--listen=0.0.0.0:0", "--no_such_flag=1",
                     "--rank=0", "--dropout=2"):
            with self.subTest(flag):
                status, line = self.refused(f"--model={MODEL}", flag)
                self.assertEqual(status, 2)
                self.assertIn(flag.strip("-").split("=")[0], line)

    def test_files_that_secure_the_server(self):
        with tempfile.TemporaryDirectory() as folder:
            missing = f"{folder}/none"
            tokens = pathlib.Path(folder) / "tokens"
            tokens.write_text("lonely-token\n")
            for flags, named in (
                    ((f"--tls_cert={missing}", f"--tls_key={missing}"), f"--tls_cert={missing}"),
                    ((f"--auth_tokens_file={tokens}",), f"--auth_tokens_file={tokens}: line 1")):
                with self.subTest(flags):
                    status, line = self.refused(f"--model={MODEL}", *flags)
                    self.assertEqual(status, 2)
                    self.assertIn(named, line)
                    self.assertNotIn("lonely", line)

    def test_no_model(self):
        self.assertEqual(self.refused()[0], 2)

    def test_a_model_that_is_not_there(self):
        status, line = self.refused("--model=/no/such/model")
        self.assertEqual(status, 1)
        self.assertIn("/no/such/model", line)

    def test_a_truncated_model(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in MODEL.iterdir():
                if path.suffix != ".safetensors":
                    (pathlib.Path(folder) / path.name).symlink_to(path.resolve())
                    continue
                with path.open("rb") as file:
                    (pathlib.Path(folder) / path.name).write_bytes(file.read(1 << 20))
            status, line = self.refused(f"--model={folder}")
        self.assertEqual(status, 1)
        self.assertIn(".safetensors", line)

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flag in ("listen", "http_listen"):
                with self.subTest(flag):
                    flags = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", flag: address}
                    status, line = self.refused(
                        f"--model={MODEL}", "--slots=1", "--window_tokens=64", "--max_rank=1",
                        "--chunk_tokens=16", "--context_tokens=16", "--rank=1",
                        *(f"--{name}={value}" for name, value in flags.items()))
                    self.assertEqual(status, 1)
                    self.assertIn(address, line)

    def test_help_and_version(self):
        for flag, expected in (("--help", "--drain_timeout"), ("--version", "mayflyd ")):
            result = subprocess.run([str(SERVER), flag], capture_output=True, text=True,
                                    timeout=PATIENCE_SECONDS, check=True)
            self.assertIn(expected, result.stdout)
            self.assertEqual(result.stderr, "")


if __name__ == "__main__":
    unittest.main()
