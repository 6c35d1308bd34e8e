#!/usr/bin/env bash
# build.sh [OUT]   builds Kubernetes as one program (main.go) for the suite `kubernetes`; OUT is by default where the suites
# look for it. Nothing is done where OUT is this version already. Versions are pinned in go.mod and go.sum.
#
# It needs Go and its module proxy, 3.5 GB of memory, 5 GB of disk, and about 18 minutes of one core when nothing is cached.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-/usr/local/lib/weft-test-tools/kubernetes/kubernetes}
version=$(sed -n 's#^\t*\(require \)\{0,1\}k8s.io/kubernetes \(v[0-9.]*\).*#\2#p' go.mod)
minor=${version#v1.} minor=${minor%%.*}
. ../../go-once.sh
built_once "$out" "$out.stamp" "Kubernetes $version" ./*.go go.mod go.sum build.sh
# Without these every part says that it is v0.0.0-master, and kubelet and API server compare versions.
base=k8s.io/component-base/version client=k8s.io/client-go/pkg/version
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$out.new" -ldflags "-s -w \
    -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor \
    -X $client.gitVersion=$version -X $client.gitMajor=1 -X $client.gitMinor=$minor" .
mv "$out.new" "$out"
echo "$stamp" >"$out.stamp"
