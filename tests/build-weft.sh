#!/usr/bin/env bash
# Builds weft as it ships, where the suites look for it (weft_place in tests/kit/src/programs.rs).
#
# In a target directory of its own, so that other builds go on beside it: its last step, the optimisation of the whole
# program, keeps one processor busy for minutes. Apart from the other packages in any case: cargo unifies features, and weft
# must be tested without the compiler that weftctl has.
set -euo pipefail
cd "$(dirname "$0")/.."
case $(uname -m) in
    aarch64) cargo weft-arm --target-dir target/weft ;;
    *) cargo weft --target-dir target/weft ;;
esac
binary=$(uname -m)-unknown-linux-musl/release/weft
install -D "target/weft/$binary" "target/$binary"
