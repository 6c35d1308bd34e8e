//! Offers WASI to components: the host functions find the call's [`WasiState`](super::wasi::WasiState) in its [`Ctx`].

use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::bindings::sync::filesystem::types;
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::ctx::Ctx;
use super::files::{Files, HasFiles};
use super::wasi::{FixedView, HasFixed};

/// Offers WASI to the components of a linker.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    // These replace the host's clocks, random numbers and files.
    linker.allow_shadowing(true);
    wall_clock::add_to_linker::<Ctx, HasFixed>(linker, fixed)?;
    monotonic_clock::add_to_linker::<Ctx, HasFixed>(linker, fixed)?;
    random::add_to_linker::<Ctx, HasFixed>(linker, fixed)?;
    insecure::add_to_linker::<Ctx, HasFixed>(linker, fixed)?;
    insecure_seed::add_to_linker::<Ctx, HasFixed>(linker, fixed)?;
    preopens::add_to_linker::<Ctx, HasFiles>(linker, files)?;
    types::add_to_linker::<Ctx, HasFiles>(linker, files)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn fixed(ctx: &mut Ctx) -> FixedView<'_> {
    ctx.wasi_state().fixed()
}

fn files(ctx: &mut Ctx) -> Files<'_> {
    ctx.wasi_state().files()
}

impl WasiView for Ctx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi_state().view()
    }
}
