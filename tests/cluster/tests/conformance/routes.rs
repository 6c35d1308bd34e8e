//! R17: one attachment has the pod's default route; the others, the default network among them, lose theirs.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::scene::bridge;

use crate::{Scene, refused_whole};

/// A network with a default route of its own.
fn routed(name: &str, subnet: u8) -> Value {
    bridge(name, subnet, &json!({"isDefaultGateway": true}))
}

/// It moves, and both the answer and the status say so.
pub(crate) fn default_route_moves(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &routed("blue", 30))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1"]}, {"name": "blue"}]"#)?;
    let result = scene.add()?;
    ensure!(scene.default_routes("-4")? == ["default via 10.20.0.1 dev net1"], "{:?}", scene.default_routes("-4")?);
    let routes = result["routes"].as_array().cloned().unwrap_or_default();
    ensure!(routes.iter().all(|route| route["dst"] != "0.0.0.0/0"), "the answer still has the route: {result}");
    let status = scene.status()?.context("no status")?;
    ensure!(status[1]["gateway"] == json!(["10.20.0.1"]), "status {status}");
    ensure!(status[0].get("gateway").is_none() && status[2].get("gateway").is_none(), "status {status}");
    scene.run("CHECK")?.expect_quiet().context("CHECK knows of the moved route")?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// The empty list: the attachment keeps its own.
pub(crate) fn empty_list(mut scene: Scene) -> Result<()> {
    scene.nad("blue", &routed("blue", 30))?;
    scene.pod(r#"[{"name": "blue", "default-route": []}]"#)?;
    scene.add()?;
    ensure!(scene.default_routes("-4")? == ["default via 10.30.0.1 dev net1"], "{:?}", scene.default_routes("-4")?);
    scene.run("CHECK")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// Both families, and two gateways of one family in their order.
pub(crate) fn several_gateways(mut scene: Scene) -> Result<()> {
    let both =
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd20::/64"}]]}});
    scene.nad("wire", &bridge("wire", 20, &both))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1", "10.20.0.9", "fd20::1"]}]"#)?;
    scene.add()?;
    let four = scene.default_routes("-4")?;
    ensure!(four == ["default via 10.20.0.1 dev net1", "default via 10.20.0.9 dev net1 metric 1"], "{four:?}");
    let six = scene.default_routes("-6")?;
    ensure!(six.iter().any(|line| line.starts_with("default via fd20::1 dev net1")), "{six:?}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

pub(crate) fn unreachable_gateway(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["192.0.2.9"]}]"#)?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.msg.contains(&format!("{}/wire", scene.namespace)), "{error:?}");
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()
}

/// One attachment alone may carry the key, even where the gateways are of different families.
pub(crate) fn one_carrier(mut scene: Scene) -> Result<()> {
    let element = |gateways: Value| json!({"name": "wire", "default-route": gateways});
    for two in [
        json!([element(json!(["10.20.0.1"])), element(json!(["fd20::1"]))]),
        json!([element(json!([])), element(json!(["10.20.0.1"]))]),
    ] {
        refused_whole(&mut scene, &two.to_string(), "element 2: element 1 has default-route already")?;
    }
    let network = json!([element(json!(["10.20.0.0/24"]))]);
    refused_whole(&mut scene, &network.to_string(), "default-route has \"10.20.0.0/24\"")?;
    scene.nothing_left()
}
