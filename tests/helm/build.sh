#!/usr/bin/env bash
# build.sh [OUT]   builds Helm for the suites `deploy` and `kubernetes`; OUT is by default where they look for it. Nothing is done
# where OUT is this version already. Versions are pinned in go.mod and go.sum.
#
# It needs Go and its module proxy; a few minutes of one core when nothing is cached.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-/usr/local/lib/weft-test-tools/helm/helm}
version=$(sed -n 's#.*helm.sh/helm/v3 \(v[0-9.]*\).*#\1#p' go.mod)
stamp=$(cat go.mod go.sum build.sh | sha256sum | cut -d" " -f1)
[ -x "$out" ] && [ "$(cat "$out.stamp" 2>/dev/null)" = "$stamp" ] && exit 0

command -v go >/dev/null || { echo "Go is missing: Helm cannot be built (https://go.dev/dl)" >&2; exit 1; }
mkdir -p "$(dirname "$out")"
# Several checkouts may come here at once.
exec 9>"$out.lock"
flock 9
[ -x "$out" ] && [ "$(cat "$out.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
echo "building Helm $version for the tests"
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$out.new" -ldflags "-s -w \
    -X helm.sh/helm/v3/internal/version.version=$version" helm.sh/helm/v3/cmd/helm
mv "$out.new" "$out"
echo "$stamp" >"$out.stamp"
