//! The only engine configuration, for compiling and for running, and the key that binds compiled code to it.
//!
//! Invariant: builds of weft with the same [`artifact_key`] may load each other's compiled components; others refuse.
//! wasmtime only compares the major version of the compiler. The key contains the full version, so that code from a
//! release with a miscompilation is never run by the release that fixes it.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, ModuleVersionStrategy};

/// A setting of the configuration: name, value, setter.
type Switch = (&'static str, bool, fn(&mut Config, bool) -> &mut Config);

/// Every setting that affects compiled code. Proposals that no guest language needs are off: unreachable code cannot be
/// exploited (for example the SIMD lowerings). Rust, C, JavaScript and Python guests only need bulk memory, reference
/// types, multi-value and extended constants.
const SWITCHES: &[Switch] = &[
    ("consume_fuel", true, Config::consume_fuel),
    ("wasm_component_model", true, Config::wasm_component_model),
    ("wasm_bulk_memory", true, Config::wasm_bulk_memory),
    ("wasm_multi_value", true, Config::wasm_multi_value),
    ("wasm_extended_const", true, Config::wasm_extended_const),
    // wasmtime's adapters between the parts of a component copy from one memory to another. Components of one core
    // module (Rust, C) have none; those of JavaScript and Python do, and without this the compiler panics on them.
    ("wasm_multi_memory", true, Config::wasm_multi_memory),
    // Relaxed SIMD needs SIMD, so disable it first.
    ("wasm_relaxed_simd", false, Config::wasm_relaxed_simd),
    ("wasm_simd", false, Config::wasm_simd),
    ("wasm_memory64", false, Config::wasm_memory64),
    ("wasm_tail_call", false, Config::wasm_tail_call),
    ("wasm_wide_arithmetic", false, Config::wasm_wide_arithmetic),
    ("wasm_custom_page_sizes", false, Config::wasm_custom_page_sizes),
    // Policies end at traps, so unwind tables for debuggers are not needed; the address map makes traps readable.
    ("generate_address_map", true, Config::generate_address_map),
    ("native_unwind_info", false, Config::native_unwind_info),
];

/// Bytes of native stack for a guest: recursion traps well before the thread's own stack overflows.
const WASM_STACK: usize = 512 * 1024;

/// Code is compiled for the baseline of the architecture. Detecting more processor features takes ten instructions that
/// each trap into a hypervisor, if there is one: more time than a policy could save. Also, the code may move with the
/// machine.
const BASELINE: &str = "baseline=true;";

static KEY: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    hash.update(BASELINE);
    for (name, on, _set) in SWITCHES {
        hash.update(format!("{name}={on};"));
    }
    let hex: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("weft+{}+{hex}", wasmtime_version())
});

/// Returns the full version of wasmtime of this build.
#[must_use]
pub fn wasmtime_version() -> &'static str {
    env!("WEFT_WASMTIME_VERSION")
}

/// Returns the key of compiled code besides the component's digest: `weft+<wasmtime version>+<configuration id>`. It is
/// written into the compiled file (and compared by wasmtime's loader) and is part of the file's name.
#[must_use]
pub fn artifact_key() -> &'static str {
    &KEY
}

/// Returns the configuration of every engine of weft.
///
/// # Errors
///
/// wasmtime's error, if it rejects the key (which is short enough).
pub fn engine_config() -> wasmtime::Result<Config> {
    let mut config = Config::new();
    for (_name, on, set) in SWITCHES {
        set(&mut config, *on);
    }
    // The bits of a NaN differ between processors, but a replayed decision must not.
    #[cfg(feature = "compile")]
    config.cranelift_nan_canonicalization(true);
    // Naming the target selects the baseline.
    #[cfg(feature = "compile")]
    config.target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))?;
    config.max_wasm_stack(WASM_STACK);
    config.module_version(ModuleVersionStrategy::Custom(artifact_key().to_owned()))?;
    Ok(config)
}

/// Creates an engine. One per process: wasmtime has had bugs that mix up type indices between engines.
///
/// # Errors
///
/// wasmtime's error, if the host cannot run such an engine.
pub fn new_engine() -> wasmtime::Result<Engine> {
    Engine::new(&engine_config()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn key_names_the_exact_release() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(
            manifest.contains(&format!("wasmtime = {{ version = \"={}\"", wasmtime_version())),
            "{}",
            artifact_key()
        );
        assert!(artifact_key().starts_with("weft+") && artifact_key().len() < 64, "{}", artifact_key());
    }

    #[test]
    fn config_makes_an_engine() {
        new_engine().expect("this host runs the shared configuration");
    }
}
