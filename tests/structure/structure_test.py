#!/usr/bin/env python3
"""The tree obeys its include rules, and the rules catch what they name."""

import tempfile
import unittest
from pathlib import Path

import include_rules

ROOT = Path(__file__).resolve().parents[2]


def breaches_of(path, text, lists=""):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
        (root / path).with_name("CMakeLists.txt").write_text(lists)
        return list(include_rules.breaches(root))


class StructureTest(unittest.TestCase):
    def test_every_include_of_the_tree_goes_down(self):
        self.assertEqual(list(include_rules.breaches(ROOT)), [])

    def test_a_storey_that_includes_what_lies_above_it_is_found(self):
        for path, included in [
            ("engine/base/clock.h", "engine/types.h"),
            ("engine/model/llama.h", "session/types.h"),
            ("engine/text/tokenizer.h", "ATen/ATen.h"),
            ("engine/types.h", "ATen/ATen.h"),
            ("engine/device/stream.h", "c10/cuda/CUDAStream.h"),
            ("engine/train/loss.h", "cuda_runtime_api.h"),
            ("session/session.h", "grpcpp/server.h"),
            ("session/session.h", "engine/runtime/engine_loop.h"),
            ("server/server.h", "engine/create_engine.h"),
            ("server/main.h", "c10/core/Device.h"),
            ("client/app.h", "session/types.h"),
            ("tests/x.h", "torch/torch.h"),
        ]:
            with self.subTest(path=path, included=included):
                self.assertEqual(len(breaches_of(path, f'#pragma once\n#include "{included}"\n')), 1)

    def test_what_may_be_included_is_not_found(self):
        for path, included in [
            ("session/session.h", "engine/engine.h"),
            ("server/server.h", "grpcpp/server.h"),
            ("engine/model/llama.h", "ATen/ATen.h"),
            ("engine/device/cuda/ops.h", "c10/cuda/CUDAStream.h"),
        ]:
            with self.subTest(path=path, included=included):
                self.assertEqual(breaches_of(path, f'#pragma once\n#include "{included}"\n'), [])
        self.assertEqual(breaches_of("server/main.cc", '#include "engine/create_engine.h"\n', "main.cc"), [])

    def test_a_header_without_a_guard_and_a_source_that_nobody_builds_are_found(self):
        self.assertEqual(len(breaches_of("client/app.h", "")), 1)
        self.assertEqual(len(breaches_of("client/app.cc", "")), 1)
        self.assertEqual(breaches_of("client/app.cc", "", "mayfly_binary(mayfly SRCS app.cc)"), [])


if __name__ == "__main__":
    unittest.main()
