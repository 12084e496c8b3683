#!/usr/bin/env python3
"""Dockerfile, compose file and Envoy's example: what can be known of them without building an image."""

import http.server
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import threading
import unittest

import yaml

from support import DEPLOY, ROOT, run, tool

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def load_sbom():
    spec = importlib.util.spec_from_file_location("sbom", DOCKER / "sbom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class DockerfileTest(unittest.TestCase):
    def test_the_linters_find_nothing(self):
        run(tool("hadolint"), "--config", DOCKER / ".hadolint.yaml", DOCKER / "Dockerfile")
        run(tool("shellcheck"), *DOCKER.glob("*.sh"), *(ROOT / "tests/deploy").glob("*.sh"))

    def test_all_that_is_copied_exists_and_is_not_ignored(self):
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M):
            for source in sources.split():
                self.assertTrue(list(ROOT.glob(source)), source)
                self.assertIn(f"!{source.split('/')[0]}", ignore)

    def test_the_packages_are_read_from_dev_as_it_is(self):
        pattern = re.search(r"sed -n '(.*?)' dev", DOCKERFILE)[1]
        lines = run("sed", "-n", pattern, ROOT / "dev").splitlines()
        self.assertEqual((lines[0], lines[-1]), ("readonly PACKAGES=(", ")"))
        self.assertIn("libgrpc++-dev", " ".join(lines))

    def test_the_image_runs_as_nobody_in_particular_and_drains_on_sigterm(self):
        server = DOCKERFILE[DOCKERFILE.index(" AS server\n"):]
        self.assertIn("\nUSER 65532:65532\n", server)
        self.assertIn("\nSTOPSIGNAL SIGTERM\n", server)
        self.assertRegex(server, r"\nHEALTHCHECK .* CMD \[\"healthcheck\"\]\n")

    def test_versions_are_those_of_the_build(self):
        version = re.search(r"project\(mayfly VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        self.assertIn(f"\nARG VERSION={version}\n", DOCKERFILE)
        self.assertEqual(COMPOSE["services"]["mayfly"]["image"], f"mayfly:{version}")


class HealthcheckTest(unittest.TestCase):
    def status(self, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802  (http.server's name)
                self.send_response(answer if self.path == "/healthz" else 404)
                self.end_headers()

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            done = self.check(server.server_port)
            server.shutdown()
        return done

    @staticmethod
    def check(port):
        return subprocess.run([DOCKER / "healthcheck.sh"], env={**os.environ, "HEALTHCHECK_PORT": str(port)}, timeout=60,
                              capture_output=True, check=False).returncode

    def test_it_says_what_healthz_says(self):
        self.assertEqual(self.status(200), 0)
        self.assertNotEqual(self.status(503), 0)

    def test_nobody_there_is_unhealthy(self):
        self.assertNotEqual(self.check(1), 0)


class SbomTest(unittest.TestCase):
    def test_packages_wheels_and_crates_are_listed_once_with_their_addresses(self):
        sbom = load_sbom()
        status = ("Package: libgrpc++1.51\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.51.1-3+b1\nDescription: x\n y: z\n\n"
                  "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n")
        lock = (ROOT / "engine/text/rust/Cargo.lock").read_text()
        document = sbom.document("1.2.3", [*sbom.debian_packages(status), *sbom.wheels("torch 2.11.0\n"), *sbom.crates(lock), *sbom.crates(lock)])
        addresses = [part["purl"] for part in document["components"]]
        self.assertIn("pkg:deb/debian/libgrpc++1.51@1.51.1-3%2Bb1?arch=amd64&distro=bookworm", addresses)
        self.assertIn("pkg:pypi/torch@2.11.0", addresses)
        self.assertTrue(any(address.startswith("pkg:cargo/tokenizers@") for address in addresses))
        self.assertFalse(any("gone" in address for address in addresses))
        self.assertEqual(len(addresses), len(set(addresses)))
        json.dumps(document)


class ComposeTest(unittest.TestCase):
    def test_it_fits_the_specification(self):
        spec = importlib.util.find_spec("compose")
        try:
            import jsonschema
        except ImportError:
            spec = None
        if spec is None:
            self.skipTest("no schema of compose files here; ./dev check-deploy installs it")
        schema = json.loads((pathlib.Path(spec.submodule_search_locations[0]) / "config/compose_spec.json").read_text())
        jsonschema.validate({key: value for key, value in COMPOSE.items() if key != "name"}, schema, jsonschema.Draft7Validator)

    def test_all_that_is_mounted_is_in_the_repository(self):
        for name, service in COMPOSE["services"].items():
            for mount in service.get("volumes", []):
                source = mount.split(":")[0]
                if source.startswith(".") and "/models/" not in source:  # ./dev setup makes the model
                    self.assertTrue((DOCKER / source).exists(), f"{name}: {source}")

    def test_nothing_is_published_beyond_the_loopback(self):
        for service in COMPOSE["services"].values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_every_flag_is_one_of_the_servers(self):
        known = set(re.findall(r'{"([a-z][a-z0-9_]*)",\s+"', (ROOT / "server/config.cc").read_text()))
        default = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.M)[1])
        for flag in default + COMPOSE["services"]["mayfly"]["command"]:
            self.assertIn(flag.removeprefix("--").split("=")[0], known)

    def test_the_grace_period_holds_the_whole_drain(self):
        server = COMPOSE["services"]["mayfly"]
        [drain] = [int(flag.removeprefix("--drain_timeout=").removesuffix("s")) for flag in server["command"] if "drain" in flag]
        after = re.findall(r"k(?:HandOver|Release)Seconds = (\d+);", (ROOT / "server/serve.cc").read_text())
        self.assertGreaterEqual(int(server["stop_grace_period"].removesuffix("s")), drain + sum(map(int, after)))

    def test_stages_that_are_built_exist(self):
        for service in COMPOSE["services"].values():
            if "build" in service:
                self.assertIn(f" AS {service['build']['target']}\n", DOCKERFILE)


class EnvoyTest(unittest.TestCase):
    def test_envoy_takes_the_example(self):
        run(tool("envoy"), "--mode", "validate", "--log-level", "error", "-c", DEPLOY / "envoy/envoy.yaml")


if __name__ == "__main__":
    unittest.main()
