#!/usr/bin/env bash
# Builds weft, installs what is missing, and runs the main use case for real: a WASM policy picks an address for a network
# namespace, the namespace pings its gateway, weftctl explains why it got that address, and everything is torn down.
#
# A network namespace stands in for the node, and weft's files go to a temporary directory, so nothing on this
# machine is changed but the packages that were missing.
set -euo pipefail
cd "$(dirname "$0")"
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "set up"
tests/setup.sh base
# Both at once and in a profile that compiles quickly: what is shared is compiled once. An installed weft is built apart
# (`cargo weft`), optimised and without the compiler that is in weftctl.
cargo build --profile demo --locked -p weft -p weftctl --no-default-features

work=$(mktemp -d)
node="weft-demo-node-$$" pod="weft-demo-pod-$$"
cleanup() {
    ip netns del "$pod" 2>/dev/null || true
    ip netns del "$node" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
ip netns add "$node"
ip -n "$node" link set lo up
ip netns add "$pod"

export WEFT_STATE_DIR="$work/state"
bin="$work/bin"
ctl="$work/sbin/weftctl"
on_node() { ip netns exec "$node" "$@"; }

say "weftctl install"
target/demo/weftctl install --weft target/demo/weft --bin-dir "$bin" --ctl-dir "$work/sbin"

say "what the policy is, and what it may reach"
"$ctl" policy inspect by-label

cat > "$work/conf.json" <<'JSON'
{
  "cniVersion": "1.1.0",
  "name": "demo",
  "type": "weft",
  "delegate": { "type": "bridge", "bridge": "demo0", "isDefaultGateway": true, "ipMasq": true },
  "ipam": {
    "type": "by-label",
    "ranges": [
      { "name": "gold", "ranges": [{ "subnet": "10.77.1.0/24" }] },
      { "name": "bronze", "ranges": [{ "subnet": "10.77.2.0/24" }] }
    ],
    "rules": [{ "matchLabels": { "tier": "gold" }, "set": "gold" }],
    "default": "bronze"
  },
  "args": { "cni": { "labels": { "tier": "gold", "app": "demo" } } }
}
JSON
weft() {
    on_node env CNI_COMMAND="$1" CNI_CONTAINERID=demo-pod CNI_NETNS="/var/run/netns/$pod" CNI_IFNAME=eth0 \
        CNI_PATH="$bin" WEFT_STATE_DIR="$WEFT_STATE_DIR" "$bin/weft" < "$work/conf.json"
}

say "weftctl plan: what ADD would do"
on_node "$ctl" plan "$work/conf.json" --netns "/var/run/netns/$pod"

say "ADD (the pod's labels say tier=gold)"
weft ADD
echo

say "the pod's address, as the kernel shows it"
ip -n "$pod" -brief address show eth0

say "ping the gateway from the pod"
ip netns exec "$pod" ping -c 2 -W 2 10.77.1.1

say "weftctl explain"
"$ctl" explain demo-pod

say "weftctl ledger ls"
"$ctl" ledger ls

say "DEL"
weft DEL
"$ctl" ledger ls
if ip -n "$pod" link show eth0 2>/dev/null; then
    echo "eth0 is still there" >&2
    exit 1
fi
echo "eth0 is gone, the ledger is empty"
