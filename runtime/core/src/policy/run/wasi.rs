//! WASI for policies with the grant: as little as their toolchains need, and all of it deterministic.
//!
//! Invariants: no environment, no arguments, no sockets, no stdin. Standard output and error go to the policy's log.
//! The clocks stand at the request's time (the monotonic one advances a microsecond per reading) and sleeping returns
//! at once, so no call can wait. Random numbers come from the request's seed. The only files are those of a directory
//! that the network grants, as read before the call (`files`). Nothing here needs a file, a socket or a thread.

use std::sync::Arc;

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView};

use super::files::Files;
use super::tree::Tree;

/// Maximum bytes kept of standard output and error; a guest that writes more traps.
const OUTPUT_MAX: usize = 64 << 10;

/// Bytes of random numbers per call.
const RANDOM_MAX: u64 = 64 << 10;

/// A policy's WASI context, for one call.
pub(super) struct WasiState {
    ctx: WasiCtx,
    table: ResourceTable,
    output: MemoryOutputPipe,
    fixed: Fixed,
    data: Option<Arc<Tree>>,
}

/// Time and randomness as functions of the request.
struct Fixed {
    now: u64,
    ticks: u64,
    random: u64,
}

// === impl WasiState ===

impl WasiState {
    /// Creates a context with time and randomness from a request, and the granted files.
    pub(super) fn new(now: u64, seed: u64, data: Option<Arc<Tree>>) -> Self {
        let output = MemoryOutputPipe::new(OUTPUT_MAX);
        let mut builder = WasiCtxBuilder::new();
        builder.stdout(output.clone()).stderr(output.clone());
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let fixed = Fixed { now, ticks: 0, random: seed };
        Self { ctx: builder.build(), table: ResourceTable::new(), output, fixed, data }
    }

    /// Creates an empty context.
    pub(super) fn empty() -> Self {
        Self::new(0, 0, None)
    }

    /// Returns the state of WASI's own implementation.
    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }

    /// Returns the clocks and random numbers that replace the host's.
    pub(super) fn fixed(&mut self) -> FixedView<'_> {
        FixedView { fixed: &mut self.fixed, table: &mut self.table }
    }

    /// Returns the files that replace the host's.
    pub(super) fn files(&mut self) -> Files<'_> {
        Files { tree: self.data.as_ref(), table: &mut self.table }
    }

    /// Returns the lines that the guest wrote to standard output and error.
    pub(super) fn output(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.output.contents()).lines().map(str::to_owned).collect()
    }
}

/// Clocks and random numbers that are functions of the request.
pub(super) struct FixedView<'a> {
    fixed: &'a mut Fixed,
    table: &'a mut ResourceTable,
}

pub(super) struct HasFixed;

impl HasData for HasFixed {
    type Data<'a> = FixedView<'a>;
}

impl wall_clock::Host for FixedView<'_> {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: self.fixed.now, nanoseconds: 0 })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 1, nanoseconds: 0 })
    }
}

/// Nanoseconds between two readings of the monotonic clock, so that programs that wait for time to pass make progress.
const TICK: u64 = 1000;

impl monotonic_clock::Host for FixedView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.fixed.ticks = self.fixed.ticks.wrapping_add(TICK);
        Ok(self.fixed.ticks)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(TICK)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.fixed.ticks = self.fixed.ticks.max(when);
        past_pollable(self.table)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.fixed.ticks = self.fixed.ticks.saturating_add(duration);
        past_pollable(self.table)
    }
}

/// A point in time that has already passed.
struct ReadyPollable;

impl Pollable for ReadyPollable {
    fn ready<'a, 'b>(&'a mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

fn past_pollable(table: &mut ResourceTable) -> wasmtime::Result<Resource<DynPollable>> {
    let past = table.push(ReadyPollable)?;
    subscribe(table, past)
}

// === impl Fixed ===

impl Fixed {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > RANDOM_MAX {
            wasmtime::bail!("{length} random bytes at once, at most {RANDOM_MAX} are given");
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(usize::try_from(length)?);
        Ok(bytes)
    }
}

impl random::Host for FixedView<'_> {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.fixed.bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.fixed.next())
    }
}

impl insecure::Host for FixedView<'_> {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.fixed.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.fixed.next())
    }
}

impl insecure_seed::Host for FixedView<'_> {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.fixed.next(), self.fixed.next()))
    }
}
