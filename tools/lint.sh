#!/usr/bin/env bash
# Formatting, includes, thread annotations: ./dev lint. Takes the compile commands of build/.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=0
git ls-files '*.h' '*.cc' '*.cu' | xargs clang-format --dry-run --Werror || failed=1
python3 -B tests/structure/include_rules.py || failed=1
python3 -B tools/check_thread_annotations.py || failed=1
exit $failed
