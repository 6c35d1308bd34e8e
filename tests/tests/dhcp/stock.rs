//! Together with Debian's plugins and their daemon.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::dhcp::{self, Daemon, PATIENCE, Server, wait};
use weft_kit::programs::{Installation, reference_dir};
use weft_kit::world::{Attach, Subject, World};

use super::lan::{Lan, ONE, QUICK, RANGE};

/// Debian's bridge executes weft as `dhcp`.
pub(super) fn by_name_under_debians_bridge() -> Result<()> {
    let installation = Installation::new()?;
    let mixed = installation.bin().with_file_name("mixed");
    fs::create_dir_all(&mixed).context("create mixed")?;
    let stock = reference_dir().map_err(anyhow::Error::msg)?;
    fs::copy(stock.join("bridge"), mixed.join("bridge")).context("copy bridge")?;
    let mut world = World::new(&Subject { bin: mixed, ..Subject::weft(&installation) })?;
    world.add_path(installation.bin());
    let mut server = Server::connect(&world, Some("br0"))?;
    server.start(&[ONE])?;
    let _agent = dhcp::agent(&world, QUICK)?;
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": dhcp::ipam(&world) });
    let result = world.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("192.168.1.5/24")), "{result}");
    ensure!(result.pointer("/ips/0/gateway") == Some(&json!("192.168.1.1")), "{result}");
    ensure!(world.reaches("a", "192.168.1.1")?, "a reaches the server");
    let error = world.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.msg == "error calling DHCP.Allocate: no more tries", "{error:?}");
    let mut check = conf.clone();
    check["prevResult"] = result;
    world.call("CHECK", &Attach::eth0("a"), &check)?.expect_quiet()?;
    // It deletes the link first, so the server learns nothing; but the DEL succeeds, twice.
    world.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    world.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    ensure!(dhcp::status(&world)? == json!([]), "{:?}", dhcp::status(&world));
    Ok(())
}

pub(super) fn stock_socket(lan: &Lan) -> std::path::PathBuf {
    lan.world.borrow().scratch().join("stock.sock")
}

pub(super) fn stock_daemon(lan: &Lan) -> Result<Daemon> {
    let world = lan.world.borrow();
    let socket = stock_socket(lan);
    let program = reference_dir().map_err(anyhow::Error::msg)?.join("dhcp");
    let argv =
        [program.display().to_string(), "daemon".to_owned(), "-socketpath".to_owned(), socket.display().to_string()];
    let daemon = Daemon::start(&world.host().place(), &argv, &world.scratch().join("stock.log"))?;
    wait(PATIENCE, "the stock daemon", || Ok(socket.exists())).with_context(|| daemon.log())?;
    Ok(daemon)
}

/// Compares Debian's bridge, dhcp and daemon with weft under the same names, on the same network. (A destination of
/// option 33 with host bits would fail with stock, which does not mask it.)
pub(super) fn same_result_as_debian() -> Result<()> {
    let lan = Lan::with_options(&[RANGE, "--dhcp-option=33,10.0.0.0,192.168.1.3"], &[])?;
    let daemon = stock_daemon(&lan)?;
    let stock = reference_dir().map_err(anyhow::Error::msg)?;
    let mut results = Vec::new();
    let sockets = [("stock", stock_socket(&lan)), ("weft", dhcp::socket(&lan.world.borrow()))];
    for (subject, socket) in sockets {
        let conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                           "ipam": { "type": "dhcp", "daemonSocketPath": socket,
                                     "request": [{ "option": "33" }, { "option": "121" }] } });
        let mut call = lan.world.borrow_mut().prepare("ADD", &Attach::eth0("same"), &conf)?;
        let plugin = if subject == "stock" { stock.join("bridge") } else { lan.world.borrow().plugin("bridge") };
        if subject == "stock" {
            call.path = Some(stock.display().to_string());
        }
        let place = lan.world.borrow().place()?;
        let mut result = call.run(&plugin, &place)?.result().with_context(|| format!("{subject}: {}", daemon.log()))?;
        // The client identifier is the same, so the server gives the same address. Names and MACs are random.
        result["interfaces"] = json!(result["interfaces"].as_array().map(Vec::len));
        // The stock plugins' library prints an empty object instead of none.
        if result.get("dns") == Some(&json!({})) {
            result.as_object_mut().map(|result| result.remove("dns"));
        }
        results.push(result);
        call.command = Some("DEL".to_owned());
        call.run(&plugin, &place)?.expect_quiet().with_context(|| format!("DEL by {subject}"))?;
    }
    ensure!(results[0] == results[1], "stock {}\nweft  {}", results[0], results[1]);
    daemon.kill();
    Ok(())
}
