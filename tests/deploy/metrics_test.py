#!/usr/bin/env python3
"""Rules, alerts and dashboard under promtool and a real Prometheus that has scraped a recording of a real server."""

import math
import re
import subprocess
import sys
import unittest

from support import ALERTS, DEPLOY, METRIC, ROOT, RULES, Prometheus, panels, run, scrapes, table_metrics, tool

# What a panel's query may look like: all pods, or one of each.
CHOICES = ({"namespace": ".*", "pod": ".*"}, {"namespace": "serving", "pod": "mayfly-0"})


def queries(choice):
    """Title and query of each panel, with variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], (target["expr"].replace("$namespace", choice["namespace"]).replace("$pod", choice["pod"])
                                   .replace("$__rate_interval", f"{20 * Prometheus.SCRAPE_SECONDS}s"))


class PromtoolTest(unittest.TestCase):
    def test_rules_and_alerts_are_well_formed(self):
        run(tool("promtool"), "check", "rules", RULES, ALERTS)
        run(tool("promtool"), "check", "config", DEPLOY / "prometheus/prometheus.yaml")

    def test_alerts_fire_and_are_silent_when_they_should(self):
        run(tool("promtool"), "test", "rules", ROOT / "tests/deploy/alerts.test.yaml")

    def test_the_servers_exposition_is_well_formed(self):
        self.assertEqual(run(tool("promtool"), "check", "metrics", input=scrapes()[-1]), "")


class DashboardTest(unittest.TestCase):
    def test_the_dashboard_is_what_its_generator_writes(self):
        try:
            import grafana_foundation_sdk  # noqa: F401
        except ImportError:
            self.skipTest("no grafana-foundation-sdk here; ./dev check-deploy installs it")
        subprocess.run([sys.executable, DEPLOY / "grafana/dashboard.py", "--check"], check=True)

    def test_every_query_parses(self):
        try:
            import promql_parser
        except ImportError:
            self.skipTest("no promql-parser here; ./dev check-deploy installs it")
        for _, query in queries(CHOICES[0]):
            with self.subTest(query):
                promql_parser.parse(query)


class RecordingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        tool("prometheus")
        cls.prometheus = cls.enterClassContext(Prometheus.that_saw_the_recording())
        cls.names = set(cls.prometheus.names())

    def test_the_recording_has_every_metric_of_the_table(self):
        families = set(re.findall(r"^# TYPE (\S+)", scrapes()[-1], re.M))
        self.assertEqual(table_metrics() - families, set())

    def test_every_panel_draws_the_recorded_run(self):
        for choice in CHOICES:
            for title, query in queries(choice):
                with self.subTest(title, query=query):
                    self.assertEqual(set(METRIC.findall(re.sub(r"\bjob:\S+", "", query))) - self.names, set())
                    values = [value for _, value in self.prometheus.query(query)]
                    self.assertTrue(values, "no data")
                    self.assertTrue(any(map(math.isfinite, values)), values)

    def test_a_healthy_run_alerts_nobody_but_about_its_full_pool(self):
        firing = {labels["alertname"] for labels, _ in self.prometheus.query('ALERTS{alertstate="firing"}')}
        # Its rows were all taken on purpose, and two cores learn and answer more slowly than the objectives ask.
        self.assertLessEqual(firing, {"MayflyTimeToFirstTokenBurn", "MayflyInterTokenLatencyBurn", "MayflyPoolFull",
                                      "MayflySessionsRefused"})


if __name__ == "__main__":
    unittest.main()
