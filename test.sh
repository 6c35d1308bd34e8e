#!/usr/bin/env bash
# Passes all tests: installs what is missing, builds, runs every suite, and ends with one line that counts them.
# As root (network namespaces); the machine's own namespaces are not touched. Tests that this kernel cannot run show as
# ignored with their reason and run in the kernel VM instead.
set -uo pipefail
cd "$(dirname "$0")"
log=$(mktemp) lanes=$(mktemp -d)
trap 'rm -rf "$log" "$lanes"' EXIT
failed=0
run() {
    printf '\n=== %s (%ss)\n' "$*" "$SECONDS"
    "$@" 2>&1 | tee -a "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { failed=1; printf '=== FAILED: %s\n' "$*"; }
}

tests/setup.sh all || exit 1
# These beside the other builds: the longest part of weft's keeps one processor busy for minutes.
tests/build-weft.sh &
weft=$!
tests/setup.sh reference || echo "no second reference: its build failed" >&2 &
reference=$!
{
    tests/setup.sh helm || echo "no Helm: its build failed" >&2
    tests/setup.sh kubernetes || echo "no Kubernetes: its build failed" >&2
    # After Kubernetes, whose client it shares.
    tests/setup.sh whereabouts || echo "no whereabouts: its build failed" >&2
} &
kubernetes=$!

# All other packages with the same features and options, so that what they share is compiled once.
quick=(--config tests/profile.toml)
packages=(-p weft-host-abi -p weft-core -p weft-dhcp -p weft-agent -p weftctl
    -p weft-kit -p weft-tests -p weft-bench -p weft-storm -p weft-vm -p weft-model -p weft-cluster --features weft-core/compile)
cargo build --release --locked "${quick[@]}" "${packages[@]}" --bin weftctl || exit 1
cargo test --release --locked --no-run "${quick[@]}" "${packages[@]}" || exit 1
wait "$weft" || exit 1
wait "$reference"
printf '\n=== built (%ss)\n' "$SECONDS"
# Three lanes of about the same length. Most suites wait for programs and clocks, and leave the processors idle. What needs
# Kubernetes, whose build takes longest, waits for it; the rest begins before.
ledger=(cluster_ledger)
cluster=(conformance deploy golden kubernetes pod)
machines=(reference storm vm)
names() { cargo metadata --no-deps --offline --format-version 1 | jq -r '.packages[].targets[] | select(.kind[] == "test").name' | sort -u; }
rest=()
while read -r name; do [[ " ${ledger[*]} ${cluster[*]} ${machines[*]} " == *" $name "* ]] || rest+=("$name"); done < <(names)
[ ${#rest[@]} -gt 0 ] || { echo "cargo lists no suites" >&2; exit 1; }
suites() { cargo test --release --locked --no-fail-fast "${quick[@]}" "${packages[@]}" "$@"; }
until_kubernetes_is_built() { tail --pid="$kubernetes" -f /dev/null; }
ledger_lane() {
    until_kubernetes_is_built
    suites "${ledger[@]/#/--test=}"
}
machines_lane() {
    local failed=0
    suites "${machines[@]/#/--test=}" || failed=1
    until_kubernetes_is_built
    suites "${cluster[@]/#/--test=}" || failed=1
    return "$failed"
}
lane() {
    local ended=0
    "$1" || ended=1
    printf '\n=== %s ended (%ss)\n' "$1" "$SECONDS"
    return "$ended"
}
lane ledger_lane >"$lanes/ledger" 2>&1 &
first=$!
lane machines_lane >"$lanes/machines" 2>&1 &
second=$!
run suites --lib --bins "${rest[@]/#/--test=}"
run suites --doc
# They need root, or programs that tests/setup.sh has just installed, and are marked as ignored for those who run cargo by hand.
run cargo test --release --locked "${quick[@]}" "${packages[@]}" --lib -- --ignored the_real_plugin the_sqlite3 real_etcd a_killed_plugin a_worker_that_cannot_end
run cargo test --release --locked --no-fail-fast --manifest-path guest-plugins/Cargo.toml
# With the documentation's examples.
run cargo test --release --locked --no-fail-fast --manifest-path sdk/rust/Cargo.toml --features testing --target-dir guest-plugins/target

wait "$first" || { failed=1; echo "=== FAILED: one of ${ledger[*]}"; }
wait "$second" || { failed=1; echo "=== FAILED: one of ${machines[*]} ${cluster[*]}"; }
for output in "$lanes"/*; do
    printf '\n=== %s\n' "${output##*/}"
    tee -a "$log" <"$output"
done

# What failed once more, at the end: it lies thousands of lines above.
awk '/^failures:$/ { inside = 1 } inside { print } /^test result:/ { inside = 0 }' "$log"
awk '/^test result:/ { passed += $4; failures += $6; ignored += $8 }
     END { printf "\n%d passed, %d failed, %d skipped\n", passed, failures, ignored }' "$log"
exit "$failed"
