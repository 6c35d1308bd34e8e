//! `default-route`: decides which attachment has the pod's default route. On that attachment, routes through given
//! gateways replace its own default routes; on all others, default routes are removed.
//!
//! There is no plugin of this name: `weft-pod` chains it to attachments if a pod's annotation has `default-route`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_host_abi::types::Route;

use super::{Step, StepError, StepInput, StepPlan};
use crate::cni::Object;
use crate::keys;
use crate::plan::{Family, LinkRef, Op};

/// The kernel's metric for an IPv6 route without one.
const DEFAULT_METRIC: u32 = 1024;

/// The `default-route` step.
pub(super) struct DefaultRoute;

impl Step for DefaultRoute {
    fn kind(&self) -> &'static str {
        "default-route"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["drop", "gateways"]
    }

    fn is_program(&self) -> bool {
        false
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        read(conf).map(drop)
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let (drop, gateways) = read(input.conf)?;
        let link = LinkRef::container(input.attachment.ifname.as_str());
        let mut ops: Vec<Op> =
            drop.iter().map(|family| Op::DropDefaultRoutes { link: link.clone(), family: *family }).collect();
        let dropped = |route: &Route| route.dst.prefix_len() == 0 && drop.contains(&Family::from_ip(route.dst.addr()));
        let before = input.previous.map(|previous| previous.routes.clone()).unwrap_or_default();
        let mut routes: Vec<Route> = before.into_iter().filter(|route| !dropped(route)).collect();
        for (index, gateway) in gateways.iter().enumerate() {
            let earlier = gateways.iter().take(index).filter(|other| other.is_ipv4() == gateway.is_ipv4()).count();
            let route = default_route(*gateway, u32::try_from(earlier).unwrap_or(u32::MAX));
            ops.push(Op::AddRoute { link: link.clone(), route: route.clone(), src: None, existing_ok: false });
            routes.push(route);
        }
        Ok(StepPlan { ops, routes: Some(routes), ..StepPlan::default() })
    }
}

/// Returns a default route. Each route after the first of a family has a higher metric.
fn default_route(gateway: IpAddr, earlier: u32) -> Route {
    let (any, first) = match gateway {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_METRIC),
    };
    let priority = (earlier > 0).then(|| first.saturating_add(earlier));
    // A prefix length of 0 is valid in both families.
    let dst = IpNet::new_assert(any, 0);
    Route { priority, ..Route::new(dst, Some(gateway)) }
}

/// Returns the families whose default routes are removed, and the gateways of new ones.
fn read(conf: &Object) -> Result<(Vec<Family>, Vec<IpAddr>), StepError> {
    let families = conf.strings("drop").map_err(keys::mistyped)?.unwrap_or_default();
    let family = |text: &String| match text.as_str() {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        other => Err(StepError::Conf(format!("drop: {other:?} is none of \"4\" and \"6\""))),
    };
    let gateways = conf.strings("gateways").map_err(keys::mistyped)?.unwrap_or_default();
    let gateway = |text: &String| {
        text.parse().map_err(|_not_an_address| StepError::Conf(format!("gateways: {text:?} is not an address")))
    };
    Ok((
        families.iter().map(family).collect::<Result<_, _>>()?,
        gateways.iter().map(gateway).collect::<Result<_, _>>()?,
    ))
}
