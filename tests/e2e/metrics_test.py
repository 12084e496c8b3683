"""What /metrics says of a server under load is what its clients saw."""

import collections
import random
import re
import threading
import unittest

from harness import Server, Stream, options_pb2, pb

CLIENTS = 5
SESSIONS = 2
WORDS = "the river rose in the night and nobody knew why it had not rained".split()


class Seen:
    """What all clients have seen, added up."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.Counter()

    def add(self, **counts):
        with self.lock:
            self.counts.update(counts)


def live(server, seed, seen):
    """One session: reads, learns, generates, cancels, exports, and ends."""
    choose = random.Random(seed)
    with server.channel() as channel, Stream(channel) as stream:
        stream.open(adaptation=options_pb2.AdaptationOptions(rank=4, chunk_tokens=32, context_tokens=32), seed=seed)
        for _ in range(3):
            stream.append(" ".join(choose.choices(WORDS, k=40)), score=choose.random() < 0.5)
            _, tokens, generated = stream.generate(max_tokens=choose.randint(1, 12), ignore_eos=True)
            seen.add(appends=1, generations=1, generated=len(tokens), gaps=len(tokens) - 1)
            assert generated.usage.generated_tokens == len(tokens)
        stream.export(format=pb.EXPORT_FORMAT_PEFT)
        stream.half_close()
        events = stream.rest()
        closed = events[-1].closed
        seen.add(sessions=1, exports=1, updates=closed.updates, applied=closed.updates_applied,
                 prompt=closed.usage.prompt_tokens, trained=closed.usage.trained_tokens)


class LoadedMetricsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(f"--slots={CLIENTS}", "--window_tokens=256", "--max_rank=16", "--chunk_tokens=64",
                            "--context_tokens=64", "--log_level=warning")
        cls.addClassCleanup(cls.server.kill)
        seen = Seen()

        def client(number):
            for session in range(SESSIONS):
                live(cls.server, number * SESSIONS + session, seen)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cls.server.wait_for_free_slots(CLIENTS)
        cls.seen = seen.counts
        cls.text = cls.server.get("/metrics")[1]

    def total(self, name, **labels):
        """The sum over the series of this name that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.text.splitlines()
                   if re.match(rf"{name}[ {{]", line) and all(label in line for label in wanted))

    def test_every_session_was_whole(self):
        self.assertEqual(self.seen["sessions"], CLIENTS * SESSIONS)
        self.assertGreater(self.seen["applied"], 0)

    def test_sessions(self):
        for name in ("mayfly_sessions_opened_total", "mayfly_session_duration_seconds_count"):
            self.assertEqual(self.total(name), self.seen["sessions"], name)
        self.assertEqual(self.total("mayfly_sessions_closed_total"), self.seen["sessions"])
        self.assertEqual(self.total("mayfly_sessions_closed_total", reason="half_closed"), self.seen["sessions"])
        self.assertEqual(self.total("mayfly_sessions_active"), 0)
        self.assertEqual(self.total("mayfly_slot_release_seconds_count"), self.seen["sessions"])
        self.assertEqual(self.total("grpc_server_handled_total", grpc_method="Session", grpc_code="OK"), self.seen["sessions"])

    def test_tokens(self):
        for kind in ("prompt", "generated", "trained"):
            self.assertEqual(self.total("mayfly_tokens_total", kind=kind), self.seen[kind], kind)

    def test_commands(self):
        self.assertEqual(self.total("mayfly_request_duration_seconds_count", command="append"), self.seen["appends"])
        self.assertEqual(self.total("mayfly_request_duration_seconds_count", command="generate"), self.seen["generations"])
        self.assertEqual(self.total("mayfly_request_finished_total", reason="length"), self.seen["generations"])
        self.assertEqual(self.total("mayfly_time_to_first_token_seconds_count"), self.seen["generations"])
        self.assertEqual(self.total("mayfly_inter_token_latency_seconds_count"), self.seen["gaps"])
        self.assertEqual(self.total("mayfly_exports_total", outcome="ok"), self.seen["exports"])
        for name in ("mayfly_requests_running", "mayfly_requests_waiting", "mayfly_outbox_events"):
            self.assertEqual(self.total(name), 0, name)

    def test_learning(self):
        self.assertEqual(self.total("mayfly_adapter_updates_total"), self.seen["updates"])
        self.assertEqual(self.total("mayfly_adapter_updates_total", outcome="applied"), self.seen["applied"])
        self.assertEqual(self.total("mayfly_adapter_update_lag_chunks"), 0)

    def test_buckets_are_cumulative_and_end_in_the_count(self):
        series = collections.defaultdict(list)
        for name, labels, bound, value in re.findall(r'(?m)^(\w+)_bucket{(.*?),?le="(.+?)"} (\S+)$', self.text):
            series[name, labels].append((float(bound), float(value)))
        self.assertGreater(len(series), 10)
        for (name, labels), buckets in series.items():
            with self.subTest(name=name, labels=labels):
                self.assertEqual(buckets, sorted(buckets))
                self.assertEqual(buckets[-1][0], float("inf"))
                wanted = dict(re.findall(r'(\w+)="(.*?)"', labels))
                self.assertEqual(buckets[-1][1], self.total(f"{name}_count", **wanted))


if __name__ == "__main__":
    unittest.main()
