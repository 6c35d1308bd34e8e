//! Builds by other tools, without them, and of the SDK itself.

use super::*;

/// Where there is no clang, zig compiles: here in the project's own Python environment.
pub(super) fn by_zig() -> Result<()> {
    let project = Project::new("c", "ipam")?;
    let path = std::env::var_os("PATH").context("PATH")?;
    let zig = std::env::split_paths(&path).map(|dir| dir.join("python-zig")).find(|file| file.is_file());
    fs::create_dir_all(project.dir.join(".venv/bin"))?;
    symlink(zig.context("no python-zig in PATH")?, project.dir.join(".venv/bin/python-zig"))?;
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.args(["policy", "test"]).current_dir(&project.dir).env("PATH", "/nonexistent").env_remove("WASI_SDK_PATH");
    let output = process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl policy test")?;
    ensure!(output.text().contains(" passed, 0 failed"), "{}{}", output.text(), output.stderr);
    Ok(())
}

/// cargo packs the SDK with its contract, and builds it from what is in the package alone.
pub(super) fn sdk_is_a_package() -> Result<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("author-package");
    let sdk = programs::repository().join("sdk/rust");
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args(["package", "--allow-dirty", "--offline"]).args(arguments).arg("--target-dir").arg(&target);
        cargo.current_dir(&sdk);
        for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        process::output(&Place::default(), cargo, b"", LIMIT)?.success("cargo package")
    };
    cargo(&["--features", "testing"])?;
    let packed = cargo(&["--list"])?.text();
    for file in ["wit/policy.wit", "src/lib.rs", "src/testing.rs", "README.md"] {
        ensure!(packed.lines().any(|line| line == file), "no {file} in {packed}");
    }
    Ok(())
}

/// Runs `cargo test` in a new project, for both kinds.
pub(super) fn rust_tests_of_its_own() -> Result<()> {
    for kind in ["ipam", "delegate"] {
        let project = Project::new("rust", kind)?;
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--locked"]).current_dir(&project.dir);
        for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        let output = process::output(&Place::default(), cargo, b"", LIMIT)?.success("cargo test")?;
        ensure!(output.text().contains("1 passed"), "{}", output.text());
    }
    Ok(())
}

/// Without the tools, the error says exactly what to install.
pub(super) fn missing_tool() -> Result<()> {
    for (language, words) in [
        ("js", "npm install -g componentize-qjs@0.4.5"),
        ("python", "pip install componentize-py==0.25.1"),
        ("c", "pip install ziglang==0.17.1"),
    ] {
        let project = Project::new(language, "ipam")?;
        let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
        command
            .args(["policy", "build"])
            .current_dir(&project.dir)
            .env("PATH", "/nonexistent")
            .env_remove("WASI_SDK_PATH");
        let output = process::output(&Place::default(), command, b"", LIMIT)?;
        ensure!(output.status != Some(0) && output.stderr.contains(words), "{language}: {}", output.stderr);
    }
    Ok(())
}

/// An upgrade replaces the program while it works: here the compiler removes it. The policy is compiled all the same.
pub(super) fn replaced_meanwhile() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new("c", "ipam")?;
    let own = project.dir.with_extension("weftctl");
    fs::copy(programs::weftctl().map_err(anyhow::Error::msg)?, &own).context("copy weftctl")?;
    let (tools, compiler) = (project.dir.join(".venv/bin"), project.dir.join(".venv/bin/zig"));
    fs::create_dir_all(&tools)?;
    let script =
        format!("#!/bin/sh\n/bin/rm -f {}\nshift 3\nexec /usr/bin/clang --target=wasm32-wasi \"$@\"\n", own.display());
    fs::write(&compiler, script)?;
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(&own);
    command.args(["policy", "test"]).current_dir(&project.dir).env("PATH", "/nonexistent").env_remove("WASI_SDK_PATH");
    let output = process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl policy test")?;
    ensure!(!own.exists() && output.text().contains(" passed, 0 failed"), "{}{}", output.text(), output.stderr);
    Ok(())
}

/// A policy that would need WASI is refused when it is built.
pub(super) fn wasi_is_refused() -> Result<()> {
    let project = Project::new("c", "ipam")?;
    let source = project.dir.join("policy.c");
    let text = fs::read_to_string(&source)?;
    let greeting = "static bool keeps(const request_t *request) {\n    printf(\"%d\", (int)request->now);";
    let text = text.replace("static bool keeps(const request_t *request) {", greeting);
    fs::write(&source, text.replace("#include <stdlib.h>", "#include <stdio.h>\n#include <stdlib.h>"))?;
    let (ok, said) = project.weftctl(&["policy", "build"])?;
    ensure!(!ok && said.contains("wasi_snapshot_preview1") && said.contains("printf"), "{said}");
    Ok(())
}
