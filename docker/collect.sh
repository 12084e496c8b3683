#!/usr/bin/env bash
# Collects what an image holds beside Debian's packages: collect.sh cpu|cuda OUTPUT, in the root of the built repository.
#   OUTPUT/opt/mayfly/{bin,lib}   programs, and libraries that no package of Debian has; programs look into ../lib
#   OUTPUT/packages.txt           Debian's packages whose libraries they load
#   OUTPUT/wheels.txt             NAME VERSION of the wheels that the libraries are from
set -euo pipefail
variant=$1 output=$2
site=$(echo .venv/lib/python3*/site-packages)
bin=$output/opt/mayfly/bin lib=$output/opt/mayfly/lib
mkdir -p "$bin" "$lib"

cp build/bin/mayflyd build/bin/mayfly "$bin"
strip "$bin"/*
if [[ $variant == cuda ]]; then
  cp build/lib/libmayfly_cuda.so "$lib"
  cp "$site"/torch/lib/lib{torch_cuda,torch_cuda_linalg,c10_cuda,torch_nvshmem}.so "$lib"
  # cuDNN and others load parts of theirs by name: all of them.
  find "$site/nvidia" -name 'lib*.so*' -not -path '*/stubs/*' -exec cp -n {} "$lib" ';'
fi

loaded() { ldd build/bin/mayflyd build/bin/mayfly | awk '$2 == "=>" { print $3 }' | sort -u; }
loaded | grep -F "$(realpath "$site")" | xargs cp -nL -t "$lib"
loaded | grep -vF "$(realpath "$site")" | xargs -n1 realpath | sort -u | xargs dpkg -S | sed 's/:.*//' | sort -u >"$output/packages.txt"

.venv/bin/pip list --format=freeze --disable-pip-version-check | sed -n 's/^\(torch\|nvidia-[^=]*\)==/\1 /p' >"$output/wheels.txt"
