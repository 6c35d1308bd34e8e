#!/usr/bin/env bash
# Installs what is missing on a Debian machine: idempotent, and quick when all is there.
#
#   tests/setup.sh base   to build weft and run demo.sh
#   tests/setup.sh all    to run every test (default)
#   tests/setup.sh kubernetes   Kubernetes alone, for its suite: minutes of building when nothing is cached
#   tests/setup.sh reference    the CNI project's current plugins, a second reference
#   tests/setup.sh helm         Helm, for the chart
#   tests/setup.sh whereabouts  whereabouts, which weft's cluster ledger is compared with
#
# What a package is needed for stands beside it. Rust itself is not installed here.
set -euo pipefail

base=(
    "cc            gcc                       # SQLite is compiled"
    "musl-gcc      musl-tools                # once more, for weft"
    "ip            iproute2                  # namespaces, and looking at links"
    "ping          iputils-ping              # to see that packets pass"
)
all=(
    "nft           nftables                  # looking at rulesets; the reference's macspoofchk"
    "iptables      iptables                  # the reference's ipMasq"
    "/usr/lib/cni/bridge containernetworking-plugins  # the reference"
    "containerd    containerd                # a real runtime"
    "runc          runc                      # its containers"
    "dpkg:busybox-static busybox-static      # what runs in them (the plain package is not static)"
    "umoci         umoci                     # images, made here"
    "skopeo        skopeo                    # images, copied"
    "docker-registry docker-registry         # policies, pushed and pulled"
    "minisign      minisign                  # their signatures"
    "tcpdump       tcpdump                   # announcements on the wire"
    "sqlite3       sqlite3                   # the ledger, seen from outside"
    "etcd          etcd-server               # a cluster ledger"
    "dnsmasq       dnsmasq-base              # a DHCP server"
    "dbus-daemon   dbus-daemon               # a bus for a stand-in of firewalld"
    "clang         clang                     # a policy in C"
    "wasm-ld       lld                       # its linker"
    "/usr/include/wasm32-wasi/stdlib.h wasi-libc # its C library"
    "dpkg:libclang-rt-14-dev-wasm32 libclang-rt-14-dev-wasm32 # and what the compiler calls"
    "python3       python3                   # opens a tap device"
    "jsonschema    python3-jsonschema        # the schema of configurations, by another implementation"
    "jq            jq                        # JSON in scripts"
    "strace        strace                    # no child process is started"
    "openssl       openssl                   # a key for the service accounts of the real Kubernetes"
    "promtool      prometheus                # the alerts, evaluated"
    "hyperfine     hyperfine                 # benchmarks by hand"
    "cpio          cpio                      # the VM's initramfs"
    "qemu-system-x86_64 qemu-system-x86      # a kernel with what this one may lack"
)

# The suite `kubernetes` runs a real one, built here from its published modules; without it that suite shows as ignored.
if [ "${1:-all}" = kubernetes ]; then
    [ -z "${WEFT_KUBE_BIN:-}" ] && command -v go >/dev/null || exit 0
    exec "$(dirname "$0")/cluster/kubernetes/build.sh"
fi

# The second reference of the suite `reference`, built from its published module; without it those trials show as ignored.
if [ "${1:-all}" = reference ]; then
    [ -z "${CNI_CURRENT_DIR:-}" ] && command -v go >/dev/null || exit 0
    exec "$(dirname "$0")/reference/build.sh"
fi

# Helm, built from its published module; without it the chart's trials show as ignored.
if [ "${1:-all}" = helm ]; then
    [ -z "${WEFT_HELM_BIN:-}" ] && command -v go >/dev/null || exit 0
    exec "$(dirname "$0")/helm/build.sh"
fi

# whereabouts, built from its published module; without it the trials beside it show as ignored.
if [ "${1:-all}" = whereabouts ]; then
    [ -z "${WEFT_WHEREABOUTS_BIN:-}" ] && command -v go >/dev/null || exit 0
    exec "$(dirname "$0")/whereabouts/build.sh"
fi

case "${1:-all}" in
    base) wanted=("${base[@]}") ;;
    all) wanted=("${base[@]}" "${all[@]}") ;;
    *) echo "usage: tests/setup.sh [base|all|kubernetes|reference|helm|whereabouts]" >&2; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
missing=()
for line in "${wanted[@]}"; do
    read -r program package _ <<<"$line"
    case $program in
        dpkg:*) dpkg-query -W -f "\${Status}" "${program#dpkg:}" 2>/dev/null | grep -q "ok installed" || missing+=("$package") ;;
        /*) [ -e "$program" ] || missing+=("$package") ;;
        *) command -v "$program" >/dev/null || missing+=("$package") ;;
    esac
done

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "needs root to install packages; run as root, or install them yourself: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Services of these packages (containerd, dnsmasq) are not wanted: the tests start their own, in their own namespaces.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        apt-get update -qq
        apt-get install -y --no-install-recommends "${missing[@]}"
    }
fi

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: install it with rustup (https://rustup.rs), then come back" >&2
    exit 1
fi
# Policies in other languages: without these, their tests show as ignored.
if [ "${1:-all}" = all ]; then
    tools=/usr/local/lib/weft-test-tools
    if ! command -v componentize-qjs >/dev/null && command -v npm >/dev/null; then
        npm install --no-audit --no-fund --prefix "$tools/js" componentize-qjs@0.4.5 >/dev/null &&
            ln -sf "$tools/js/node_modules/.bin/componentize-qjs" /usr/local/bin/ || echo "no componentize-qjs: npm failed" >&2
    fi
    if ! command -v componentize-py >/dev/null && python3 -m venv --help >/dev/null 2>&1; then
        { [ -x "$tools/py/bin/pip" ] || python3 -m venv "$tools/py"; } && "$tools/py/bin/pip" install -q componentize-py==0.25.1 &&
            ln -sf "$tools/py/bin/componentize-py" /usr/local/bin/ || echo "no componentize-py: pip failed" >&2
    fi
    if ! command -v python-zig >/dev/null && python3 -m venv --help >/dev/null 2>&1; then
        { [ -x "$tools/py/bin/pip" ] || python3 -m venv "$tools/py"; } && "$tools/py/bin/pip" install -q ziglang==0.17.1 &&
            ln -sf "$tools/py/bin/python-zig" /usr/local/bin/ || echo "no zig: pip failed" >&2
    fi
fi

# Policies are WASM; weft is linked against musl; one test policy imports WASI, to see that it is refused.
targets=(wasm32-unknown-unknown "$(uname -m)-unknown-linux-musl")
[ "${1:-all}" = base ] || targets+=(wasm32-wasip2)
sysroot=$(rustc --print sysroot)
for target in "${targets[@]}"; do
    [ -d "$sysroot/lib/rustlib/$target/lib" ] || rustup target add "$target"
done
