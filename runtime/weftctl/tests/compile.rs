//! The compiler has limits: for any component, compiling ends with an error that names the limit, and leaves nothing
//! behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_core::policy::compiler::{Bounds, compile_in_worker};

const WEFTCTL: &str = env!("CARGO_BIN_EXE_weftctl");

/// Returns a component with so many functions of so many additions each.
fn component(functions: usize, additions: usize) -> Vec<u8> {
    let body = "local.get 0 i32.add ".repeat(additions);
    let functions = format!("(func (param i32) (result i32) local.get 0 {body})").repeat(functions);
    let module = format!("(core module {functions})");
    wat::parse_str(format!("(component {module})")).expect("a component")
}

fn compile(component: &[u8], bounds: &Bounds) -> Result<Vec<u8>, String> {
    compile_in_worker(Path::new(WEFTCTL), component, bounds).map_err(|cause| cause.0)
}

#[test]
fn an_ordinary_component_compiles() {
    let component = component(1, 10);
    let code = compile(&component, &Bounds::for_size(component.len())).expect("compiles");
    assert!(code.starts_with(b"\x7fELF"), "{} bytes", code.len());
}

#[test]
fn each_bound_ends_it_and_says_so() {
    // Takes a fast machine seconds.
    let heavy = component(6, 400_000);
    let ample = Bounds::for_size(heavy.len());
    let cases = [
        (Bounds { cpu: Duration::from_secs(1), ..ample }, "more than 1 s of processor time"),
        (Bounds { memory: 48 << 20, ..ample }, "more than 48 MiB of memory"),
        (Bounds { deadline: Duration::from_millis(200), ..ample }, "took longer than"),
    ];
    for (bounds, words) in cases {
        let error = compile(&heavy, &bounds).map(|code| code.len()).expect_err(words);
        assert!(error.contains(words), "{error}");
    }
    let small = component(1, 10);
    let error = compile(&small, &Bounds { code: 100, ..ample }).map(|code| code.len()).expect_err("too large");
    assert!(error.contains("more than 100 bytes"), "{error}");
}

#[test]
fn a_file_that_is_not_a_component_is_an_error() {
    let error =
        compile(b"\0asm\x0d\0\x01\0nonsense", &Bounds::for_size(16)).map(|code| code.len()).expect_err("nonsense");
    assert!(!error.is_empty() && !error.contains("panicked"), "{error}");
}

/// Returns the processes whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().expect("a process"))
        .collect()
}

/// Waits for an expected event.
fn wait_for<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_worker_dies_with_its_watcher() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("heavy.wasm");
    std::fs::write(&file, component(5, 400_000)).unwrap();
    let mut watcher = Command::new(WEFTCTL)
        .args(["policy", "compile", "--state-dir"])
        .args([state.path(), &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let worker = wait_for("the worker starts", || children(watcher.id()).first().copied());
    // After it has set its limits, it is a process without rights.
    let status = format!("/proc/{worker}/status");
    wait_for("the worker bounds itself", || {
        let text = std::fs::read_to_string(&status).ok()?;
        text.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])).then_some(())
    });
    std::thread::sleep(Duration::from_millis(50));
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    wait_for("the worker ends", || match std::fs::read_to_string(&status) {
        Ok(text) if !text.contains("State:\tZ") => None,
        _ => Some(()),
    });
}
