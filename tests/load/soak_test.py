#!/usr/bin/env python3
"""What soak.py says, on samples made up here."""

import unittest

import soak

APPLIED = 'mayfly_adapter_updates_total{outcome="applied"}'
GENERATED = 'mayfly_tokens_total{kind="generated"}'


def histogram(name, count, mean, bound):
    return {
        f'{name}_bucket{{le="{bound}"}}': count,
        f'{name}_bucket{{le="+Inf"}}': count,
        f"{name}_count": count,
        f"{name}_sum": count * mean,
    }


def sample(number, memory_mb=1000, gap=0.02):
    """The `number`-th, each 10 s; counters grow by 10 in that time."""
    count = 10 * number
    metrics = {
        "process_resident_memory_bytes": 1e6 * memory_mb,
        "process_open_fds": 14,
        "mayfly_sessions_opened_total": count,
        GENERATED: 50 * number,
        APPLIED: count,
        **histogram(soak.FIRST_TOKEN, count, 0.5, 1),
        **histogram(soak.BETWEEN_TOKENS, count, gap, 0.05),
    }
    return {"seconds": 10 * number, "threads": 20, "metrics": metrics}


class LatencyTest(unittest.TestCase):
    def test_counts_what_was_added_between_two_samples(self):
        before = histogram("x", 100, 9.0, 10)
        after = {
            'x_bucket{le="1"}': 50,
            'x_bucket{le="10"}': 150,
            'x_bucket{le="+Inf"}': 150,
            "x_count": 150,
            "x_sum": 900 + 25,
        }
        mean, bound = soak.latency(before, after, "x")
        self.assertAlmostEqual(mean, 0.5)
        self.assertEqual(bound, 1)

    def test_joins_the_histograms_of_all_labels(self):
        after = {
            'x_bucket{training="on",le="+Inf"}': 1,
            'x_bucket{training="off",le="+Inf"}': 3,
            'x_count{training="on"}': 1,
            'x_count{training="off"}': 3,
            'x_sum{training="on"}': 5,
            'x_sum{training="off"}': 3,
        }
        self.assertEqual(soak.latency({}, after, "x"), (2, float("inf")))
        self.assertEqual(soak.latency_text((2, float("inf"))), "2,000 / >")

    def test_is_nothing_where_nothing_was_observed(self):
        same = histogram("x", 100, 9.0, 10)
        self.assertEqual(soak.latency_text(soak.latency(same, same, "x")), "–")


class PageTest(unittest.TestCase):
    def test_a_row_has_what_came_in_its_time(self):
        rows = soak.windows_table([sample(number) for number in range(61)]).splitlines()[2:]
        self.assertEqual(len(rows), soak.WINDOWS)
        self.assertEqual(rows[1], "| 2–3 | 1,000 / 1,000 | 14 | 20 | 500 / 1,000 | 20 / 50 | 5 | 100 | 100 |")

    def test_what_stays_is_flat(self):
        text = soak.conclusion_text([sample(number) for number in range(61)])
        self.assertEqual(text.count("**flat**"), 3)

    def test_memory_that_grows_in_the_last_two_thirds_is_not_flat(self):
        text = soak.conclusion_text([sample(number, memory_mb=1000 + 3 * number) for number in range(61)])
        self.assertIn("from 1,092 to 1,152 MB (+5.5%; a line through the samples of both rises by +1,080 MB an hour): **not flat**", text)

    def test_growth_in_the_first_third_is_no_matter(self):
        text = soak.conclusion_text([sample(number, memory_mb=min(1000, 50 * number)) for number in range(61)])
        self.assertIn("(+0.0%; a line through the samples of both rises by +0 MB an hour): **flat**", text)

    def test_latency_that_grows_is_not_flat(self):
        text = soak.conclusion_text([sample(number, gap=0.02 if number < 41 else 0.04) for number in range(61)])
        self.assertIn("time between two tokens went from 20 to ", text)
        self.assertEqual(text.count("**not flat**"), 1)

    def test_a_section_replaces_the_one_before_and_nothing_else(self):
        page = f"a\n{soak.BEGIN}old\n{soak.END}\nb\n"
        self.assertEqual(soak.with_section(page, "new\n"), f"a\n{soak.BEGIN}new\n{soak.END}\nb\n")


if __name__ == "__main__":
    unittest.main()
