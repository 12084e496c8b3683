"""Streams of the real server, from open to every kind of end. Every test begins and ends with all rows
free and no byte reserved."""

import math
import subprocess
import sys
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from harness import Server, Stream, eventually, options_pb2, pb, service_grpc, service_pb2

ROWS = 2
CHUNK = 64
BOOK = (
    "Whether I shall turn out to be the hero of my own life, or whether that station will be held by "
    "anybody else, these pages must show. To begin my life with the beginning of my life, I record "
    "that I was born (as I have been informed and believe) on a Friday, at twelve o'clock at night. "
    "It was remarked that the clock began to strike, and I began to cry, simultaneously. ")

server = None


def setUpModule():
    global server
    server = Server(f"--slots={ROWS}", "--window_tokens=256", "--max_rank=16",
                    f"--chunk_tokens={CHUNK}", f"--context_tokens={CHUNK}", "--log_level=warning")


def tearDownModule():
    server.kill()


class SessionTest(unittest.TestCase):
    def setUp(self):
        server.wait_for_free_slots(ROWS)
        self.channel = server.channel()
        self.addCleanup(self.check_everything_is_given_back)
        self.addCleanup(self.channel.close)

    def check_everything_is_given_back(self):
        server.wait_for_free_slots(ROWS)
        for kind in ("kv", "adapter", "optimizer"):
            series = f'mayfly_pool_bytes{{class="{kind}",state="reserved"}}'
            eventually(lambda: server.metric(series) == 0, f"no {kind} byte reserved")

    def closed(self, reason):
        return server.metric(f'mayfly_sessions_closed_total{{reason="{reason}"}}')

    def expect_closed(self, reason, before):
        eventually(lambda: self.closed(reason) == before + 1, f"a stream closed as {reason}")

    # ---- What a session does

    def test_open_reports_effective_options(self):
        with Stream(self.channel) as stream:
            opened = stream.open(adaptation=options_pb2.AdaptationOptions(rank=8), seed=7)
            self.assertTrue(opened.session_id)
            self.assertEqual(opened.adaptation.rank, 8)
            self.assertEqual(opened.adaptation.chunk_tokens, CHUNK)
            self.assertEqual(opened.adaptation.preset, options_pb2.PRESET_BALANCED)
            self.assertEqual(opened.seed, 7)
            self.assertGreater(opened.reserved_bytes.kv, 0)
            self.assertGreater(opened.reserved_bytes.optimizer, 0)
            self.assertEqual(server.free_slots(), ROWS - 1)

    def test_append_scores_text(self):
        with Stream(self.channel) as stream:
            stream.open()
            appended = stream.append(BOOK[:60], score=True, token_logprobs=True)
            self.assertEqual(appended.scored_tokens, appended.tokens - 1)
            self.assertEqual(len(appended.token_logprobs), appended.tokens)
            self.assertTrue(math.isnan(appended.token_logprobs[0]))
            self.assertAlmostEqual(appended.nll, -sum(appended.token_logprobs[1:]), places=2)

    def test_a_fresh_adapter_scores_as_the_base_does(self):
        with Stream(self.channel) as stream:
            stream.open()
            appended = stream.append(BOOK[:60], compare_base=True)
            self.assertEqual(appended.nll, appended.base_nll)

    def test_generate_streams_text(self):
        with Stream(self.channel) as stream:
            stream.open(sampling=options_pb2.SamplingOptions(temperature=0))
            stream.append("The capital of France is")
            text, tokens, generated = stream.generate(max_tokens=8, ignore_eos=True, logprobs=2)
            self.assertIn("Paris", text)
            self.assertEqual(len(tokens), 8)
            self.assertEqual(generated.finish_reason, pb.FINISH_REASON_LENGTH)
            self.assertEqual(generated.usage.generated_tokens, 8)
            self.assertEqual(len(tokens[0].top), 2)
            self.assertEqual(tokens[0].top[0].id, tokens[0].id)

    def test_generate_ends_before_a_stop_string(self):
        with Stream(self.channel) as stream:
            stream.open(sampling=options_pb2.SamplingOptions(temperature=0))
            stream.append("1, 2, 3, 4,")
            text, _, generated = stream.generate(max_tokens=30, stop=["7"])
            self.assertEqual(generated.finish_reason, pb.FINISH_REASON_STOP)
            self.assertNotIn("7", text)

    def test_messages_go_through_the_chat_template(self):
        with Stream(self.channel) as stream:
            stream.open(sampling=options_pb2.SamplingOptions(temperature=0))
            stream.send(append=pb.Append(messages=pb.Messages(
                messages=[pb.Message(role="user", content="Say hello.")])))
            stream.next("appended")
            text, _, _ = stream.generate(max_tokens=24)
            self.assertIn("hello", text.lower())

    def test_the_same_seed_gives_the_same_text(self):
        texts = set()
        for _ in range(2):
            with Stream(self.channel) as stream:
                stream.open(seed=11)
                stream.append("Once upon a time")
                texts.add(stream.generate(max_tokens=12)[0])
        self.assertEqual(len(texts), 1)

    def test_a_chunk_is_learned_and_its_tokens_say_so(self):
        with Stream(self.channel) as stream:
            stream.open()
            stream.send(append=pb.Append(text=BOOK))
            update = stream.next("update").update
            self.assertEqual(update.outcome, pb.UPDATE_OUTCOME_APPLIED)
            self.assertEqual(update.tokens, CHUNK)
            self.assertGreater(update.losses[0], 0)
            self.assertGreater(update.gradient_norms[0], 0)
            stream.next("appended")
            _, tokens, _ = stream.generate(max_tokens=1, ignore_eos=True)
            self.assertGreaterEqual(tokens[0].adapter_version, update.adapter_version)

    def test_reading_a_page_again_costs_fewer_nats(self):
        scores = {}
        for name, preset in (("learning", options_pb2.PRESET_BALANCED),
                             ("frozen", options_pb2.PRESET_OFF)):
            with Stream(self.channel) as stream:
                # A window too short to remember the first reading.
                stream.open(window_tokens=128,
                            adaptation=options_pb2.AdaptationOptions(preset=preset))
                stream.append(BOOK)
                stream.append(BOOK)
                scores[name] = stream.append(BOOK, score=True).nll
        self.assertLess(scores["learning"], scores["frozen"])

    def test_adapt_pauses_resumes_and_forgets(self):
        with Stream(self.channel) as stream:
            stream.open()
            stream.send(adapt=pb.Adapt(action=pb.ADAPT_ACTION_PAUSE))
            self.assertTrue(stream.next("adapted").adapted.paused)
            stream.send(adapt=pb.Adapt(action=pb.ADAPT_ACTION_RESUME))
            self.assertFalse(stream.next("adapted").adapted.paused)
            stream.append("A few words.")
            stream.send(adapt=pb.Adapt(action=pb.ADAPT_ACTION_UPDATE_NOW))
            self.assertEqual(stream.next("adapted").adapted.adapter_version, 1)
            stream.send(adapt=pb.Adapt(action=pb.ADAPT_ACTION_RESET))
            self.assertEqual(stream.next("adapted").adapted.adapter_version, 2)

    def test_one_sessions_learning_is_not_anothers(self):
        def score_of_reader(neighbour):
            server.wait_for_free_slots(ROWS)
            with Stream(self.channel) as stream, Stream(self.channel) as other:
                stream.open(seed=3)
                other.open(seed=4)
                if neighbour:
                    other.append(BOOK)
                return stream.append(BOOK[:60], score=True).nll

        self.assertEqual(score_of_reader(neighbour=False), score_of_reader(neighbour=True))

    # ---- How a session ends

    def test_close(self):
        before = self.closed("closed")
        with Stream(self.channel) as stream:
            opened = stream.open()
            stream.append("Hello")
            stream.send(close=pb.Close())
            closed = stream.rest()[-1].closed
            reserved = opened.reserved_bytes
            self.assertEqual(closed.freed_bytes,
                             reserved.kv + reserved.adapter + reserved.optimizer)
            self.assertEqual(dict(stream.call.trailing_metadata())["mayfly-freed-bytes"],
                             str(closed.freed_bytes))
            self.assertEqual(stream.call.code(), grpc.StatusCode.OK)
        self.expect_closed("closed", before)

    def test_half_close_finishes_first(self):
        before = self.closed("half_closed")
        with Stream(self.channel) as stream:
            stream.open()
            stream.send(append=pb.Append(text="Hello"))
            stream.send(generate=pb.Generate(max_tokens=4, ignore_eos=True))
            stream.half_close()
            kinds = [response.WhichOneof("event") for response in stream.rest()]
            self.assertIn("generated", kinds)
            self.assertEqual(kinds[-1], "closed")
        self.expect_closed("half_closed", before)

    def test_cancel_ends_a_generation_and_the_session_lives(self):
        with Stream(self.channel) as stream:
            stream.open()
            stream.append("Hello")
            target = stream.send(generate=pb.Generate(max_tokens=10000, ignore_eos=True))
            stream.next("delta")
            stream.send(cancel=pb.Cancel(request_id=target))
            generated = stream.next("generated")
            self.assertEqual(generated.request_id, target)
            self.assertEqual(generated.generated.finish_reason, pb.FINISH_REASON_CANCELLED)
            self.assertEqual(len(stream.generate(max_tokens=2, ignore_eos=True)[1]), 2)

    def test_a_cancelled_call(self):
        before = self.closed("cancelled")
        with Stream(self.channel) as stream:
            stream.open()
            stream.append("Hello")
            stream.send(generate=pb.Generate(max_tokens=10000, ignore_eos=True))
            stream.next("delta")
        self.expect_closed("cancelled", before)

    def test_a_call_cancelled_while_it_learns(self):
        with Stream(self.channel) as stream:
            stream.open()
            stream.send(append=pb.Append(text=BOOK * 20))
            stream.next("update")

    def test_a_deadline(self):
        before = self.closed("deadline")
        with Stream(self.channel, timeout=3) as stream:
            stream.open()
            stream.append("Hello")
            stream.send(generate=pb.Generate(max_tokens=10000, ignore_eos=True))
            self.assertEqual(stream.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.expect_closed("deadline", before)

    def test_a_client_killed_in_the_middle(self):
        client = subprocess.Popen(
            [sys.executable, __file__, "vanishing-client", server.address],
            stdout=subprocess.PIPE, text=True)
        self.assertEqual(client.stdout.readline(), "generating\n")
        self.assertEqual(server.free_slots(), ROWS - 1)
        client.kill()
        client.wait()
        client.stdout.close()

    # ---- What is refused

    def test_more_sessions_than_rows(self):
        with Stream(self.channel) as one, Stream(self.channel) as two:
            one.open()
            two.open()
            with Stream(self.channel) as three:
                three.send(open=pb.Open())
                self.assertEqual(three.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                details = rpc_status.from_call(three.call).details
                retry = error_details_pb2.RetryInfo()
                self.assertTrue(details[0].Unpack(retry))
                self.assertGreater(retry.retry_delay.seconds, 0)

    def test_a_stream_must_begin_with_a_valid_open(self):
        for command in (
                dict(append=pb.Append(text="x")),
                dict(open=pb.Open(adaptation=options_pb2.AdaptationOptions(rank=0))),
                dict(open=pb.Open(adaptation=options_pb2.AdaptationOptions(rank=17))),
                dict(open=pb.Open(
                    adaptation=options_pb2.AdaptationOptions(learning_rate=math.nan))),
                dict(open=pb.Open(window_tokens=100000)),
                dict()):
            with self.subTest(str(command)), Stream(self.channel) as stream:
                stream.send(**command)
                self.assertEqual(stream.code(), grpc.StatusCode.INVALID_ARGUMENT)
                self.assertTrue(stream.call.details())

    def test_a_bad_command_is_answered_and_loses_nothing(self):
        with Stream(self.channel) as stream:
            stream.open()
            for command in (
                    dict(open=pb.Open()),
                    dict(append=pb.Append()),
                    dict(append=pb.Append(token_ids=pb.TokenIds(ids=[2**32 - 1]))),
                    dict(generate=pb.Generate(max_tokens=0)),
                    dict(generate=pb.Generate(
                        max_tokens=1, sampling=options_pb2.SamplingOptions(temperature=-1))),
                    dict(cancel=pb.Cancel(request_id=999)),
                    dict(adapt=pb.Adapt())):
                with self.subTest(str(command)):
                    request_id = stream.send(**command)
                    error = stream.next("error")
                    self.assertEqual(error.request_id, request_id)
                    self.assertTrue(error.error.message)
            self.assertGreater(stream.append("Still here.").tokens, 0)

    def test_a_message_above_the_limit(self):
        with Stream(self.channel) as stream:
            stream.open()
            stream.send(append=pb.Append(text="x" * (2 << 20)))
            self.assertEqual(stream.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_server_info(self):
        stub = service_grpc.InferenceServiceStub(self.channel)
        info = stub.GetServerInfo(service_pb2.GetServerInfoRequest())
        self.assertEqual(info.device, "cpu")
        self.assertEqual(info.rows_total, ROWS)
        self.assertEqual(info.rows_free, ROWS)
        self.assertEqual(info.limits.window_tokens, 256)
        self.assertEqual(info.default_adaptation.chunk_tokens, CHUNK)
        self.assertGreater(info.model.vocabulary, 0)


def vanishing_client(address):
    """Generates until it is killed."""
    with Stream(grpc.insecure_channel(address)) as stream:
        stream.open()
        stream.append("Hello")
        stream.send(generate=pb.Generate(max_tokens=10000, ignore_eos=True))
        stream.next("delta")
        print("generating", flush=True)
        stream.rest()


if __name__ == "__main__":
    if sys.argv[1:2] == ["vanishing-client"]:
        vanishing_client(sys.argv[2])
    else:
        unittest.main()
