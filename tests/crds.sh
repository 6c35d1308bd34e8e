#!/usr/bin/env bash
# The rules of deploy/crds on a real API server: what it accepts, and what it refuses with which text.
# Needs a cluster of its own, where it leaves the objects behind: KUBECTL="kubectl --kubeconfig FILE" tests/crds.sh
set -u
read -ra kubectl <<<"${KUBECTL:-kubectl}"
nonce=0123456789abcdef0123456789abcdef
failed=0

claim() { # NAME ADDRESS NONCE [EPOCH]
    local annotations=""
    [ -n "${4:-}" ] && annotations=", annotations: {ipam.weft.dev/epoch: \"$4\"}"
    cat <<YAML
apiVersion: ipam.weft.dev/v1alpha1
kind: AddressClaim
metadata: {name: $1$annotations}
spec:
  domain: default
  address: $2
  prefix: 24
  owner: {kind: Pod, namespace: ns, name: web, uid: u1, network: storage, interface: net1, slot: 0}
  holders: [{node: a, machine: m, storeID: s, bootID: b, nonce: $3, pod: ns/web, containerID: c, interface: net1}]
YAML
}
create() { claim "$@" | "${kubectl[@]}" create -f -; }
replace() { claim "$@" | "${kubectl[@]}" replace -f -; }
state() { # NAME EPOCH FROZEN
    printf 'apiVersion: ipam.weft.dev/v1alpha1\nkind: LedgerState\nmetadata: {name: %s}\nspec: {epoch: %s, frozen: %s}\n' "$@" |
        "${kubectl[@]}" apply -f -
}
accepts() { # WHAT COMMAND...
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then echo "ok    $what"; else echo "FAIL  $what: $said"; failed=1; fi
}
refuses() { # WHAT TEXT COMMAND...
    local what=$1 text=$2 said
    shift 2
    if said=$("$@" 2>&1); then echo "FAIL  $what was accepted"; failed=1
    elif [[ $said == *"$text"* ]]; then echo "ok    $what is refused"
    else echo "FAIL  $what: $said"; failed=1; fi
}

"${kubectl[@]}" apply --server-side -f "$(dirname "$0")/../deploy/crds/ipam.weft.dev.yaml" || exit 1
"${kubectl[@]}" wait --for=condition=Established crd/addressclaims.ipam.weft.dev crd/ledgerstates.ipam.weft.dev || exit 1
accepts "a claim" create default-0a000001 10.0.0.1 "$nonce"
refuses "a second claim of the name" "already exists" create default-0a000001 10.0.0.1 "$nonce"
refuses "what is no address" "IPv4 or IPv6" create default-x 10.0.0.300 "$nonce"
refuses "another address" "never change" replace default-0a000001 10.0.0.2 "$nonce"
accepts "another holder" replace default-0a000001 10.0.0.1 fedcba9876543210fedcba9876543210
refuses "a short nonce" "nonce" create default-0a000009 10.0.0.9 abc
refuses "a second LedgerState" 'called "cluster"' state other 1 true
accepts "a freeze" state cluster 1 true
sleep 3 # The API server's copy of the parameter of the admission policy.
refuses "a claim while frozen" "the cluster ledger is frozen" create default-0a000003 10.0.0.3 "$nonce"
refuses "a holder while frozen" "the cluster ledger is frozen" replace default-0a000001 10.0.0.1 "$nonce"
refuses "a re-assertion of another epoch" "the cluster ledger is frozen" create default-0a000003 10.0.0.3 "$nonce" 2
accepts "a re-assertion" create default-0a000003 10.0.0.3 "$nonce" 1
accepts "a deletion while frozen" "${kubectl[@]}" delete addressclaim default-0a000003
refuses "an older epoch" "never goes back" state cluster 0 true
accepts "the thaw" state cluster 1 false
sleep 3
accepts "a claim after the thaw" create default-0a000003 10.0.0.3 "$nonce"
exit "$failed"
