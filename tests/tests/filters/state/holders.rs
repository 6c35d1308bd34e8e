//! Holders of host ports: one that is gone gives way, and a port of the stock plugin is refused.

use std::os::unix::fs::PermissionsExt as _;
use std::{fs, thread};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_kit::cni::expect_ok;
use weft_kit::world::{Attach, Subject, World, container_id};

use super::super::{chain, expect_empty, one_conf, plainly, prepare_world, run_list};

/// A container without namespace and links yields its host port to the next one; a running container does not.
pub(crate) fn a_dead_holder_gives_way() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    run_list(&mut world, "ADD", "a", &chain(8080), None, &mut plainly)?;
    expect_ok(&world.call("ADD", &Attach::eth0("b"), &one_conf(8081))?, "ADD b")?;
    let refused = world.call("ADD", &Attach::eth0("c"), &one_conf(8080))?.error()?;
    ensure!(refused.code == 106, "{refused:?}");
    world.remove_container("a");
    world.remove_container("b");
    wait_for_no_veth(&world)?;
    let mut both = one_conf(8080);
    both["runtimeConfig"]["portMappings"] = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8081, "containerPort": 80, "protocol": "tcp" },
    ]);
    expect_ok(&world.call("ADD", &Attach::eth0("c"), &both)?, "ADD takes both over")?;
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(rules.matches("tcp . 8080 : 10.64.0.").count() == 1, "{rules}");
    // Their late DELs find nothing, and remove nothing.
    run_list(&mut world, "DEL", "a", &chain(8080), None, &mut plainly)?;
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &one_conf(8081))?, "DEL b")?;
    ensure!(world.host().line("nft list ruleset")?.text().contains("tcp . 8081 : 10.64.0."), "the new holder's port");
    expect_ok(&world.call("DEL", &Attach::eth0("c"), &both)?, "DEL c")?;
    expect_empty(&world)
}

/// The plugin that has a dead container's address is told of that container, not of the one that takes its port over.
pub(crate) fn a_dead_holders_plugin_hears_of_it() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let (dir, log) = (world.scratch().join("vendor"), world.scratch().join("calls"));
    fs::create_dir_all(&dir)?;
    let script = format!(
        "#!/bin/sh\nconf=$(cat)\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $conf\" >> {}\n\
         [ $CNI_COMMAND = ADD ] || exit 0\n\
         ip=5; [ $CNI_CONTAINERID = cid-new ] && ip=6\n\
         echo '{{\"cniVersion\": \"1.0.0\", \"ips\": [{{\"address\": \"10.64.0.'$ip'/24\", \"gateway\": \"10.64.0.1\"}}]}}'\n",
        log.display()
    );
    fs::write(dir.join("theirs"), script)?;
    fs::set_permissions(dir.join("theirs"), fs::Permissions::from_mode(0o755))?;
    world.add_path(&dir);
    let mut conf = one_conf(8080);
    conf["ipam"] = json!({ "type": "theirs" });
    conf["cniVersion"] = json!("1.0.0");
    expect_ok(&world.call("ADD", &Attach::eth0("old"), &conf)?, "ADD old")?;
    world.remove_container("old");
    wait_for_no_veth(&world)?;
    expect_ok(&world.call("ADD", &Attach::eth0("new"), &conf)?, "ADD new")?;
    let calls = fs::read_to_string(&log)?;
    let dels: Vec<&str> = calls.lines().filter(|call| call.starts_with("DEL cid-old ")).collect();
    // Its namespace is gone, so its path may lead to another container: CNI_NETNS is empty.
    ensure!(dels.len() == 1 && dels[0].starts_with("DEL cid-old  {"), "{calls}");
    expect_ok(&world.call("DEL", &Attach::eth0("new"), &conf)?, "DEL new")?;
    expect_empty(&world)
}

/// Waits until the kernel has deleted the links of dead namespaces, which it does in the background.
fn wait_for_no_veth(world: &World) -> Result<()> {
    for _look in 0..100 {
        if !world.host().line("ip -o link")?.text().contains("veth") {
            return Ok(());
        }
        thread::sleep(std::time::Duration::from_millis(50));
    }
    anyhow::bail!("the links of dead namespaces stay")
}

/// weft refuses a port that Debian's portmap mapped before the switch. The port is free once that container is gone.
pub(crate) fn stock_ports_are_refused() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let stock = Subject::reference()?.bin.join("portmap");
    let mut conf = chain(8080)[1].clone();
    conf["cniVersion"] = json!("1.0.0");
    conf["prevResult"] = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/proc/self/ns/net" }],
        "ips": [{ "address": "10.64.0.99/24", "interface": 0 }] });
    let call = world.prepare("ADD", &Attach::eth0("old"), &conf)?;
    expect_ok(&call.run(&stock, &world.place()?)?, "stock ADD")?;
    let error = world.call("ADD", &Attach::eth0("new"), &one_conf(8080))?.error()?;
    ensure!(
        error.code == 106
            && error.msg.contains("is already mapped by the stock portmap plugin")
            && error.msg.contains(&container_id("old")),
        "{error:?}"
    );
    expect_ok(&world.call("DEL", &Attach::eth0("new"), &one_conf(8080))?, "DEL of what failed")?;
    let call = world.prepare("DEL", &Attach::eth0("old"), &conf)?;
    expect_ok(&call.run(&stock, &world.place()?)?, "stock DEL")?;
    expect_ok(&world.call("ADD", &Attach::eth0("new"), &one_conf(8080))?, "ADD")?;
    expect_ok(&world.call("DEL", &Attach::eth0("new"), &one_conf(8080))?, "DEL")
}
