#!/usr/bin/env bash
# build.sh [OUT]   builds whereabouts' CNI program for the suite `cluster_ledger`; OUT is by default where it looks for it.
# Nothing is done where OUT is this version already. Versions are pinned in go.mod and go.sum: the Kubernetes client is the one of
# tests/cluster/kubernetes and not whereabouts' own, so that it is compiled once for both.
#
# It needs Go and its module proxy; 20 s of one core after Kubernetes, three minutes when nothing is cached.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-/usr/local/lib/weft-test-tools/whereabouts/whereabouts}
version=$(sed -n 's#.*k8snetworkplumbingwg/whereabouts \(v[0-9.]*\).*#\1#p' go.mod)
. ../go-once.sh
built_once "$out" "$out.stamp" "whereabouts $version" go.mod go.sum build.sh
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$out.new" -ldflags "-s -w" github.com/k8snetworkplumbingwg/whereabouts/cmd
mv "$out.new" "$out"
echo "$stamp" >"$out.stamp"
