#!/usr/bin/env python3
"""The page of measure.py, on figures made up here."""

import unittest

import measure


def latency(p50, count=9):
    return {"count": count, "p50": p50, "p95": 2 * p50, "p99": 3 * p50, "max": 4 * p50} if count else {"count": 0}


def run(attainment=1.0, rate=2.0, learning=None, count=9):
    return {
        "latency_seconds": {
            "ttft": latency(0.25, count), "inter_token": latency(0.0201, count), "start_lag": latency(0.001)
        },
        "goodput": {"attainment": attainment, "turns_per_second": rate, "tokens_per_second": 32 * rate},
        "turns": {"good": 30, "bad": 10},
        "tokens": {"generated_per_second": 71.4},
        "learning": learning or {"learned_fraction": 0.45, "updates": {}},
        "client_cpu_seconds": 0.25,
    }


def search(kept, too_much, trials):
    trials = [{"sessions_per_second": rate, "slo_kept": rate <= kept} for rate in trials]
    return {
        "capacity": {"sessions_per_second": kept, "too_much": too_much, "trials": trials},
        "runs": [run(rate=3 * trial["sessions_per_second"]) for trial in trials],
    }


GAIN = {
    "learned_fraction": 0.5, "gained_nats": 12.0, "gained_nats_per_token": 0.02, "gained_nats_per_busy_second": 1.5,
    "updates": {"applied": 7},
}
UNDER = dict.fromkeys(("seconds", "mode", "machine", "date", "commit", "load"), "x")


class PageTest(unittest.TestCase):
    def test_a_point_has_its_percentiles_and_its_goodput(self):
        row = measure.points_table([(4, "on", run(0.75))]).splitlines()[-1]
        self.assertEqual(row, "| 4 | on | 250 / 500 / 750 | 20 / 40 / 60 | 71 | 75% of 40 | 2.00 | 64 | 45% |")

    def test_where_nothing_learns_nothing_is_said_of_it_and_no_latency_without_a_turn(self):
        row = measure.points_table([(1, "off", run(count=0))]).splitlines()[-1]
        self.assertEqual(row, "| 1 | off | – | – | 71 | 100% of 40 | 2.00 | 64 |  |")

    def test_capacity_is_the_rate_that_was_kept_with_all_that_were_tried(self):
        row = measure.capacity_table({"off": search(1, 2, [1, 2])}).splitlines()[-1]
        self.assertEqual(row, "| off | 1.00 sessions/s | 2.00 sessions/s | 3.00 | 1.00 (100% of 40), 2.00 (100% of 40) |")

    def test_no_capacity_is_said_to_be_none(self):
        row = measure.capacity_table({"on": search(0, 0.1, [0.2, 0.1])}).splitlines()[-1]
        self.assertEqual(row, "| on | none | 0.10 sessions/s |  | 0.20 (100% of 40), 0.10 (100% of 40) |")

    def test_the_gain_has_its_sign_and_its_price(self):
        text = measure.gain_text(run(learning=GAIN))
        self.assertEqual(
            text, "+0.020 nats a token over the frozen base, +1.5 nats a second of training (7 updates applied).")
        self.assertIn("No chunk", measure.gain_text(run()))

    def test_the_page_holds_it_all_and_keeps_the_notes(self):
        figures = {
            "points": [(1, "off", run())],
            "receipts": run(learning=GAIN),
            "capacity": {"off": search(1, 2, [1, 2])},
        }
        page = measure.page_text(figures, UNDER, "By hand.\n")
        for part in ("| 1 | off |", "1.00 (100% of 40)", "+0.020 nats", "more than 4 ms late", "begin -->\nBy hand.\n<!--"):
            self.assertIn(part, page)


class ScenarioTest(unittest.TestCase):
    def test_learning_off_has_no_adapter_and_learning_on_the_mode_that_was_asked_for(self):
        self.assertEqual(measure.adaptation("off", "parallel"), {"preset": "PRESET_OFF"})
        self.assertEqual(measure.adaptation("on", "cascaded")["mode"], "MODE_CASCADED")


if __name__ == "__main__":
    unittest.main()
