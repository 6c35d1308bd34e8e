//! A ledger that was lost, and `weftctl ledger rebuild`.

use super::*;

/// Every way to lose the store: ADD fails, `rebuild` takes over what runs, and DEL removes it.
pub(super) fn lost_ledger() -> Result<()> {
    // Trials run at once and see each other's named namespaces, so the network has a name of its own.
    let mut conf = conf();
    conf["name"] = json!("lost");
    type Lose<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let ways: [(&str, Lose<'_>); 4] = [
        ("the log and the marker deleted", &|state| {
            fs::remove_file(state.join("weft.db-wal"))?;
            fs::remove_file(state.join("ledger.mark"))
        }),
        ("the log deleted", &|state| fs::remove_file(state.join("weft.db-wal"))),
        ("the file truncated", &|state| fs::write(state.join("weft.db"), "")),
        ("all of it deleted", &|state| {
            for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
                fs::remove_file(state.join(name))?;
            }
            Ok(())
        }),
    ];
    for (way, lose) in ways {
        let (installation, mut world) = prepare_world()?;
        let first: Vec<String> = ["a", "b"]
            .iter()
            .map(|name| address(&world.call("ADD", &Attach::eth0(name), &conf)?))
            .collect::<Result<_>>()?;
        ensure!(first == ["10.63.0.2/24", "10.63.0.3/24"], "{first:?}");
        let links: Value = serde_json::from_str(&world.host().line("ip -j link")?.text())?;
        let labels = links.as_array().into_iter().flatten().filter_map(|link| link["ifalias"].as_str());
        ensure!(labels.filter(|label| label.starts_with("weft:lost/cid-")).count() == 2, "no labels: {links:#}");
        lose(&world.state()).with_context(|| way.to_owned())?;
        let refused = world.call("ADD", &Attach::eth0("c"), &conf)?;
        ensure!(!refused.is_ok(), "{way}: an address was handed out");
        let error = refused.json()?;
        ensure!(error["code"] == 5, "{way}: {error:#}");
        ensure!(error.to_string().contains("weftctl ledger rebuild"), "{way}: {error:#}");
        let state = world.state().display().to_string();
        let doctor = run(&world.place()?, &installation.weftctl(), &["--state-dir", &state, "doctor"])?;
        let advice = stdout_text(&doctor);
        ensure!(advice.contains("weftctl ledger rebuild"), "{way}: doctor says nothing: {advice}");
        let confs = world.scratch().join("confs");
        fs::create_dir(&confs)?;
        let dir = confs.display().to_string();
        // Trials run at once, and others leave results in the usual directory.
        let cache = world.scratch().join("results").display().to_string();
        let rebuild = ["--json", "--state-dir", &state, "ledger", "rebuild", "--conf-dir", &dir, "--cni-cache", &cache];
        let refused = run(&world.place()?, &installation.weftctl(), &rebuild)?;
        ensure!(refused.status == Some(1) && refused.stderr.contains("--scope"), "{way}: {}", refused.stderr);
        fs::write(confs.join("10-lost.conf"), conf.to_string())?;
        let rebuilt = run(&world.place()?, &installation.weftctl(), &rebuild)?;
        ensure!(rebuilt.status == Some(0), "{way}: {}", rebuilt.stderr);
        ensure!(json_of(&rebuilt)?["claims"] == 2, "{way}: {}", stdout_text(&rebuilt));
        let third = address(&world.call("ADD", &Attach::eth0("c"), &conf)?)?;
        ensure!(third == "10.63.0.4/24", "{way}: {third}");
        let (_, who) = both_outputs(&world, &installation.weftctl(), &["who-has", "10.63.0.2"])?;
        ensure!(who[0]["attachment"]["containerID"] == "cid-a", "{way}: {who:#}");
        for name in ["a", "b", "c"] {
            ensure!(world.call("DEL", &Attach::eth0(name), &conf)?.is_ok(), "{way}: DEL {name}");
        }
        ensure!(world.claims()?.is_empty(), "{way}: claims are left");
        let links = world.host().line("ip -j link")?.text();
        ensure!(!links.contains("weft:lost"), "{way}: links are left: {links}");
    }
    Ok(())
}

fn lose_all(state: &Path) -> Result<()> {
    for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
        fs::remove_file(state.join(name)).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Checks that an ADD is refused because the ledger is lost, and that doctor says how to go on.
fn is_refused(world: &mut World, installation: &Installation, conf: &Value, what: &str) -> Result<()> {
    let refused = world.call("ADD", &Attach::eth0("late"), conf)?;
    ensure!(!refused.is_ok(), "{what}: an address was handed out: {}", String::from_utf8_lossy(&refused.stdout));
    let error = refused.json()?;
    ensure!(error["code"] == 5 && error.to_string().contains("weftctl ledger rebuild"), "{what}: {error:#}");
    ensure!(error.to_string().contains(what), "{what} is not named: {error:#}");
    ensure!(!world.state().join("weft.db").exists(), "{what}: a ledger was made");
    let state = world.state().display().to_string();
    let doctor = run(&world.place()?, &installation.weftctl(), &["--state-dir", &state, "doctor"])?;
    ensure!(
        stdout_text(&doctor).contains("weftctl ledger rebuild"),
        "{what}: doctor says nothing: {}",
        stdout_text(&doctor)
    );
    Ok(())
}

/// Links that the host does not have: their labels are in the containers.
pub(super) fn lost_of_every_kind() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] });
    for (kind, delegate) in [
        ("macvlan", json!({ "type": "macvlan", "master": "up0" })),
        ("ipvlan", json!({ "type": "ipvlan", "master": "up0" })),
        ("vlan", json!({ "type": "vlan", "master": "up0", "vlanId": 33 })),
        ("dummy", json!({ "type": "dummy" })),
        ("tap", json!({ "type": "tap" })),
    ] {
        if weft_kit::netns::kernel_lacks(kind).is_some() || (kind == "tap" && !Path::new("/dev/net/tun").exists()) {
            continue;
        }
        let (installation, mut world) = prepare_world()?;
        world.add_outside()?;
        let conf = json!({ "cniVersion": "1.1.0", "name": format!("lost-{kind}"), "type": "weft", "delegate": delegate,
                           "ipam": ipam });
        let first = address(&world.call("ADD", &Attach::eth0("a"), &conf)?)?;
        ensure!(first == "10.63.0.2/24", "{kind}: {first}");
        lose_all(&world.state())?;
        is_refused(&mut world, &installation, &conf, &format!("weft:lost-{kind}/cid-a/eth0"))?;
        // Once nothing is there any more, a new one may be made. The kernel takes links down in the background.
        world.remove_container("a");
        weft_kit::dhcp::wait(Duration::from_secs(60), kind, || {
            Ok(world.call("ADD", &Attach::eth0("late"), &conf)?.is_ok())
        })?;
    }
    Ok(())
}

/// Writes what libcni would have in its cache.
fn remember(world: &World, network: &str, plugin: &Value, address: &str) -> Result<()> {
    let dir = world.lib_cni().join("results");
    fs::create_dir_all(&dir)?;
    let config = json!({ "cniVersion": "1.0.0", "name": network, "plugins": [plugin] });
    let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": address, "interface": 0 }],
                         "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/x" }] });
    let entry = json!({ "kind": "cniCacheV1", "containerId": "cid-a", "ifName": "eth0", "networkName": network,
                        "config": base64(config.to_string().as_bytes()), "result": result });
    fs::write(dir.join(format!("{network}-cid-a-eth0")), entry.to_string())?;
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |all, byte| (all << 8) | usize::from(*byte));
        for at in 0..4 {
            let digit = char::from(DIGITS[(all >> (18 - 6 * at)) & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// A device of the host, and addresses of weft for another plugin's link: only libcni's cache has them.
pub(super) fn lost_in_the_cache() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.62.0.0/24" }]] });
    let (installation, mut world) = prepare_world()?;
    world.host().line("ip link add d0 type veth peer name peer0")?;
    let device =
        json!({ "cniVersion": "1.0.0", "name": "device", "type": "host-device", "device": "d0", "ipam": ipam });
    let first = address(&world.call("ADD", &Attach::eth0("a"), &device)?)?;
    remember(&world, "device", &device, &first)?;
    lose_all(&world.state())?;
    is_refused(&mut world, &installation, &device, "eth0 of container cid-a on network")?;

    let (installation, mut world) = self::prepare_world()?;
    let ipam = json!({ "type": "weft-ipam", "policy": "host-local", "ranges": [[{ "subnet": "10.61.0.0/24" }]] });
    let other = json!({ "cniVersion": "1.0.0", "name": "other", "type": "theirs", "ipam": ipam });
    let call = world.prepare("ADD", &Attach::eth0("a"), &other)?;
    let first = address(&world.run(&call, "weft-ipam")?)?;
    world.container("a")?.line("ip link add eth0 type bridge")?;
    world.container("a")?.line(&format!("ip address add {first} dev eth0"))?;
    remember(&world, "other", &other, &first)?;
    lose_all(&world.state())?;
    let weft = json!({ "cniVersion": "1.0.0", "name": "other", "type": "weft-ipam", "ipam": ipam });
    is_refused(&mut world, &installation, &weft, "eth0 of container cid-a on network")
}

/// What another host made is none of this one's, nor what the stock plugins made before weft came.
pub(super) fn not_lost() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] });
    let (_installation, mut other) = prepare_world()?;
    other.add_outside()?;
    let delegates = [json!({ "type": "macvlan", "master": "up0" }), json!({ "type": "dummy" })];
    for (name, delegate) in ["a", "b"].into_iter().zip(delegates) {
        if weft_kit::netns::kernel_lacks(delegate["type"].as_str().context("type")?).is_some() {
            continue;
        }
        let conf =
            json!({ "cniVersion": "1.1.0", "name": "beside", "type": "weft", "delegate": delegate, "ipam": ipam });
        ensure!(other.call("ADD", &Attach::eth0(name), &conf)?.is_ok(), "ADD on the other host");
    }
    let (_installation, mut world) = prepare_world()?;
    let stock = json!({ "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.60.0.0/24" } });
    world.container("a")?.line("ip link add eth0 type bridge")?;
    world.container("a")?.line("ip address add 10.60.0.2/24 dev eth0")?;
    remember(&world, "stock", &stock, "10.60.0.2/24")?;
    let files = world.lib_cni().join("networks/stock");
    fs::create_dir_all(&files)?;
    fs::write(files.join("10.60.0.2"), "cid-a\r\neth0")?;
    ensure!(address(&world.call("ADD", &Attach::eth0("b"), &conf())?)? == "10.63.0.2/24", "the first ADD");
    Ok(())
}

/// DEL removes what nftables had for an attachment, and the rebuild what it had for none.
pub(super) fn rebuilt_filters() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    world.host().line("ip link set lo up")?;
    let with_ports = |port: u16, conditions: &Value| {
        let mut conf = conf();
        conf["name"] = json!("filters");
        conf["delegate"]["ipMasq"] = json!(true);
        conf["delegate"]["macspoofchk"] = json!(true);
        conf["steps"] = json!([{ "type": "portmap", "conditionsV4": conditions },
                               { "type": "firewall", "ingressPolicy": "same-bridge" }]);
        conf["runtimeConfig"] =
            json!({ "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }] });
        conf
    };
    let (plain, conditional) = (json!([]), json!(["ip saddr { 192.0.2.0/24, 198.51.100.0/24 }"]));
    let confs = [
        ("a", with_ports(8080, &plain)),
        ("b", with_ports(8081, &conditional)),
        ("gone", with_ports(8082, &plain)),
        ("gone2", with_ports(8083, &conditional)),
    ];
    for (name, conf) in &confs {
        let reply = world.call("ADD", &Attach::eth0(name), conf)?;
        ensure!(reply.is_ok(), "ADD {name}: {}", String::from_utf8_lossy(&reply.stdout));
    }
    world.remove_container("gone");
    world.remove_container("gone2");
    let no_links = || Ok(world.host().line("ip -o link show type veth")?.text().lines().count() == 2);
    weft_kit::dhcp::wait(Duration::from_secs(60), "the links of dead containers go", no_links)?;
    lose_all(&world.state())?;
    let dir = world.scratch().join("confs");
    fs::create_dir(&dir)?;
    fs::write(dir.join("10-filters.conf"), confs[0].1.to_string())?;
    let dir = dir.display().to_string();
    let cache = world.scratch().join("none").display().to_string();
    let arguments = ["ledger", "rebuild", "--conf-dir", &dir, "--cni-cache", &cache];
    let state = world.state().display().to_string();
    let all = [&["--json", "--state-dir", state.as_str()], &arguments[..]].concat();
    let rebuilt = run(&world.place()?, &installation.weftctl(), &all)?;
    ensure!(rebuilt.status == Some(0), "{}", rebuilt.stderr);
    let document = json_of(&rebuilt)?;
    ensure!(document["claims"] == 2, "{document:#}");
    let removed = document["removed"].to_string();
    ensure!(removed.contains("8082/tcp") && removed.contains("8083/tcp"), "{removed}");
    ensure!(!removed.contains("8080") && !removed.contains("8081"), "{removed}");
    let rules = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text());
    let after = rules(&world)?;
    for gone in ["8082", "8083", "10.63.0.4", "10.63.0.5"] {
        ensure!(!after.contains(gone), "{gone} is left: {after}");
    }
    ensure!(after.contains("tcp . 8080 : 10.63.0.2 . 80") && after.contains("192.0.2.0/24"), "{after}");
    // A port that is taken is refused with the container that has it.
    let taken = world.call("ADD", &Attach::eth0("c"), &confs[0].1)?.error()?;
    ensure!(taken.code == 106 && taken.msg.contains("cid-a"), "{taken:?}");
    ensure!(world.call("DEL", &Attach::eth0("c"), &confs[0].1)?.is_ok(), "DEL c");
    for (name, conf) in &confs[..2] {
        ensure!(world.call("DEL", &Attach::eth0(name), conf)?.is_ok(), "DEL {name}");
    }
    let left = rules(&world)?;
    ensure!(!left.contains("elements") && !left.contains("10.63.0.") && !left.contains("hostport_tcp"), "{left}");
    ensure!(world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// A ledger that this weft cannot open is not one that is lost: doctor and rebuild leave it alone.
pub(super) fn healthy_ledger() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
    let state = world.state().display().to_string();
    // GC writes the log back.
    let mut gc = conf();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-a", "ifname": "eth0" }]);
    ensure!(world.call("GC", &Attach::eth0("a"), &gc)?.is_ok(), "GC");
    for name in ["weft.db-wal", "weft.db-shm"] {
        fs::remove_file(world.state().join(name))?;
    }
    // `user_version` of the header (https://sqlite.org/fileformat2.html).
    let file = world.state().join("weft.db");
    let mut bytes = fs::read(&file)?;
    bytes.get_mut(60..64).context("a header")?.copy_from_slice(&9999_u32.to_be_bytes());
    fs::write(&file, &bytes)?;
    let doctor = run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "doctor"])?;
    let findings = json_of(&doctor)?;
    let mut ledger = findings.as_array().into_iter().flatten().filter(|one| one["what"] == "ledger");
    let finding = ledger.next().context("a finding")?;
    ensure!(finding["state"] == "fail" && finding["remedy"] == "", "{finding:#}");
    ensure!(finding["detail"].to_string().contains("format 9999"), "{finding:#}");
    let confs = world.scratch().join("confs");
    fs::create_dir(&confs)?;
    fs::write(confs.join("10.conf"), conf().to_string())?;
    let (dir, cache) = (confs.display().to_string(), world.scratch().join("none").display().to_string());
    let rebuild =
        ["--state-dir", &state, "ledger", "rebuild", "--every-scope", "--conf-dir", &dir, "--cni-cache", &cache];
    let refused = run(&world.place()?, &installation.weftctl(), &rebuild)?;
    ensure!(
        refused.status == Some(1) && refused.stderr.contains("9999"),
        "{} {}",
        stdout_text(&refused),
        refused.stderr
    );
    ensure!(fs::read(&file)? == bytes, "the ledger is another");
    ensure!(!world.state().join("weft.db.lost-1").exists(), "moved aside");
    // What is no store is.
    fs::write(&file, "no store".repeat(1000))?;
    let doctor = run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "doctor"])?;
    let findings = json_of(&doctor)?;
    let mut ledger = findings.as_array().into_iter().flatten().filter(|one| one["what"] == "ledger");
    let remedy = ledger.next().context("a finding")?["remedy"].clone();
    ensure!(remedy == "weftctl ledger rebuild", "{remedy}");
    let rebuilt = run(&world.place()?, &installation.weftctl(), &rebuild)?;
    ensure!(rebuilt.status == Some(0), "{}", rebuilt.stderr);
    Ok(())
}
