#!/usr/bin/env bash
# Builds weft as it ships, where the suites look for it (WEFT_BIN in .cargo/config.toml).
#
# In a target directory of its own, so that other builds go on beside it: its last step, the optimisation of the whole
# program, keeps one processor busy for minutes. Apart from the other packages in any case: cargo unifies features, and weft
# must be tested without the compiler that weftctl has.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo weft --target-dir target/weft
binary=x86_64-unknown-linux-musl/release/weft
install -D "target/weft/$binary" "target/$binary"
