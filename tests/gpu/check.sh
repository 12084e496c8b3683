#!/usr/bin/env bash
# On a machine with a GPU: builds with the GPU library, runs every test that is labelled gpu and the benchmarks.
#   tests/gpu/check.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v nvidia-smi >/dev/null && nvidia-smi -L || { echo "check.sh: this machine has no NVIDIA GPU" >&2; exit 1; }
./dev build --cuda
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement tools/requirements-cuda-run.txt

# A test that skips itself here has not found the device that is there.
ctest --test-dir build-cuda -L gpu --output-on-failure | tee build-cuda/gpu-tests.txt
! grep -q 'Skipped' build-cuda/gpu-tests.txt || { echo "check.sh: tests were skipped" >&2; exit 1; }

build-cuda/bin/engine_bench --cuda --benchmark_format=console
