"""The README's Python example does what the README says."""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from harness import PATIENCE_SECONDS, ROOT, Server, stubs_folder


class ReadmeTest(unittest.TestCase):
    def test_the_python_example_learns_a_text_and_continues_it(self):
        example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
        server = Server("--slots=1", "--window_tokens=256", "--chunk_tokens=64", "--context_tokens=64",
                        "--log_level=warning")
        self.addCleanup(server.kill)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "book.txt").write_text("It was the best of times, it was the worst of times. " * 10)
            done = subprocess.run(
                [sys.executable, "-c", example.replace("127.0.0.1:7400", server.address)],
                cwd=folder, env=dict(os.environ, PYTHONPATH=stubs_folder()),
                capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("learned chunk 0: losses", done.stdout)
        self.assertRegex(done.stdout, r"\nfreed [\d,]+ bytes\n$")
        self.assertNotIn("failed", done.stdout)


if __name__ == "__main__":
    unittest.main()
