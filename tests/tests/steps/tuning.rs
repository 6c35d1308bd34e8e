//! `tuning`: which sysctls may be set, and that attributes come back.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::cni::expect_ok;
use weft_kit::world::{Attach, World};

use super::{chained_conf, conf_with_steps, expect_same, ipam, kernel, tuning};

/// `/etc/cni/tuning/allowlist.conf`, of which this process has a private copy.
pub(super) fn only_listed_sysctls() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let list = std::path::Path::new("/etc/cni/tuning/allowlist.conf");
    fs::create_dir_all(list.parent().context("a directory")?).context("create the directory")?;
    fs::write(list, "^net\\.core\\.somaxconn$\n\nnet.ipv4.conf.IFNAME\n").context("write the list")?;
    let outcome = (|| {
        let ptp = json!({ "type": "ptp" });
        let conf = conf_with_steps(ptp.clone(), ipam(), &[tuning()]);
        expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD with listed sysctls")?;
        expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")?;
        let other = json!({ "type": "tuning", "sysctl": { "net.ipv4.ip_forward": "1" } });
        let before = kernel(&world)?;
        let error = world.call("ADD", &Attach::eth0("pod"), &conf_with_steps(ptp, ipam(), &[other]))?.error()?;
        let wanted = "Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: \
                      [^net\\.core\\.somaxconn$ net.ipv4.conf.IFNAME]";
        ensure!(error.code == 7 && error.msg == wanted, "{}: {}", error.code, error.msg);
        expect_same(&before, &kernel(&world)?, "after the refusal")
    })();
    fs::remove_file(list).context("remove the list")?;
    outcome
}

/// A repeated key is refused, which only the text of the configuration shows.
pub(super) fn repeated_sysctls() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let texts = [
        (
            "tuning",
            r#"{"cniVersion": "1.0.0", "name": "n", "type": "tuning", "prevResult": {},
                       "sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "2"}}"#,
        ),
        (
            "weft",
            r#"{"cniVersion": "1.0.0", "name": "n", "type": "weft", "delegate": {"type": "bridge"},
                     "steps": [{"type": "sbr"}, {"type": "tuning", "sysctl": {"net.a": "1", "net.b": "1", "net.a": "1"}}]}"#,
        ),
    ];
    for (kind, text) in texts {
        let mut call = world.prepare("ADD", &Attach::eth0("pod"), &json!({}))?;
        call.stdin = text.as_bytes().to_vec();
        let error = world.run(&call, kind)?.error()?;
        ensure!(
            error.code == 7 && error.msg == "duplicated sysctl keys are not allowed",
            "{}: {}",
            error.code,
            error.msg
        );
    }
    Ok(())
}

/// A link that another program put into the container stays after DEL, with its earlier attributes.
pub(super) fn attributes_come_back() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.netns("pod")?.line("ip link add eth0 address 02:00:00:00:00:09 txqueuelen 500 type veth peer name far")?;
    world.netns("pod")?.line("ip link set eth0 up")?;
    let before = kernel(&world)?;
    let path = world.netns("pod")?.path().display().to_string();
    let previous = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:09", "sandbox": path }] });
    let mut conf = chained_conf(&tuning(), &previous);
    if let Some(conf) = conf.as_object_mut() {
        conf.remove("sysctl");
    }
    let reply = world.call("ADD", &Attach::eth0("pod"), &conf)?;
    expect_ok(&reply, "ADD")?;
    ensure!(reply.result()?["interfaces"][0]["mac"] == "c2:11:22:33:44:55", "{}", reply.result()?);
    ensure!(kernel(&world)? != before, "nothing was tuned");
    let files = fs::read_dir("/run/cni/tuning").map(Iterator::count).unwrap_or_default();
    ensure!(files == 0, "no backup file is wanted");
    // Whatever the configuration contains by then.
    let bare = json!({ "cniVersion": "1.0.0", "name": "steps", "type": "tuning" });
    for _ in 0..2 {
        expect_ok(&world.call("DEL", &Attach::eth0("pod"), &bare)?, "DEL")?;
        expect_same(&before, &kernel(&world)?, "after DEL")?;
    }
    Ok(())
}
