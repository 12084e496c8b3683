#!/usr/bin/env python3
"""What can be known of deploy/ without a tool: names agree with the server, with each other and with the runbook."""

import itertools
import re
import unittest

import yaml

from support import (ALERTS, METRIC, ROOT, RULES, alert_names, all_rules, family, panels, record_names, scrapes, table_metrics)

def expressions():
    for rule in all_rules(RULES) + all_rules(ALERTS):
        yield rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


class MetricsTest(unittest.TestCase):
    def test_every_metric_that_is_asked_for_is_in_the_servers_table(self):
        table = table_metrics()
        self.assertGreater(len(table), 30)
        for expression in expressions():
            without_records = re.sub(r"\b(?:job|pod):\S+?:[a-z0-9_]+", "", expression)
            for name in METRIC.findall(without_records):
                with self.subTest(name):
                    self.assertIn(name if name in table else family(name), table)

    def test_every_metric_of_the_table_is_on_the_dashboard(self):
        shown = {family(name) for panel in panels() for target in panel["targets"] for name in METRIC.findall(target["expr"])}
        # What runs, for joins; address space is reserved, not used; the engine's health is an alert.
        unseen = {"mayfly_build_info", "process_virtual_memory_bytes", "mayfly_engine_healthy"}
        self.assertEqual({family(name) for name in table_metrics()} - shown - unseen, set())

    def test_every_recorded_rule_that_is_asked_for_exists(self):
        records = record_names()
        for expression in expressions():
            for name in re.findall(r"\b(?:job|pod):[a-z0-9_]+:[a-z0-9_]+", expression):
                self.assertIn(name, records)

    def test_the_objectives_are_bounds_of_buckets(self):
        last = scrapes()[-1]
        for rule in all_rules(RULES):
            for metric, bound in re.findall(r'(mayfly_\w+_bucket){le="([\d.]+)"}', rule["expr"]):
                self.assertRegex(last, rf'(?m)^{metric}{{.*le="{re.escape(bound)}"}} ')


class AlertsTest(unittest.TestCase):
    def test_every_alert_has_a_severity_a_summary_and_a_place_in_the_runbook(self):
        for alert in all_rules(ALERTS):
            with self.subTest(alert["alert"]):
                self.assertIn(alert["labels"]["severity"], ("page", "ticket"))
                self.assertEqual(set(alert["annotations"]), {"summary", "description", "runbook_url"})
                self.assertEqual(alert["annotations"]["runbook_url"], f"docs/operations.md#{alert['alert'].lower()}")

    def test_the_runbook_has_an_entry_for_every_alert_and_no_other(self):
        runbook = (ROOT / "docs/operations.md").read_text()
        self.assertEqual(set(re.findall(r"^#+ (Mayfly\w+)$", runbook, re.M)), alert_names())

    def test_every_alert_fires_in_a_test(self):
        tests = (ROOT / "tests/deploy/alerts.test.yaml").read_text()
        fired = set(re.findall(r'{labels: \'{alertname="(\w+)"', tests)) | set(re.findall(r"alertname: (\w+)$", tests, re.M))
        self.assertEqual(fired, alert_names())


class DashboardTest(unittest.TestCase):
    def test_every_panel_says_what_it_shows_and_where_that_comes_from(self):
        for panel in panels():
            with self.subTest(panel["title"]):
                named = {family(name.replace("*", "")) for name in re.findall(r"`([^`]+)`", panel["description"])}
                self.assertTrue(named, "its description names no metric")
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                self.assertTrue(panel["targets"])

    def test_panels_have_places_and_numbers_of_their_own(self):
        self.assertEqual(len({panel["id"] for panel in panels()}), len(panels()))
        for one, other in itertools.combinations([panel["gridPos"] for panel in panels()], 2):
            apart = (one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"] or
                     one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])
            self.assertTrue(apart, f"{one} and {other} overlap")

    def test_every_query_heeds_namespace_and_pod(self):
        for panel in panels():
            for target in panel["targets"]:
                if "ALERTS" in target["expr"]:
                    continue
                with self.subTest(panel["title"]):
                    self.assertIn('namespace=~"$namespace"', target["expr"])
                    self.assertTrue('pod=~"$pod"' in target["expr"] or "job:mayfly" in target["expr"])


class ScrapeTest(unittest.TestCase):
    def test_the_default_target_is_the_servers_default_address(self):
        targets = yaml.safe_load((ROOT / "deploy/prometheus/targets.yaml").read_text())
        flag = re.search(r'"http_listen", "address", "([^"]+)"', (ROOT / "server/config.cc").read_text())
        self.assertEqual(targets[0]["targets"], [flag[1]])


if __name__ == "__main__":
    unittest.main()
