//! The contents of a policy's store: its view of the ledger, its log, and the meters that end the call.

use std::net::IpAddr;
use std::time::Instant;

use wasmtime::ResourceLimiter;
use weft_host_abi::guest::{Host, LogLevel};
use weft_host_abi::types::{ClaimInfo, FactSource, LastClaim, LedgerView, Pod, Range, Usage};

use super::Limits;
use super::evidence::{Evidence, Exchange, Exchanges, LogLine};
use super::no_ledger::NoLedger;
use super::wasi::WasiState;
use crate::policy::Cause;
use crate::policy::error::{cause, is_out_of_memory};
use crate::text::clean;

/// Why the host ended a call. Set before the error that unwinds the guest, and checked before any trap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Deadline,
    Calls,
    Ledger(String),
    Memory(usize),
    Table(usize),
    HostMemory(Cause),
}

/// The error that carries a fault through the guest's frames; its text is never shown.
#[derive(Debug, thiserror::Error)]
#[error("ended by the host: {0:?}")]
struct Ended(Fault);

/// The inputs of a call's host functions.
pub(super) struct Asked {
    pub(super) ledger: Box<dyn LedgerView + Send>,
    pub(super) pod: Option<Pod>,
}

impl Asked {
    /// Creates the inputs from a ledger and a pod.
    pub(super) fn new(ledger: Box<dyn LedgerView + Send>, pod: Option<&Pod>) -> Self {
        Self { ledger, pod: pod.cloned() }
    }

    /// Creates empty inputs, for calls that only concern a configuration.
    pub(super) fn empty() -> Self {
        Self { ledger: Box::new(NoLedger), pod: None }
    }
}

pub(super) struct Ctx {
    ledger: Box<dyn LedgerView + Send>,
    pod: Option<Pod>,
    limits: Limits,
    deadline: Instant,
    pub(super) calls: u32,
    log: Vec<LogLine>,
    exchanges: Exchanges,
    dropped: usize,
    /// Bytes of all linear memories. They never shrink.
    memory: usize,
    pub(super) fault: Option<Fault>,
    pub(super) wasi: Option<WasiState>,
}

// === impl Ctx ===

impl Ctx {
    pub(super) fn new(asked: Asked, limits: &Limits, wasi: Option<WasiState>) -> Self {
        let deadline = Instant::now() + limits.deadline;
        let Asked { ledger, pod } = asked;
        Self {
            ledger,
            pod,
            limits: limits.clone(),
            deadline,
            calls: 0,
            log: Vec::new(),
            exchanges: Exchanges::default(),
            dropped: 0,
            memory: 0,
            fault: None,
            wasi,
        }
    }

    /// Begins a call with these inputs, and starts its time and its meters.
    pub(super) fn begin(&mut self, asked: Asked) {
        (self.calls, self.dropped, self.fault) = (0, 0, None);
        self.ledger = asked.ledger;
        self.pod = asked.pod;
        self.deadline = Instant::now() + self.limits.deadline;
    }

    /// Returns the log, with the output to WASI's standard streams and a last line about dropped lines.
    fn take_log(&mut self) -> Vec<LogLine> {
        for line in self.wasi.as_ref().map(WasiState::output).unwrap_or_default() {
            self.keep(LogLevel::Info, &line);
        }
        let mut log = std::mem::take(&mut self.log);
        if self.dropped > 0 {
            log.push(LogLine { level: LogLevel::Warn, text: format!("{} more lines were dropped", self.dropped) });
        }
        log
    }

    /// Returns the last warning of the log: the message, if a Rust guest panicked.
    pub(super) fn last_warning(&self) -> Option<String> {
        self.log.iter().rev().find(|line| line.level == LogLevel::Warn).map(|line| line.text.clone())
    }

    /// Returns the evidence of the call, given the remaining fuel.
    pub(super) fn evidence(&mut self, fuel_left: u64) -> Evidence {
        let fuel = self.limits.fuel.saturating_sub(fuel_left);
        let ledger = std::mem::take(&mut self.exchanges);
        Evidence { fuel, memory: self.memory, calls: self.calls, log: self.take_log(), ledger }
    }

    /// Drops the ledger: its view is a snapshot that should end soon.
    pub(super) fn close_ledger(&mut self) {
        self.ledger = Box::new(NoLedger);
    }

    fn keep(&mut self, level: LogLevel, message: &str) {
        if self.log.len() < self.limits.log_lines {
            self.log.push(LogLine { level, text: clean(message, self.limits.text_bytes) });
        } else {
            self.dropped += 1;
        }
    }

    fn end<T>(&mut self, fault: Fault) -> wasmtime::Result<T> {
        self.fault = Some(fault.clone());
        Err(wasmtime::Error::new(Ended(fault)))
    }

    /// Checks the clock. The store's call hook calls this whenever the guest enters or leaves the host.
    pub(super) fn check_deadline(&mut self) -> wasmtime::Result<()> {
        if self.fault.is_none() && Instant::now() > self.deadline { self.end(Fault::Deadline) } else { Ok(()) }
    }

    /// Counts a call of the contract's imports.
    fn count(&mut self) -> wasmtime::Result<()> {
        self.calls = self.calls.saturating_add(1);
        if self.calls > self.limits.calls { self.end(Fault::Calls) } else { Ok(()) }
    }

    /// Makes one ledger query and records it.
    fn ask<T: Clone>(
        &mut self,
        question: impl FnOnce(&dyn LedgerView) -> Result<T, String>,
        record: impl FnOnce(T) -> Exchange,
    ) -> wasmtime::Result<T> {
        self.count()?;
        match question(self.ledger.as_ref()) {
            Ok(answer) => {
                self.exchanges.record(record(answer.clone()));
                Ok(answer)
            }
            Err(reason) => {
                let reason = clean(&reason, self.limits.text_bytes);
                self.end(Fault::Ledger(reason))
            }
        }
    }

    /// Returns the WASI context. Only linked host functions call this, and they are only linked if there is one.
    pub(super) fn wasi_state(&mut self) -> &mut WasiState {
        self.wasi.get_or_insert_with(WasiState::empty)
    }
}

impl Host for Ctx {
    fn claimed_by(&mut self, address: IpAddr) -> wasmtime::Result<Option<ClaimInfo>> {
        self.ask(|ledger| ledger.claimed_by(address), |answer| Exchange::ClaimedBy { address, answer })
    }

    fn next_free(&mut self, range: &Range, from: IpAddr) -> wasmtime::Result<Option<IpAddr>> {
        let record = |answer| Exchange::NextFree { range: range.clone(), from, answer };
        self.ask(|ledger| ledger.next_free(range, from), record)
    }

    fn usage(&mut self, range: &Range) -> wasmtime::Result<Usage> {
        self.ask(|ledger| ledger.usage(range), |answer| Exchange::Usage { range: range.clone(), answer })
    }

    fn last_claimed(&mut self, range: &Range) -> wasmtime::Result<Option<LastClaim>> {
        let record = |answer| Exchange::LastClaimed { range: range.clone(), answer };
        self.ask(|ledger| ledger.last_claimed(range), record)
    }

    fn held_by(&mut self, owner: &str) -> wasmtime::Result<Vec<ClaimInfo>> {
        self.ask(|ledger| ledger.held_by(owner), |answer| Exchange::HeldBy { owner: owner.to_owned(), answer })
    }

    fn fact_source(&mut self) -> wasmtime::Result<FactSource> {
        self.count()?;
        Ok(self.pod.as_ref().map(|pod| pod.source).unwrap_or_default())
    }

    fn namespace_labels(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.count()?;
        Ok(self.pod.as_ref().map(|pod| pod.namespace_labels.clone()).unwrap_or_default())
    }

    fn log(&mut self, level: LogLevel, message: &str) -> wasmtime::Result<()> {
        self.count()?;
        self.keep(level, message);
        Ok(())
    }
}

/// Growth beyond the limits ends the call, so that the error names the limit. If growth merely failed, the
/// error would be whatever the guest does then.
impl ResourceLimiter for Ctx {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limits.memory {
            return self.end(Fault::Memory(desired));
        }
        self.memory = self.memory.saturating_add(desired.saturating_sub(current));
        Ok(true)
    }

    /// The growth was within the limit, so the node ran out of memory. A guest that learns of this ends in
    /// unpredictable ways.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        if is_out_of_memory(&error) { self.end(Fault::HostMemory(cause(&error))) } else { Ok(()) }
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements { self.end(Fault::Table(desired)) } else { Ok(true) }
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}
