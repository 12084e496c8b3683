#!/usr/bin/env python3
"""The arithmetic and the pages of run.py, on figures made up here."""

import unittest

import run


def one_round(ours, peer):
    return {
        "decode": {
            "ours": {"tokens_per_second": ours, "peak_rss_bytes": 2**20},
            "peer": {"tokens_per_second": peer, "peak_rss_bytes": 2**21},
        }
    }


CONDITIONS = {"rounds": 1, "machine": "m", "peer": "p", "date": "d", "commit": "c", "load": "0.00"}


class RunTest(unittest.TestCase):
    def test_the_ratio_is_the_median_of_the_rounds_ratios(self):
        # The machine was four times slower in the second round, for both.
        rounds = [one_round(80, 20), one_round(20, 4), one_round(90, 30)]
        summary = run.summarize(rounds)["decode"]
        self.assertEqual(summary["ratio"], 4.0)
        self.assertEqual(summary["ours"]["tokens_per_second"], 80)
        self.assertEqual(summary["peer"]["tokens_per_second"], 20)

    def test_a_ratio_that_fell_by_more_than_ten_percent_is_marked(self):
        self.assertTrue(run.regressed(3.5, 4.0))
        self.assertFalse(run.regressed(3.7, 4.0))
        self.assertFalse(run.regressed(3.5, None))
        summary = run.summarize([one_round(70, 20)])
        self.assertIn("**was 4.0**", run.table(summary, {"decode": {"ratio": 4.0}}))
        self.assertNotIn("was", run.table(summary, {"decode": {"ratio": 3.6}}))

    def test_the_page_carries_its_figures_to_the_next_run(self):
        summary = run.summarize([one_round(70, 20)])
        page = run.page_text(summary, {}, CONDITIONS)
        self.assertEqual(run.read_figures(page), summary)
        self.assertEqual(run.read_figures("a page without figures"), {})

    def test_only_what_stands_between_the_marks_of_the_readme_changes(self):
        readme = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n"
        self.assertEqual(
            run.with_table(readme, "new"), "a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n"
        )
        with self.assertRaises(SystemExit):
            run.with_table("no marks", "new")


if __name__ == "__main__":
    unittest.main()
