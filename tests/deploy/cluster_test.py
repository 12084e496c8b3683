#!/usr/bin/env python3
"""A real kube-apiserver takes what the chart renders (server-side dry run). KUBE_APISERVER names the program that
build_apiserver.sh builds."""

import contextlib
import os
import pathlib
import subprocess
import tempfile
import unittest

import yaml

from chart_test import CI, CRDS, UNCHECKED, render
from support import eventually, free_port, run, tool


def start_cluster(stack, folder):
    """The apiserver's address. Nothing runs in it: no controller, no node."""
    def start(*command):
        log = stack.enter_context(open(folder / f"{pathlib.Path(command[0]).name}.log", "w"))
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=folder)
        stack.callback(process.wait)
        stack.callback(process.terminate)

    etcd, peers, port = (free_port() for _ in range(3))
    run("openssl", "genrsa", "-out", folder / "sa.key", "2048")
    (folder / "tokens.csv").write_text('token,admin,1,"system:masters"\n')
    start(tool("etcd"), "--data-dir=etcd", f"--listen-client-urls=http://127.0.0.1:{etcd}",
          f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peers}")
    start(os.environ["KUBE_APISERVER"], f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}", "--bind-address=127.0.0.1",
          "--advertise-address=127.0.0.1", "--cert-dir=certs", "--service-account-key-file=sa.key",
          "--service-account-signing-key-file=sa.key", "--service-account-issuer=https://kubernetes.default.svc",
          "--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
          "--disable-admission-plugins=ServiceAccount")
    return f"https://127.0.0.1:{port}"


@unittest.skipUnless("KUBE_APISERVER" in os.environ, "no KUBE_APISERVER; ./dev check-deploy --cluster builds one")
class ClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        stack = cls.enterClassContext(contextlib.ExitStack())
        cls.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cls.server = start_cluster(stack, cls.folder)
        eventually(lambda: cls.answers("get", "--raw=/readyz"), "the apiserver is ready")
        cls.kubectl("apply", "--server-side", "-f", CRDS, "--recursive")
        cls.kubectl("create", "namespace", "serving")
        cls.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    @classmethod
    def command(cls, *arguments):
        return [tool("kubectl"), f"--server={cls.server}", "--token=token", "--insecure-skip-tls-verify", *map(str, arguments)]

    @classmethod
    def kubectl(cls, *arguments):
        return run(*cls.command(*arguments), env={**os.environ, "HOME": str(cls.folder)})

    @classmethod
    def answers(cls, *arguments):
        return subprocess.run(cls.command(*arguments), capture_output=True, check=False).returncode == 0

    def dry_run(self, documents):
        path = self.folder / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return self.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "--namespace=serving", "-f", path)

    def test_the_apiserver_takes_every_set_of_values(self):
        for values in CI:
            with self.subTest(values.name):
                documents = [document for document in render(values) if document["kind"] not in UNCHECKED]
                answer = self.dry_run(documents)
                self.assertEqual(answer.count("serverside-applied"), len(documents), answer)

    def test_it_refuses_what_does_not_fit_together(self):
        documents = render(CI[0])
        for document in documents:
            if document["kind"] == "Deployment":
                document["spec"]["template"]["spec"]["volumes"].pop()
        with self.assertRaisesRegex(AssertionError, "volumeMounts"):
            self.dry_run([document for document in documents if document["kind"] == "Deployment"])


if __name__ == "__main__":
    unittest.main()
