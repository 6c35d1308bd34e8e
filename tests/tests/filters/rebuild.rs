//! `weftctl ledger rebuild` beside a DEL, and beside a container whose namespace has no path: a runtime that keeps only a
//! descriptor.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, flock};
use serde_json::{Value, json};
use weft_kit::cni::ok;
use weft_kit::process::{self, Place};
use weft_kit::programs::Installation;
use weft_kit::world::{Attach, World, container_id};

use super::{empty, whole, world};

/// Its host ports are left alone while nobody knows its addresses, and are its own once the runtime's cache shows them.
pub(super) fn without_a_path() -> Result<()> {
    let (installation, mut world) = world()?;
    let conf = whole(8080);
    let reply = world.call("ADD", &Attach::eth0("a"), &conf)?;
    ok(&reply, "ADD")?;
    let path = world.container("a")?.path().to_owned();
    // The descriptor of the test keeps the namespace.
    process::run(&Place::default(), &["umount", "--lazy", &path.display().to_string()])?;

    lose_ledger(&world)?;
    let cache = world.scratch().join("results");
    fs::create_dir(&cache)?;
    let said = rebuild(&installation, &world, &conf, &cache)?;
    ensure!(said.contains("have a namespace without a path"), "{said}");
    let mapped = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text().contains("8080"));
    ensure!(mapped(&world)?, "the host port of a running container was removed");

    lose_ledger(&world)?;
    let entry = json!({ "kind": "cniCacheV1", "networkName": "net", "containerId": container_id("a"), "ifName": "eth0",
                        "result": reply.json()? });
    fs::write(cache.join("net-a-eth0"), entry.to_string())?;
    let said = rebuild(&installation, &world, &conf, &cache)?;
    ensure!(!said.contains("without a path") && mapped(&world)?, "{said}");
    ok(&world.call("DEL", &Attach::eth0("a"), &conf)?, "DEL")?;
    empty(&world)
}

/// The mark of a DEL would be in the store that the rebuild moves aside. The test holds the locks of a rebuild.
pub(super) fn del_meanwhile() -> Result<()> {
    let (_installation, mut world) = world()?;
    let conf = whole(8080);
    ok(&world.call("ADD", &Attach::eth0("a"), &conf)?, "ADD")?;
    let locks = fs::OpenOptions::new().read(true).write(true).open(world.state().join("locks"))?;
    let all = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&locks, FcntlArg::F_OFD_SETLK(&all))?;
    let refused = world.call("DEL", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(refused.code == 11 && refused.msg.contains("ledger rebuild"), "{refused:?}");
    drop(locks);
    ok(&world.call("DEL", &Attach::eth0("a"), &conf)?, "DEL")?;
    empty(&world)
}

fn lose_ledger(world: &World) -> Result<()> {
    for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
        fs::remove_file(world.state().join(name))?;
    }
    Ok(())
}

/// Returns what the command prints.
fn rebuild(installation: &Installation, world: &World, conf: &Value, cache: &Path) -> Result<String> {
    let confs = world.scratch().join("confs");
    fs::create_dir_all(&confs)?;
    fs::write(confs.join("10-net.conf"), conf.to_string())?;
    let words = [
        installation.weftctl().display().to_string(),
        "--state-dir".to_owned(),
        world.state().display().to_string(),
        "ledger".to_owned(),
        "rebuild".to_owned(),
        "--conf-dir".to_owned(),
        confs.display().to_string(),
        "--cni-cache".to_owned(),
        cache.display().to_string(),
    ];
    Ok(process::run(&world.place()?, &words)?.text())
}
