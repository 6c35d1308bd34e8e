//! The statically linked binary has its own entry point (`src/entry.rs`).

fn main() {
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ENV") == "musl" && target("ARCH") == "x86_64" {
        println!("cargo::rustc-link-arg-bins=-Wl,-e,weft_entry");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
