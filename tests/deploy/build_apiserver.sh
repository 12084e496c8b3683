#!/usr/bin/env bash
# Builds a kube-apiserver from its Go module: build_apiserver.sh OUTPUT. Some minutes and 2 GB of memory on two cores.
set -euo pipefail
readonly VERSION=1.34.4
output=$(realpath -m "$1")
[[ -x $output ]] && exit
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
printf 'module apiserver\ngo 1.24.0\nrequire k8s.io/kubernetes v%s\n' "$VERSION" >go.mod
upstream=$(go mod download -json "k8s.io/kubernetes@v$VERSION" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
# Its own go.mod takes the modules of its staging folder from there; they are published too, as v0.
grep -oE 'k8s.io/[a-z-]+ => ./staging' "$upstream" |
  sed -E "s#(k8s.io/[a-z-]+) => .*#replace \1 => \1 v0.${VERSION#1.}#" >>go.mod
export GOFLAGS=-mod=mod
go get "k8s.io/kubernetes/cmd/kube-apiserver@v$VERSION"
nice go build -p 2 -trimpath -ldflags='-s -w' -o "$output" k8s.io/kubernetes/cmd/kube-apiserver
