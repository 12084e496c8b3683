#!/usr/bin/env python3
"""The chart, for each set of values in ci/: lints, renders, and what it renders is what Kubernetes would take."""

import json
import pathlib
import re
import subprocess
import tarfile
import tempfile
import unittest

import yaml

from support import ALERTS, CHART, DASHBOARD, ROOT, RULES, all_rules, run, tool

KUBERNETES = "1.34"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
CRDS = pathlib.Path(__file__).with_name("crds")
# No definition of theirs is here: cert-manager's and Envoy Gateway's.
UNCHECKED = {"Certificate", "BackendTrafficPolicy"}


def render(values, *options):
    text = run(tool("helm"), "template", "a", CHART, "--namespace", "serving", "--kube-version", f"{KUBERNETES}.0", "-f", values, *options)
    return [document for document in yaml.safe_load_all(text) if document]


def named(stem):
    return CHART / f"ci/{stem}-values.yaml"


def one(documents, kind, suffix=""):
    found = [document for document in documents if document["kind"] == kind and document["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, f"{len(found)} of {kind} {suffix}"
    return found[0]


def refusal(*options):
    """What helm says when it does not render."""
    done = subprocess.run([tool("helm"), "template", "a", CHART, "--kube-version", f"{KUBERNETES}.0", *options],
                          capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def flags(documents):
    [text] = [document["data"]["flags"] for document in documents if document["kind"] == "ConfigMap" and "flags" in document["data"]]
    return dict(line.split("=", 1) for line in text.splitlines())


def strict(schema):
    """The schema of a custom resource as JSON schema in which unknown fields are errors."""
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) if key in ("items", "additionalProperties", "not") else
              {name: strict(part) for name, part in value.items()} if key == "properties" else value
              for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if "(?i)" in schema.get("pattern", ""):  # where Python's expressions do not have it
        schema.pop("pattern")
    return schema


def custom_schemas():
    """Schema of each (apiVersion, kind) that crds/ defines."""
    schemas = {}
    for path in CRDS.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            for version in document["spec"]["versions"]:
                key = f"{document['spec']['group']}/{version['name']}", document["spec"]["names"]["kind"]
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
                schemas[key] = schema
    return schemas


class RenderTest(unittest.TestCase):
    def test_lint_finds_nothing(self):
        for values in CI:
            with self.subTest(values.name):
                run(tool("helm"), "lint", "--strict", CHART, "-f", values)

    def test_kubernetes_own_resources_fit_their_schemas_strictly(self):
        try:
            import kubernetes_validate
        except ImportError:
            self.skipTest("no kubernetes-validate here; ./dev check-deploy installs it")
        for values in CI:
            for document in render(values):
                if "." in document["apiVersion"].split("/")[0] and not document["apiVersion"].split("/")[0].endswith(".k8s.io"):
                    continue
                if document["kind"] == "GRPCRoute":
                    continue
                with self.subTest(values.name, kind=document["kind"]):
                    kubernetes_validate.validate(document, KUBERNETES, strict=True)

    def test_custom_resources_fit_their_definitions_strictly(self):
        try:
            import jsonschema
        except ImportError:
            self.skipTest("no jsonschema here; ./dev check-deploy installs it")
        schemas = custom_schemas()
        checked = set()
        for values in CI:
            for document in render(values):
                schema = schemas.get((document["apiVersion"], document["kind"]))
                if schema is None:
                    continue
                with self.subTest(values.name, kind=document["kind"]):
                    jsonschema.validate(document, schema)
                    checked.add(document["kind"])
        self.assertEqual(checked, {"GRPCRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"})

    def test_every_kind_is_checked_by_somebody_or_known_not_to_be(self):
        custom = {kind for _, kind in custom_schemas()}
        built_in = re.compile(r"^(v1|apps/v1|policy/v1|autoscaling/v2|networking.k8s.io/v1)$")
        for values in CI:
            for document in render(values):
                self.assertTrue(built_in.match(document["apiVersion"]) or document["kind"] in custom | UNCHECKED, document["kind"])

    def test_selectors_select_the_servers_pods_and_no_test_pod(self):
        for values in CI:
            documents = render(values)
            labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
            test = one(documents, "Pod", "-test")["metadata"]["labels"]
            for document in documents:
                selector = document["spec"].get("selector") if document["kind"] in ("Service", "Deployment", "PodDisruptionBudget") else None
                selector = selector.get("matchLabels", selector) if selector else None
                if selector:
                    self.assertLessEqual(selector.items(), labels.items())
                    self.assertFalse(selector.items() <= test.items())

    def test_every_mount_has_a_volume(self):
        for values in CI:
            for document in render(values):
                spec = document["spec"]["template"]["spec"] if document["kind"] == "Deployment" else document["spec"] if document["kind"] == "Pod" else None
                if spec is None:
                    continue
                volumes = {volume["name"] for volume in spec["volumes"]}
                mounts = {mount["name"] for part in spec["containers"] + spec.get("initContainers", []) for mount in part["volumeMounts"]}
                self.assertEqual(mounts, volumes, values.name)


class PodTest(unittest.TestCase):
    def test_a_pod_has_no_rights_that_it_does_not_need(self):
        for values in CI:
            for document in render(values):
                if document["kind"] not in ("Deployment", "Pod"):
                    continue
                spec = document["spec"].get("template", document)["spec"]
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
                self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                for container in spec["containers"] + spec.get("initContainers", []):
                    self.assertEqual(container["securityContext"], {
                        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}})

    def test_the_grace_period_holds_the_whole_drain(self):
        documents = render(named("small"), "--set", "drainTimeoutSeconds=1000,preStopSeconds=20")
        spec = one(documents, "Deployment")["spec"]["template"]["spec"]
        after = re.findall(r"k(?:HandOver|Release) = std::chrono::seconds\((\d+)\);", (ROOT / "server/serve.cc").read_text())
        self.assertTrue(after)
        self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], 20 + 1000 + sum(map(int, after)))
        self.assertEqual(spec["containers"][0]["lifecycle"]["preStop"], {"sleep": {"seconds": 20}})
        self.assertEqual(flags(documents)["drain_timeout"], "1000s")

    def test_probes_ask_the_health_port_for_services_that_the_server_has(self):
        container = one(render(named("small")), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        health = (ROOT / "server/health.cc").read_text()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(container[probe]["grpc"]["port"], 7402)
            self.assertIn(f'"{container[probe]["grpc"]["service"]}"', health)
        self.assertNotEqual(container["readinessProbe"]["grpc"], container["livenessProbe"]["grpc"])

    def test_a_gpu_is_asked_for_and_used(self):
        documents = render(named("gpu"))
        container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        self.assertEqual(container["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertEqual(flags(documents)["device"], "cuda")
        with_tag = one(render(named("small"), "--set", "gpu.count=1"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        self.assertTrue(with_tag["image"].endswith("-cuda"))

    def test_threads_follow_from_the_cpu_limit_unless_they_are_set(self):
        def variables(*options):
            return one(render(named("secure"), *options), "Deployment")["spec"]["template"]["spec"]["containers"][0].get("env", [])
        self.assertEqual(variables()[0]["valueFrom"]["resourceFieldRef"]["resource"], "limits.cpu")
        self.assertEqual(variables("--set", "config.threads=2"), [])

    def test_a_changed_flag_starts_the_pods_again(self):
        def checksum(*options):
            return one(render(named("small"), *options), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/flags"]
        self.assertEqual(checksum(), checksum())
        self.assertNotEqual(checksum(), checksum("--set", "config.slots=3"))


class FlagsTest(unittest.TestCase):
    def test_values_become_flags_as_they_were_written(self):
        given = flags(render(named("secure")))
        self.assertEqual(given["window_tokens"], "65536")
        self.assertEqual(given["temperature"], "0.7")
        self.assertEqual(given["deterministic"], "true")
        self.assertEqual(flags(render(named("small"), "--set", "config.max_append_tokens=16777216"))["max_append_tokens"], "16777216")

    def test_every_flag_of_the_chart_is_one_of_the_servers(self):
        # Of branches that are not in the server yet.
        awaited = {"tls_cert", "tls_key", "tls_client_ca", "auth_tokens_file", "snapshot_key_file", "snapshot_ttl", "snapshot_store",
                   "admission_wait"}
        source = (ROOT / "server/config.cc").read_text()
        known = set(re.findall(r'{"([a-z][a-z0-9_]*)",\s+"', source))
        for values in CI:
            self.assertLessEqual(set(flags(render(values))), known | awaited)

    def test_a_flag_that_the_chart_sets_is_refused_in_config(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        owned = schema["properties"]["config"]["propertyNames"]["not"]["enum"]
        for values in CI:
            self.assertLessEqual(set(flags(render(values))) - set(yaml.safe_load(values.read_text()).get("config", {})), set(owned))
        self.assertIn("invalid propertyName 'listen'", refusal("-f", named("small"), "--set", "config.listen=0.0.0.0:1"))


class RefusalTest(unittest.TestCase):
    def test_what_the_server_would_refuse_is_refused_before(self):
        for options, said in [
            ((), "plaintext"),
            (("tls.secretName=t",), "everybody could call"),
            (("insecure=true",), "where does the model come from"),
            (("insecure=true", "model.inImage=true", "tls.clientCa.secretName=c"), "tls.clientCa needs"),
            (("insecure=true", "model.inImage=true", "snapshots.enabled=true"), "keySecret.name"),
            (("insecure=true", "model.inImage=true", "gateway.enabled=true"), "parentRefs"),
            (("insecure=true", "model.inImage=true", "tls.certManager.enabled=true"), "issuerRef"),
            (("insecure=true", "model.inImage=true", "autoscaling.hpa.enabled=true", "autoscaling.keda.enabled=true"), "exclude"),
        ]:
            with self.subTest(options):
                self.assertIn(said, refusal(*(part for option in options for part in ("--set", option))))

    def test_values_that_do_not_exist_or_do_not_fit_are_refused(self):
        for option in ("replicaCount=2", "service.port=70000", "logFormat=xml", "gpu.count=2", "model.path=relative", "image.digest=latest",
                       "networkPolicy.clients=null", "slo.firstTokenSeconds=3"):
            with self.subTest(option):
                self.assertIn("schema", refusal("-f", named("small"), "--set-json" if "null" in option else "--set",
                                                option.replace("null", "[]")))

    def test_every_value_is_in_the_schema(self):
        def names(values, properties):
            self.assertEqual(set(values), set(properties) - {"global"})
            for name, value in values.items():
                if isinstance(value, dict) and properties[name].get("additionalProperties") is False and "properties" in properties[name]:
                    if value:
                        self.assertLessEqual(set(value), set(properties[name]["properties"]))
        schema = json.loads((CHART / "values.schema.json").read_text())
        names(yaml.safe_load((CHART / "values.yaml").read_text()), schema["properties"])


class MonitoringTest(unittest.TestCase):
    def test_the_rules_are_those_of_deploy_prometheus_with_bounds_and_runbook_of_the_values(self):
        spec = one(render(named("secure")), "PrometheusRule")["spec"]
        rules = [rule for group in spec["groups"] for rule in group["rules"]]
        self.assertEqual(len(rules), len(all_rules(RULES)) + len(all_rules(ALERTS)))
        text = json.dumps(rules)
        self.assertNotIn('le=\\"2\\"', text)
        self.assertNotIn('le=\\"0.2\\"', text)
        self.assertEqual(text.count('time_to_first_token_seconds_bucket{le=\\"5\\"}'), 5)
        self.assertEqual(text.count('inter_token_latency_seconds_bucket{le=\\"0.5\\"}'), 5)
        for rule in rules:
            if "alert" in rule:
                self.assertEqual(rule["annotations"]["runbook_url"],
                                 f"https://git.example.org/mayfly/blob/main/docs/operations.md#{rule['alert'].lower()}")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rules.yaml"
            path.write_text(yaml.safe_dump(spec))
            run(tool("promtool"), "check", "rules", path)

    def test_the_default_bounds_are_those_of_the_rules(self):
        rules = one(render(named("small"), "--set", "prometheusRule.enabled=true"), "PrometheusRule")["spec"]["groups"]
        expected = [group for path in (RULES, ALERTS) for group in yaml.safe_load(path.read_text())["groups"]]
        self.assertEqual(rules, expected)

    def test_the_dashboard_is_that_of_deploy_grafana(self):
        config = one(render(named("secure")), "ConfigMap", "-dashboard")
        self.assertEqual(json.loads(config["data"]["mayfly.json"]), json.loads(DASHBOARD.read_text()))
        self.assertEqual(config["metadata"]["labels"]["grafana_dashboard"], "1")

    def test_the_scraped_job_has_a_name_that_the_alerts_look_for(self):
        for values, job in (("hpa", "mayfly-a-learner"), ("gpu", "a-mayfly")):
            documents = render(named(values), "--set", "serviceMonitor.enabled=true")
            monitor = one(documents, "ServiceMonitor")["spec"]
            selected = monitor["selector"]["matchLabels"].items()
            services = [document for document in documents
                        if document["kind"] == "Service" and selected <= document["metadata"]["labels"].items()]
            self.assertEqual(len(services), 1)
            self.assertEqual(monitor["endpoints"][0]["relabelings"], [{"targetLabel": "job", "replacement": job}])
        self.assertIn('job="a-mayfly"', one(documents, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"])


class PackageTest(unittest.TestCase):
    def test_a_package_holds_rules_and_dashboard_themselves(self):
        with tempfile.TemporaryDirectory() as folder:
            run(tool("helm"), "package", CHART, "--destination", folder)
            [package] = pathlib.Path(folder).iterdir()
            with tarfile.open(package) as archive:
                for path in (RULES, ALERTS, DASHBOARD):
                    self.assertEqual(archive.extractfile(f"mayfly/files/{path.name}").read(), path.read_bytes())

    def test_versions_are_those_of_the_build(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = re.search(r"project\(mayfly VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        self.assertEqual(chart["appVersion"], version)


if __name__ == "__main__":
    unittest.main()
