//! `weftctl ledger`, and a ledger on a full disk.

use super::*;

pub(super) fn ledger() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    // Addresses that no other test has on a link: releasing one searches all namespaces.
    let mut conf = conf();
    conf["ipam"]["ranges"] = json!([[{ "subnet": "10.65.0.0/24" }]]);
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf)?.is_ok(), "ADD");
    let (table, document) = both_outputs(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(table.contains("10.65.0.2") && table.contains("cid-a"), "{table}");
    ensure!(document[0]["state"] == "active" && document[0]["address"] == "10.65.0.2", "{document:#}");
    let state = world.state().display().to_string();
    let release = ["--state-dir", &state, "ledger", "release", "ctl", "10.65.0.2"];
    let refused = run(&world.place()?, &installation.weftctl(), &release)?;
    ensure!(refused.status == Some(1), "released an address in use");
    ensure!(refused.stderr.contains("--force"), "no remedy");
    world.remove_container("a");
    let released = run(&world.place()?, &installation.weftctl(), &release)?;
    ensure!(released.status == Some(0), "{}", released.stderr);
    let (table, _) = both_outputs(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(!table.contains("10.65.0.2"), "{table}");
    Ok(())
}

pub(super) fn import_export() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let stock = world.scratch().join("stock/ctl");
    fs::create_dir_all(&stock)?;
    fs::write(stock.join("10.63.0.7"), "cid-a\r\neth0")?;
    fs::write(stock.join("last_reserved_ip.0"), "10.63.0.7")?;
    fs::write(stock.join("lock"), "")?;
    let dir = stock.display().to_string();
    let (_, imported) = both_outputs(&world, &installation.weftctl(), &["ledger", "import", "host-local", &dir])?;
    ensure!(imported[0]["network"] == "ctl" && imported[0]["already"] == 1, "the second import: {imported:#}");
    let back = world.scratch().join("back").display().to_string();
    both_outputs(&world, &installation.weftctl(), &["ledger", "export", "host-local", &back])?;
    let file = Path::new(&back).join("ctl/10.63.0.7");
    ensure!(fs::read_to_string(&file)? == "cid-a\r\neth0", "the exported file differs");
    ensure!(fs::read_to_string(Path::new(&back).join("ctl/last_reserved_ip.0"))? == "10.63.0.7", "cursor");
    // The next ADD continues after the imported cursor, and DEL of the imported attachment frees its address.
    let reply = world.call("ADD", &Attach::eth0("b"), &conf())?;
    ensure!(reply.json()?["ips"][0]["address"] == "10.63.0.8/24", "{}", String::from_utf8_lossy(&reply.stdout));
    ensure!(world.call("DEL", &Attach::eth0("a"), &conf())?.is_ok(), "DEL of the imported attachment");
    let (table, _) = both_outputs(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(!table.contains("10.63.0.7"), "{table}");
    Ok(())
}

/// A network with its own `dataDir` keeps its addresses through an import, and gets its files back where the stock
/// plugin looks.
pub(super) fn data_dir() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let data = world.scratch().join("data");
    let mut conf = conf();
    conf["ipam"]["dataDir"] = json!(data.display().to_string());
    fs::create_dir_all(data.join("ctl"))?;
    for address in ["10.63.0.2", "10.63.0.3"] {
        fs::write(data.join("ctl").join(address), "stock\r\neth0")?;
    }
    both_outputs(&world, &installation.weftctl(), &["ledger", "import", "host-local", &data.display().to_string()])?;
    let given = address(&world.call("ADD", &Attach::eth0("a"), &conf)?)?;
    ensure!(given == "10.63.0.4/24", "an imported address was handed out: {given}");
    both_outputs(&world, &installation.weftctl(), &["ledger", "export", "host-local"])?;
    ensure!(fs::read_to_string(data.join("ctl/10.63.0.4"))? == "cid-a\r\neth0", "not where the stock plugin looks");
    Ok(())
}

/// A state directory on a small disk of its own.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn new(world: &World, megabytes: u32) -> Result<Self> {
        let (disk, copy) = (Self { at: world.state() }, world.scratch().join("copy"));
        let (at, copy) = (disk.at.display(), copy.display());
        let mount = format!("mount -t tmpfs -o size={megabytes}m,mode=700 weft-full {at}");
        shell(&format!("cp -a {at} {copy} && {mount} && cp -a {copy}/. {at}/"))?;
        Ok(disk)
    }

    fn size(&self, name: &str) -> Result<u64> {
        Ok(fs::metadata(self.at.join(name)).with_context(|| name.to_owned())?.len())
    }

    fn fill(&self) -> Result<()> {
        let at = self.at.display();
        drop(Command::new("dd").args(["if=/dev/zero", &format!("of={at}/fill"), "bs=4k"]).output()?);
        ensure!(fs::write(self.at.join("more"), vec![1; 8192]).is_err(), "the disk is not full");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        shell(&format!("umount {}", self.at.display())).ok();
    }
}

fn shell(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn succeeds(world: &mut World, verb: &str, name: &str, conf: &Value) -> Result<()> {
    let reply = world.call(verb, &Attach::eth0(name), conf)?;
    ensure!(reply.is_ok(), "{verb} {name}: {}", String::from_utf8_lossy(&reply.stdout));
    Ok(())
}

/// Deletes the pods in this order but for the last four, which GC removes.
fn evict(world: &mut World, pods: &[(String, Value)]) -> Result<()> {
    for (name, conf) in pods.iter().take(pods.len().saturating_sub(4)) {
        succeeds(world, "DEL", name, conf)?;
    }
    let (name, conf) = pods.last().context("a pod")?;
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    succeeds(world, "GC", name, &gc)?;
    ensure!(world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// Far more is in the ledger than what a new one reserves, and the disk is full.
pub(super) fn full_disk_of_a_large_ledger() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let disk = SmallDisk::new(&world, 48)?;
    let conf = |first: u16, count: u16| {
        let mut conf = conf();
        let port = |at| json!({ "hostPort": first + at, "containerPort": 80, "protocol": "tcp" });
        conf["steps"] = json!([{ "type": "portmap", "snat": false }]);
        conf["runtimeConfig"] = json!({ "portMappings": (0..count).map(port).collect::<Vec<_>>() });
        conf
    };
    // Each of these is written back at once, because it fills the log.
    let mut pods: Vec<(String, Value)> =
        (0..40).map(|number| (format!("p{number}"), conf(1000 + 500 * number, 500))).collect();
    for (name, conf) in &pods {
        succeeds(&mut world, "ADD", name, conf)?;
    }
    ensure!(disk.size("weft.db")? > 3 << 20, "the ledger has only {} bytes", disk.size("weft.db")?);
    // These lengthen the ledger, and are in the log when the disk is full.
    for number in 0..20 {
        let (name, conf) = (format!("q{number}"), conf(40_000 + 50 * number, 50));
        succeeds(&mut world, "ADD", &name, &conf)?;
        pods.insert(0, (name, conf));
        if (100 << 10..200 << 10).contains(&disk.size("weft.db-wal")?) {
            break;
        }
    }
    ensure!(disk.size("weft.db-wal")? >= 100 << 10, "the log is empty");
    disk.fill()?;
    pods.reverse();
    pods.rotate_left(4);
    evict(&mut world, &pods)
}

/// kubelet evicts pods when the disk is full: what they hold must be released then.
pub(super) fn full_disk() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let disk = SmallDisk::new(&world, 32)?;
    let pods: Vec<(String, Value)> = (0..8).map(|number| (format!("p{number}"), conf())).collect();
    for (name, conf) in &pods {
        succeeds(&mut world, "ADD", name, conf)?;
    }
    disk.fill()?;
    evict(&mut world, &pods)
}
