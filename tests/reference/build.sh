#!/usr/bin/env bash
# build.sh [DIR]   builds the second reference of the suite `reference`: the current plugins of the CNI project, and its `cnitool`.
# DIR is by default where the suites look for it. Nothing is done where DIR has this version already. Versions are pinned in
# go.mod and go.sum.
#
# It needs Go and its module proxy; a few minutes of one core when nothing is cached.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-/usr/local/lib/weft-test-tools/reference}
version=$(sed -n 's#.*containernetworking/plugins \(v[0-9.]*\).*#\1#p' go.mod)
. ../go-once.sh
built_once "$out" "$out/stamp" "the CNI project's plugins $version" go.mod go.sum build.sh
rm -rf "$out.new"
mkdir "$out.new"
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$out.new/" -ldflags "-s -w \
    -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$version" tool
echo "$stamp" >"$out.new/stamp"
rm -rf "$out"
mv "$out.new" "$out"
