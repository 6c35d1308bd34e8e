//! The rates of `bandwidth` hold in both directions.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::cni::expect_ok;
use weft_kit::netns::NetNs;
use weft_kit::world::{Attach, World};

use super::{bandwidth, conf_with_steps};

/// The size of one UDP datagram of the flow on the wire, without the frame check sequence, which a veth does not have.
const PAYLOAD: usize = 1_400;

const ON_THE_WIRE: usize = PAYLOAD + 8 + 20 + 14;

/// Returns the received bits per second of a flow that offers more than the limit.
fn measured(from: &NetNs, to: &NetNs, address: &'static str, offered: f64) -> Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let receiver = to.inside(move || receive(address, &stopped))?;
    let sender_stop = Arc::clone(&stop);
    let sender = from.inside(move || send(address, offered, &sender_stop))?;
    let rate = receiver.join().map_err(|_panic| anyhow::anyhow!("the receiver panicked"))?;
    stop.store(true, Ordering::Relaxed);
    sender.join().map_err(|_panic| anyhow::anyhow!("the sender panicked"))??;
    rate
}

/// Counts after the burst is used up.
fn receive(address: &str, stop: &AtomicBool) -> Result<f64> {
    let socket = UdpSocket::bind((address, 7000)).context("bind")?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).context("timeout")?;
    let mut buffer = [0; 2 * PAYLOAD];
    socket.recv(&mut buffer).context("nothing arrives")?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        socket.recv(&mut buffer).context("the flow stopped")?;
    }
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < Duration::from_secs(3) && !stop.load(Ordering::Relaxed) {
        socket.recv(&mut buffer).context("the flow stopped")?;
        count += 1;
    }
    Ok(f64::from(count) * ON_THE_WIRE as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Sends at a rate, catching up after every delay.
fn send(address: &str, offered: f64, stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("bind")?;
    socket.connect((address, 7000)).context("connect")?;
    let (start, mut sent) = (Instant::now(), 0_f64);
    while !stop.load(Ordering::Relaxed) {
        // A full queue blocks the sender: it may never catch up.
        while sent < offered * start.elapsed().as_secs_f64() && !stop.load(Ordering::Relaxed) {
            // Nobody listens yet, or the queue is full: both are fine.
            drop(socket.send(&[0; PAYLOAD]));
            sent += ON_THE_WIRE as f64 * 8.0;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Received rates are within a tenth of the configured ones. A busy machine gets another attempt.
pub(super) fn rates_hold_both_ways() -> Result<()> {
    const RATE: f64 = 20e6;
    let (_installation, mut world) = World::installed()?;
    let conf = conf_with_steps(
        json!({ "type": "ptp" }),
        json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] }),
        &[bandwidth(20_000_000, 2_000_000)],
    );
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD")?;
    let pod = world.containers().get("pod").context("pod")?;
    for (way, from, to, address) in
        [("ingress", world.host(), pod, "10.63.0.2"), ("egress", pod, world.host(), "10.63.0.1")]
    {
        let mut seen = Vec::new();
        let held = (0..4).any(|_| match measured(from, to, address, 1.6 * RATE) {
            Ok(rate) => {
                seen.push(format!("{:.2} Mbit/s", rate / 1e6));
                (rate / RATE - 1.0).abs() <= 0.1
            }
            Err(error) => {
                seen.push(format!("{error:#}"));
                false
            }
        });
        ensure!(held, "{way} at {} Mbit/s: {}", RATE / 1e6, seen.join(", "));
    }
    // Without the step the same flow is not limited.
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")?;
    let mut free = conf.clone();
    free["steps"] = json!([]);
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &free)?, "ADD without rates")?;
    let pod = world.containers().get("pod").context("pod")?;
    let address =
        if world.claims()?.iter().any(|claim| claim.starts_with("10.63.0.3")) { "10.63.0.3" } else { "10.63.0.2" };
    let rate = measured(world.host(), pod, address, 1.6 * RATE)?;
    ensure!(rate > 1.2 * RATE, "without rates only {:.2} Mbit/s arrive", rate / 1e6);
    Ok(())
}
