//! The oracle. It identifies containers by their netns, and takes addresses from the kernel and from results; it asks
//! the subject nothing and reads nothing that the subject wrote.
//!
//! It has two sources. *Results*: an address is held from a successful ADD until DEL starts; two holders at one time
//! are a violation. *Kernel*: a thread reads the addresses of every container's netns, over and over.
//!
//! The kernel thread cannot read all netns in one instant. An apparent duplicate is read again with both slots locked,
//! so that no new call starts on either: address in A, then in B, then in A again. Within one call an address is added
//! and removed at most once each, so it was in A all the time, and at one instant in both.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use weft_bench::netlink::Netlink;
use weft_bench::scene::inside;

use crate::tally::{Tally, lock};

/// A container's netns, and the oracle's socket in it.
#[derive(Debug)]
pub struct Slot {
    /// Path of the netns.
    pub netns: PathBuf,
    socket: Mutex<Option<Netlink>>,
}

/// Both sources.
#[derive(Debug, Default)]
pub struct Oracle {
    slots: Mutex<Vec<Arc<Slot>>>,
    holders: Mutex<HashMap<IpAddr, String>>,
    sweeps: AtomicU64,
    stop: AtomicBool,
}

// === impl Slot ===

impl Slot {
    /// Prevents the oracle's second read while a call starts here.
    pub fn lock_netlink(&self) -> MutexGuard<'_, Option<Netlink>> {
        lock(&self.socket)
    }

    /// Returns the addresses in this netns according to the kernel, without loopback and link-local ones.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        read(&mut self.lock_netlink())
    }
}

// === impl Oracle ===

impl Oracle {
    /// Watches a netns from now on.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn slot(&self, netns: PathBuf) -> Result<Arc<Slot>> {
        let socket = inside(&netns, Netlink::open)?;
        let slot = Arc::new(Slot { netns, socket: Mutex::new(Some(socket)) });
        lock(&self.slots).push(Arc::clone(&slot));
        Ok(slot)
    }

    /// Stops watching a netns, and no longer keeps it alive.
    pub fn forget(&self, slot: &Arc<Slot>) {
        lock(&self.slots).retain(|other| !Arc::ptr_eq(other, slot));
        *slot.lock_netlink() = None;
    }

    /// Notes the addresses that a container's result names.
    pub fn record_added(&self, container: &str, addresses: &[IpAddr], tally: &Tally) {
        let mut holders = lock(&self.holders);
        for address in addresses {
            if let Some(other) = holders.insert(*address, container.to_owned()) {
                tally.violation(format!("results: {address} was given to {container} while {other} had it"));
            }
        }
    }

    /// Notes that DEL of a container is about to start.
    pub fn lets_go(&self, container: &str) {
        lock(&self.holders).retain(|_, holder| holder != container);
    }

    /// Returns the held addresses with their containers.
    pub fn held(&self) -> HashMap<IpAddr, String> {
        lock(&self.holders).clone()
    }

    /// Watches until [`Self::stop`].
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn watch(&self, tally: &Tally) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let slots = lock(&self.slots).clone();
            let mut seen: HashMap<IpAddr, &Arc<Slot>> = HashMap::new();
            for slot in &slots {
                for address in slot.addresses()? {
                    if let Some(other) = seen.insert(address, slot)
                        && on_both(address, other, slot)?
                    {
                        let (one, two) = (name(&other.netns), name(&slot.netns));
                        tally.violation(format!("kernel: {address} is in {one} and in {two} at the same time"));
                    }
                }
            }
            self.sweeps.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends `watch`.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Lets `watch` run again.
    pub fn restart(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Returns how many times all netns were read.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.load(Ordering::Relaxed)
    }
}

/// Reads a possible duplicate a second time.
fn on_both(address: IpAddr, one: &Slot, two: &Slot) -> Result<bool> {
    // Only this thread ever takes two locks, so their order does not matter.
    let (mut one, mut two) = (one.lock_netlink(), two.lock_netlink());
    Ok(read(&mut one)?.contains(&address) && read(&mut two)?.contains(&address) && read(&mut one)?.contains(&address))
}

fn read(socket: &mut Option<Netlink>) -> Result<Vec<IpAddr>> {
    let Some(socket) = socket else { return Ok(Vec::new()) };
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = socket.request(all, NLM_F_DUMP).context("read the addresses of a netns")?;
    Ok(answers.into_iter().filter_map(address).collect())
}

fn address(answer: RouteNetlinkMessage) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // An IPv4 message has the address as local (the other one may be the peer's), an IPv6 message has only the other.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let other = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(other).filter(|address| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    })
}

fn name(netns: &Path) -> String {
    netns.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
