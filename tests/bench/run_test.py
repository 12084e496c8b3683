#!/usr/bin/env python3
"""The arithmetic and the pages of run.py, on figures made up here."""

import unittest

import measurements
import run
from measurements import Against, Row, Source

PEER, LIMIT = Against("peer", "theirs", 4.0), Against("limit", "limit", percent=True)
ROW = Row("decode", "decode", "ours", [PEER, LIMIT])
WAIT = Row("wait", "waits", "on", [Against("off", "off", 3.0, at_most=True)], figure="gap_p99_seconds")
UNDER = {
    "rounds": 1,
    "mode": "cascaded",
    "machine": "m",
    "transformers": "t",
    "llama": "l",
    "date": "d",
    "commit": "c",
    "load": "0.00",
}


def one_round(ours, theirs, limit=100.0):
    return {
        ("decode", "ours"): {"tokens_per_second": ours, "peak_rss_bytes": 2**20},
        ("decode", "theirs"): {"tokens_per_second": theirs, "peak_rss_bytes": 2**21, "settings": "fast"},
        ("decode", "limit"): {"tokens_per_second": limit},
    }


def summary_of(ours, theirs):
    return run.summarize([ROW], [one_round(ours, theirs)])


class RunTest(unittest.TestCase):
    def test_the_ratio_is_the_median_of_the_rounds_ratios(self):
        # The machine was four times slower in the second round, for both.
        rounds = [one_round(80, 20), one_round(20, 4), one_round(90, 30)]
        summary = run.summarize([ROW], rounds)["decode"]
        self.assertEqual(summary["against"]["peer"]["ratio"], 4.0)
        self.assertEqual(summary["against"]["limit"]["ratio"], 0.8)
        self.assertEqual(summary["ours"]["tokens_per_second"], 80)
        self.assertEqual(summary["against"]["peer"]["tokens_per_second"], 20)

    def test_a_figure_is_turned_into_work_before_it_meets_a_limit(self):
        row = Row("decode", "decode", "ours", [Against("limit", "limit", figure="flops", work=2e9)])
        figures = {("decode", "ours"): {"tokens_per_second": 50}, ("decode", "limit"): {"flops": 4e11}}
        self.assertEqual(run.summarize([row], [figures])["decode"]["against"]["limit"]["ratio"], 0.25)

    def test_a_round_measures_each_source_once_but_those_that_go_again(self):
        sources = dict.fromkeys(("ours", "theirs", "on", "off"), Source(None)) | {
            "limit": Source(None, again=True),
            "off": Source(None, rounds=1),
        }
        rows = [ROW, Row("other", "other", "ours", [Against("limit", "limit"), Against("off", "off")])]
        original, run.SOURCES = run.SOURCES, sources
        try:
            calls = []
            run.measure_round(rows, 1, lambda source: calls.append(source) or {})
            self.assertEqual(calls, ["ours", "theirs", "limit", "limit", "off"])
            self.assertNotIn(("other", "off"), run.measure_round(rows, 2, lambda source: {}))
        finally:
            run.SOURCES = original

    def test_a_row_says_whether_it_passes_or_by_how_much_it_misses(self):
        self.assertEqual(run.verdict(4.0, 4.0), "pass")
        self.assertEqual(run.verdict(3.0, 4.0), "**missed by 25 %**")
        self.assertEqual(run.verdict(3.0, 3.0, at_most=True), "pass")
        self.assertEqual(run.verdict(6.0, 3.0, at_most=True), "**missed by 100 %**")
        text = run.table([ROW], summary_of(60, 20), {}, "")
        self.assertIn("| decode | 60.0 tokens/s | peer | 20.0 tokens/s | 3.00x | ≥ 4.00x | **missed", text)
        self.assertIn("|  |  | limit | 100 tokens/s | 60 % |  |  |", text)

    def test_a_target_set_for_one_mode_is_not_judged_in_another(self):
        row = Row("decode", "({mode})", "ours", [Against("peer", "theirs", 1.0, only_mode="parallel")])
        summary = run.summarize([row], [one_round(60, 20)])
        self.assertIn("| (parallel) | 60.0", run.table([row], summary, {}, "parallel"))
        self.assertIn("| pass |", run.table([row], summary, {}, "parallel"))
        self.assertIn("| set for mode parallel |", run.table([row], summary, {}, "cascaded"))

    def test_waits_are_shown_in_milliseconds_and_should_be_short(self):
        figures = {("wait", "on"): {"gap_p99_seconds": 0.2}, ("wait", "off"): {"gap_p99_seconds": 0.05}}
        text = run.table([WAIT], run.summarize([WAIT], [figures]), {}, "")
        self.assertIn("| waits | 200 ms | off | 50 ms | 4.00x | ≤ 3.00x | **missed by 33 %** |", text)

    def test_a_ratio_that_got_worse_by_more_than_ten_percent_is_marked(self):
        self.assertTrue(run.regressed(3.5, 4.0))
        self.assertFalse(run.regressed(3.7, 4.0))
        self.assertFalse(run.regressed(3.5, None))
        self.assertTrue(run.regressed(4.5, 4.0, at_most=True))
        self.assertFalse(run.regressed(3.5, 4.0, at_most=True))
        before = summary_of(80, 20)
        self.assertIn("**was 4.00x**", run.table([ROW], summary_of(70, 20), before, ""))
        self.assertNotIn("was", run.table([ROW], summary_of(76, 20), before, ""))

    def test_the_page_carries_its_figures_and_what_was_written_by_hand_to_the_next_run(self):
        summary = summary_of(70, 20)
        page = run.page_text([ROW], summary, {}, UNDER, "By hand.\n")
        self.assertEqual(run.read_figures(page), summary)
        self.assertEqual(run.read_figures("a page without figures"), {})
        self.assertEqual(run.between(page, "notes"), "By hand.\n")
        self.assertEqual(run.between("a page without notes", "notes"), "")
        self.assertIn("decode: fast", page)

    def test_figures_of_an_older_form_mark_nothing(self):
        self.assertNotIn("was", run.table([ROW], summary_of(70, 20), {"decode": {"ratio": 9.0}}, ""))

    def test_only_what_stands_between_the_marks_of_the_readme_changes(self):
        readme = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n"
        self.assertEqual(
            run.with_table(readme, "new"), "a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n"
        )
        with self.assertRaises(SystemExit):
            run.with_table("no marks", "new")


class MeasurementsTest(unittest.TestCase):
    def test_every_row_names_sources_that_there_are_and_labels_of_its_own(self):
        self.assertEqual(len({row.name for row in measurements.ROWS}), len(measurements.ROWS))
        for row in measurements.ROWS:
            for source in [row.source, *(against.source for against in row.against)]:
                self.assertIn(source, measurements.SOURCES)
            self.assertEqual(len({against.label for against in row.against}), len(row.against))
            self.assertIn(row.figure, run.UNITS)

    def test_what_the_work_costs_is_that_of_the_default_model(self):
        self.assertEqual(measurements.LINEAR + measurements.HEAD, 134_479_872)
        self.assertEqual(measurements.adapter(16), 4_884_480)
        # 2 bytes a weight, once for all rows.
        self.assertGreater(measurements.decode_bytes(8) * 8, 2 * 134_479_872)


if __name__ == "__main__":
    unittest.main()
