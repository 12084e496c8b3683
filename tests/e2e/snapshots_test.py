"""Sessions that leave a server: with a snapshot of their own, or handed over when it drains."""

import pathlib
import signal
import subprocess
import tempfile
import unittest

import grpc

from harness import CLIENT, MODEL, PATIENCE_SECONDS, ROOT, SERVER, Server, Stream, options_pb2, pb

TEXT = (ROOT / "docs/demo/the-lawton-girl.txt").read_text()
# Some updates of 64 tokens, and a rest.
BEFORE, AFTER = TEXT[:1200], TEXT[1200:1500]
ADAPTATION = options_pb2.AdaptationOptions(mode=options_pb2.MODE_CASCADED)


class SnapshotsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mayfly-e2e-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "keys").write_text("5a" * 32 + "\n")
        (self.folder / "store").mkdir()

    def start(self, *flags):
        server = Server("--slots=2", "--window_tokens=256", "--max_rank=16", "--chunk_tokens=64",
                        "--context_tokens=64", "--deterministic", "--log_level=warning",
                        f"--snapshot_key_file={self.folder}/keys",
                        f"--snapshot_store={self.folder}/store", *flags)
        self.addCleanup(server.kill)
        return server

    def open_cold(self, stream):
        stream.open(adaptation=ADAPTATION, seed=11)

    def go_on(self, stream):
        """What a session makes of AFTER; a resumed one must make the same of it."""
        appended = stream.append(AFTER, score=True)
        text, tokens, generated = stream.generate(
            max_tokens=24, sampling=options_pb2.SamplingOptions(temperature=1))
        scores = [(token.id, token.logprob) for token in tokens]
        stream.half_close()
        closed = stream.next("closed").closed
        return (appended.nll, text, scores, generated.usage.trained_tokens, closed.usage,
                closed.updates, closed.updates_applied)

    def uninterrupted(self, server):
        with server.channel() as channel, Stream(channel) as stream:
            self.open_cold(stream)
            stream.append(BEFORE)
            return self.go_on(stream)

    def cold(self, server):
        with server.channel() as channel, Stream(channel) as stream:
            self.open_cold(stream)
            return self.go_on(stream)

    def resumed(self, server, **fields):
        with server.channel() as channel, Stream(channel) as stream:
            stream.open(**fields)
            return self.go_on(stream)

    def test_a_session_handed_over_goes_on_elsewhere_as_if_nothing_had_been(self):
        first, second = self.start("--drain_timeout=1ms"), self.start()
        expected = self.uninterrupted(first)
        with first.channel() as channel, Stream(channel) as stream:
            self.open_cold(stream)
            stream.append(BEFORE)
            first.signal(signal.SIGTERM)
            token = ""
            while not token:
                token = stream.next("draining").draining.resume_token
            stream.next("closed")
            self.assertEqual(stream.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(first.wait(), 0)
        self.assertEqual(self.resumed(second, resume_token=token), expected)
        self.assertNotEqual(self.cold(second), expected)

    def mayfly(self, server, *arguments):
        """Output of a client's command, which succeeds."""
        done = subprocess.run([CLIENT, *arguments, f"--server={server.address}"], capture_output=True, text=True,
                              timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_the_client_keeps_a_session_in_a_file_and_goes_on_from_it(self):
        server = self.start()
        (self.folder / "text").write_text(BEFORE)
        generation = ("--max_tokens=16", "--ignore_eos", "--temperature=1", "--json")
        self.mayfly(server, "score", f"{self.folder}/text", "--seed=5", f"--export_snapshot={self.folder}/kept",
                    f"--export_peft={self.folder}/adapter")
        self.assertEqual({path.name for path in (self.folder / "adapter").iterdir()},
                         {"adapter_config.json", "adapter_model.safetensors"})
        self.assertFalse(list(self.folder.glob("*.part")))
        rest = self.mayfly(server, "generate", "--prompt= Then", f"--resume_from={self.folder}/kept", *generation)
        self.assertIn('"type":"delta"', rest.replace(" ", ""))
        self.assertEqual(server.metric('mayfly_resumes_total{outcome="ok"}'), 1)

    def test_a_key_file_that_cannot_be_used_is_named_before_the_model_is_loaded(self):
        (self.folder / "keys").write_text("not a key\n")
        done = subprocess.run(
            [SERVER, f"--model={MODEL}", f"--snapshot_key_file={self.folder}/keys"],
            capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"--snapshot_key_file={self.folder}/keys: line 1", done.stderr)

    def test_a_store_that_cannot_be_used_is_named(self):
        done = subprocess.run(
            [SERVER, f"--model={MODEL}", f"--snapshot_key_file={self.folder}/keys",
             f"--snapshot_store={self.folder}/keys"],
            capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--snapshot_store: ", done.stderr)


if __name__ == "__main__":
    unittest.main()
