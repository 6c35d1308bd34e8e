//! `weftctl policy build`: builds a project of any language into a component.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weft_host_abi::contract;
use weft_host_abi::guest_build::{self, BuiltGuest, componentize};
use wit_component::StringEncoding;
use wit_parser::Resolve;

use super::project::{Language, Manifest, Project};
use super::toolchain;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the component [default: NAME.wasm in the current directory].
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &BuildArgs, output: Output) -> anyhow::Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    let built = build(&project)?;
    if args.out.is_some() && built.len() != 1 {
        bail!("{} builds {} policies; --out names only one file", args.dir.display(), built.len());
    }
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    for guest in built {
        let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.wasm", guest.name)));
        fs::write(&path, &guest.component).with_context(|| format!("cannot write {}", path.display()))?;
        lines.push(format!("{} ({} bytes)", path.display(), guest.component.len()));
        documents.push(json!({ "name": guest.name, "path": path, "size": guest.component.len() }));
    }
    output.lines(&documents, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the components of a project: one, unless it is a workspace of crates.
pub(super) fn build(project: &Project) -> anyhow::Result<Vec<BuiltGuest>> {
    let Some(manifest) = project.manifest.as_ref().filter(|manifest| manifest.language != Language::Rust) else {
        return Ok(guest_build::build_guests(&project.dir.join("Cargo.toml"), &project.dir.join("target"))?);
    };
    let dir = std::path::absolute(&project.dir).context("cannot find the current directory")?;
    let out = std::path::absolute(project.build_dir()?)?.join(format!("{}.wasm", manifest.name));
    match manifest.language {
        Language::C => c(manifest, &dir, &out)?,
        Language::Js => js(manifest, &dir, &out)?,
        Language::Python | Language::Rust => python(manifest, &dir, &out)?,
    }
    let component = fs::read(&out).with_context(|| format!("cannot read {}", out.display()))?;
    check_imports(&component)?;
    Ok(vec![BuiltGuest { name: manifest.name.clone(), component }])
}

fn js(manifest: &Manifest, dir: &Path, out: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(toolchain::program("componentize-qjs", manifest.language, dir)?);
    command.args(["-w", "wit", "-j", Language::Js.source(), "-n", manifest.kind.of_contract().world()]);
    // Without --sync it makes an asynchronous component; with --stub-wasi it imports nothing.
    command.args(["--sync", "--stub-wasi", "-o"]).arg(out);
    toolchain::run(&mut command, dir)
}

fn python(manifest: &Manifest, dir: &Path, out: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(toolchain::program("componentize-py", manifest.language, dir)?);
    command.args(["-d", "wit", "-w", manifest.kind.of_contract().world()]);
    command.args(["componentize", "--stub-wasi", "-p", ".", "policy", "-o"]).arg(out);
    toolchain::run(&mut command, dir)
}

fn c(manifest: &Manifest, dir: &Path, out: &Path) -> anyhow::Result<()> {
    let compiler = toolchain::c_compiler(dir);
    let Some((program, flags)) = compiler.as_ref().and_then(|line| line.split_first()) else {
        bail!("there is no C compiler for WebAssembly here: install {}", toolchain::needs(Language::C));
    };
    let world = manifest.kind.of_contract().world();
    let core = out.with_extension("core.wasm");
    let mut command = Command::new(program);
    command.args(flags).args(["-Oz", "-mexec-model=reactor", "-Wall", "-Wl,--strip-all", "-o"]).arg(&core);
    command.args([Language::C.source(), &format!("bindings/{}.c", world.replace('-', "_"))]);
    toolchain::run(&mut command, dir)?;
    let module = fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    let component = of_module(module, world, &dir.join("wit")).map_err(|reason| {
        anyhow::anyhow!(
            "{} makes no policy component: {reason:#}\n(a standard function that needs WASI, such as printf, cannot be used)",
            Language::C.source()
        )
    })?;
    fs::write(out, component).with_context(|| format!("cannot write {}", out.display()))
}

/// Makes a component from a core module without an embedded world.
fn of_module(mut module: Vec<u8>, world: &str, wit: &Path) -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let (package, _files) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    componentize(&module).map_err(anyhow::Error::msg)
}

/// Checks imports: a policy that imports more than the contract would need a grant in every
/// network.
fn check_imports(component: &[u8]) -> anyhow::Result<()> {
    let described = contract::describe(component).map_err(anyhow::Error::msg)?;
    let beyond: Vec<_> =
        described.imports.iter().filter(|name| !name.starts_with(contract::PACKAGE)).cloned().collect();
    if !beyond.is_empty() {
        bail!("the component imports {}: a policy reaches nothing but the contract", beyond.join(", "));
    }
    Ok(())
}
