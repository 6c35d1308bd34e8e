#!/usr/bin/env bash
# Builds weft's library for aarch64 and runs its unit tests there: in QEMU's emulation of a process on another machine, on an ARM machine
# without it. Not part of the test command: the compiler of policies is built once more for it.
#
#   tests/aarch64.sh [FILTER...]   tests whose name has one of the filters; all without any
#
# In the emulation, tests are left out that start this program again or confine a process: the kernel cannot execute a program of
# another machine, and seccomp sees the emulator's system calls.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
left_out=()
if [ "$(uname -m)" != aarch64 ]; then
    missing=()
    command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
    if [ ${#missing[@]} -gt 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null
    fi
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    left_out=(--skip commit::tests::processes --skip policy::confine --skip policy::run::worker)
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
fi
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
cargo test --release --locked --config tests/profile.toml --target "$target" -p weft-core -p weft-host-abi -p weft-dhcp --lib -- "${left_out[@]}" "$@"
