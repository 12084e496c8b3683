"""A session of the real server that learns beside its own generation, while another one reads."""

import unittest

import grpc

from harness import Server, Stream, options_pb2, pb

ROWS = 2
CHUNK = 32
LAG = 2
TEXT = (
    "The harbour lay quiet in the early light, and the boats that had come in with the tide stood on "
    "the sand with their nets hung out to dry. A man with a lamp went from one to the next. He read "
    "each name aloud, wrote it in a book, and shook his head when he came to the last of them. ")

server = None


def setUpModule():
    global server
    # One thread a side: teams that spin for each other on a busy machine lose ten times the time.
    server = Server(f"--slots={ROWS}", "--threads=1", "--window_tokens=512", "--max_rank=16",
                    f"--chunk_tokens={CHUNK}", f"--context_tokens={CHUNK}", "--log_level=warning")


def tearDownModule():
    server.kill()


def open_parallel(stream, **adaptation):
    return stream.open(seed=5, adaptation=options_pb2.AdaptationOptions(
        mode=options_pb2.MODE_PARALLEL, max_lag_chunks=LAG, gate=False, **adaptation))


def generate(stream, count):
    stream.send(generate=pb.Generate(max_tokens=count, ignore_eos=True))


class ParallelTest(unittest.TestCase):
    def setUp(self):
        self.channel = server.channel()
        self.addCleanup(server.wait_for_free_slots, ROWS)
        self.addCleanup(self.channel.close)

    def read(self, events):
        """Checks a stream's events in order; returns the versions that drew its tokens, each with the
        chunks that were complete then, and its updates."""
        position, version, stamps, updates = 0, 0, [], []
        for event in events:
            kind = event.WhichOneof("event")
            self.assertNotEqual(kind, "error", event)
            if kind == "appended" and event.appended.done:
                position += event.appended.tokens
            elif kind == "delta":
                for token in event.delta.tokens:
                    self.assertGreaterEqual(token.adapter_version, version, "a version went back")
                    version = token.adapter_version
                    stamps.append((version, position // CHUNK))
                    position += 1
            elif kind == "update":
                updates.append(event.update)
        return stamps, updates

    def check_updates(self, updates):
        for index, update in enumerate(updates):
            self.assertEqual(update.outcome, pb.UPDATE_OUTCOME_APPLIED, update.reason)
            self.assertEqual(update.chunk_index, index)
            self.assertEqual(update.adapter_version, index + 1)
            self.assertEqual(update.tokens, CHUNK)
            self.assertEqual(update.merged_chunks, 1)
            self.assertIn(update.lag_chunks, range(1, LAG + 2))

    def test_a_session_learns_beside_its_generation(self):
        beside = 'mayfly_inter_token_latency_seconds_count{training="on"}'
        before = server.metric(beside)
        with Stream(self.channel) as stream, Stream(self.channel) as reader:
            opened = open_parallel(stream)
            self.assertEqual(opened.adaptation.mode, options_pb2.MODE_PARALLEL)
            self.assertEqual(opened.adaptation.max_lag_chunks, LAG)
            open_parallel(reader)

            reader.send(append=pb.Append(text=TEXT * 3, score=True))
            stream.send(append=pb.Append(text=TEXT))
            generate(stream, 4 * CHUNK)
            stream.send(append=pb.Append(text=TEXT, score=True))
            generate(stream, 2 * CHUNK)
            for one in (stream, reader):
                one.half_close()

            events = stream.rest()
            stamps, updates = self.read(events)
            self.assertEqual(len(stamps), 6 * CHUNK)
            lags = [complete - version for version, complete in stamps]
            self.assertGreater(max(lags), 0, "no token was drawn while a chunk was learned")
            self.assertLessEqual(max(lags), LAG)
            self.check_updates(updates)
            self.assertGreaterEqual(len(updates), 6)

            closed = events[-1].closed
            reserved = opened.reserved_bytes
            self.assertEqual(closed.updates, len(updates))
            self.assertEqual(closed.updates_applied, len(updates))
            self.assertEqual(closed.freed_bytes,
                             reserved.kv + reserved.adapter + reserved.optimizer)
            self.assertEqual(stream.call.code(), grpc.StatusCode.OK)

            _, updates = self.read(reader.rest())
            self.check_updates(updates)
            self.assertGreater(len(updates), 0)
        self.assertGreater(server.metric(beside), before)

    def test_without_lag_every_token_waits_for_its_update(self):
        with Stream(self.channel) as stream:
            stream.open(adaptation=options_pb2.AdaptationOptions(
                mode=options_pb2.MODE_PARALLEL, max_lag_chunks=0, gate=False))
            stream.send(append=pb.Append(text=TEXT))
            generate(stream, 2 * CHUNK)
            stream.half_close()
            stamps, updates = self.read(stream.rest())
            for version, complete in stamps:
                self.assertEqual(version, complete)
            self.assertGreaterEqual(len(updates), stamps[-1][1])

    def test_a_session_that_is_closed_while_it_learns_gives_its_row_back(self):
        with Stream(self.channel) as stream:
            opened = open_parallel(stream)
            stream.send(append=pb.Append(text=TEXT))
            generate(stream, 400)
            stream.next("update")
            stream.send(close=pb.Close())
            closed = stream.rest()[-1].closed
            reserved = opened.reserved_bytes
            self.assertEqual(closed.freed_bytes,
                             reserved.kv + reserved.adapter + reserved.optimizer)


if __name__ == "__main__":
    unittest.main()
