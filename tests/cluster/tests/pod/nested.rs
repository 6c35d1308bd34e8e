//! The author of a NetworkAttachmentDefinition tries to have `weft-pod` called with a configuration of his own, and with it
//! a program of his own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_cluster::pods::executable;
use weft_cluster::scene::{calls, vendor};

use crate::Scene;

/// Writes the author's program `p`, which notes that it ran. Returns its directory, and the note.
fn tenant(scene: &Scene) -> Result<(PathBuf, PathBuf)> {
    let (dir, note) = (scene.node.scratch().join("tenant"), scene.node.scratch().join("ran"));
    executable(
        &dir.join("p"),
        &format!("echo $CNI_COMMAND >> {}\necho '{{\"cniVersion\": \"1.1.0\"}}'", note.display()),
    )?;
    Ok((dir, note))
}

/// As `ipam` of a network of ours, and as the plugin itself: nothing is called.
pub(crate) fn refused(mut scene: Scene) -> Result<()> {
    let (dir, note) = tenant(&scene)?;
    // An installed weft finds itself there.
    let own = ["weft-pod", "multus"].map(|name| Path::new("/opt/cni/bin").join(name));
    for file in &own {
        fs::remove_file(file).ok();
        symlink(scene.node.scratch().join("bin/weft-pod"), file).context("install weft-pod")?;
    }
    scene.nad("a", &vendor("a"))?;
    for nested in [
        json!({"type": "bridge", "ipam": {"type": "weft-pod"}}),
        json!({"type": "weft", "delegate": {"type": "multus"}}),
    ] {
        let mut evil = json!({"cniVersion": "1.1.0", "name": "evil", "binDir": dir, "agentSocket": scene.conf["agentSocket"],
            "delegates": [{"type": "p"}, {"type": "p"}]});
        evil.as_object_mut().context("object")?.extend(nested.as_object().cloned().context("object")?);
        scene.nad("evil", &evil)?;
        // Named like this, the interfaces of both levels do not clash.
        scene.pod("a@q, evil")?;
        let error = scene.run("ADD")?.error()?;
        ensure!(error.code == 7 && error.msg.contains("attaches all networks of a pod"), "{error:?}");
        ensure!(calls()?.is_empty(), "{:?}", calls()?);
        scene.run("DEL")?.expect_quiet()?;
    }
    ensure!(!note.exists(), "the program ran: {:?}", fs::read_to_string(&note));
    own.iter().try_for_each(fs::remove_file).context("remove weft-pod")?;
    scene.nothing_left()
}

/// Another vendor's plugin hands its configuration on to `weft-pod`.
pub(crate) fn relayed(mut scene: Scene) -> Result<()> {
    let (dir, note) = tenant(&scene)?;
    let weft_pod = scene.node.scratch().join("bin/weft-pod");
    executable(Path::new("/opt/cni/bin/relay"), &format!("exec {}", weft_pod.display()))?;
    let evil = json!({"cniVersion": "1.1.0", "name": "evil", "type": "relay", "binDir": dir,
        "agentSocket": scene.conf["agentSocket"], "delegates": [{"type": "p"}, {"type": "p"}]});
    scene.nad("a", &vendor("a"))?;
    scene.nad("evil", &evil)?;
    scene.pod("a@q, evil")?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.code == 7 && error.msg.contains("weft does not run it"), "{error:?}");
    ensure!(calls()? == ["fake ADD eth0", "fake ADD q", "fake DEL q", "fake DEL eth0"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    ensure!(!note.exists(), "the program ran: {:?}", fs::read_to_string(&note));
    fs::remove_file("/opt/cni/bin/relay")?;
    scene.nothing_left()
}
