#!/usr/bin/env bash
# build.sh [OUT]   builds Helm for the suites `deploy` and `kubernetes`; OUT is by default where they look for it. Nothing is done
# where OUT is this version already. Versions are pinned in go.mod and go.sum.
#
# It needs Go and its module proxy; a few minutes of one core when nothing is cached.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-/usr/local/lib/weft-test-tools/helm/helm}
version=$(sed -n 's#.*helm.sh/helm/v3 \(v[0-9.]*\).*#\1#p' go.mod)
. ../go-once.sh
built_once "$out" "$out.stamp" "Helm $version" go.mod go.sum build.sh
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$out.new" -ldflags "-s -w \
    -X helm.sh/helm/v3/internal/version.version=$version" helm.sh/helm/v3/cmd/helm
mv "$out.new" "$out"
echo "$stamp" >"$out.stamp"
