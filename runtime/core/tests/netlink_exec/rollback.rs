//! Plans that fail at each op: host and container are then as before.

use weft_core::plan::{LinkRef, Plan};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("rollback::bridge", None, || fail_at_each_op(&bridge_l3(), |_, _| {})),
        ("rollback::bridge_that_was_there", None, || fail_at_each_op(&bridge_l3(), used_bridge)),
        ("rollback::bridge_that_was_down", None, || fail_at_each_op(&bridge_v4(), idle_bridge)),
        ("rollback::second_attachment", None, || fail_at_each_op(&bridge_l3(), neighbour)),
        ("rollback::forced_address", None, forced_address),
        ("rollback::point_to_point", None, || fail_at_each_op(&ptp(HOST_VETH, "10.77.0.2"), |_, _| {})),
        ("rollback::macvlan", None, || fail_at_each_op(&macvlan(LinkRef::host("up0")), host_parent)),
        ("rollback::macvlan_in_the_container", None, || {
            fail_at_each_op(&macvlan(LinkRef::container("up0")), container_parent);
        }),
        ("rollback::loopback", None, || fail_at_each_op(&loopback(), |_, _| {})),
        ("rollback::without_ipv6", None, || fail_at_each_op(&bridge_l3(), ipv6_off)),
    ]
}

/// Inserts an impossible op before each op and after the last.
fn fail_at_each_op(whole: &Plan, prepare: fn(&Ns, &Ns)) {
    let (host, pod) = (Ns::new(), Ns::new());
    prepare(&host, &pod);
    host.settle();
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    for at in 0..=whole.ops.len() {
        let mut plan = whole.clone();
        plan.ops.insert(at, impossible());
        let error = with_executor(&host, &pod, |executor| executor.apply(&plan).expect_err("impossible"));
        assert_eq!(error.at, at, "{error}: {}", error.cause);
        assert!(error.leftovers.is_empty(), "at {at}: {:?}", error.leftovers);
        host.assert_snapshot(&host_before, &format!("host, op {at}"));
        pod.assert_snapshot(&pod_before, &format!("pod, op {at}"));
    }
    // The inserted op causes the failure: without it the plan works.
    with_executor(&host, &pod, |executor| drop(applied(executor, whole)));
}

/// Prepares an operator's bridge with a port, addresses, and a setting of its own.
fn used_bridge(host: &Ns, _pod: &Ns) {
    host.sh("ip link add weft0 type bridge && ip link set weft0 up");
    host.sh(
        "ip link add p type veth peer name q && ip link set p up && ip link set q up && ip link set p master weft0",
    );
    host.sh("ip addr add fd00:99::1/64 dev weft0");
    host.set_sysctl("ipv6/conf/weft0/accept_ra", "2");
    host.set_sysctl("ipv4/conf/q/forwarding", "1");
}

/// Prepares a bridge that is down, without ports, and was never used.
fn idle_bridge(host: &Ns, _pod: &Ns) {
    host.sh("ip link add weft0 address 02:00:00:00:00:77 type bridge && ip link set weft0 addrgenmode none");
    // A bridge that never had a port looks different from one whose last port left.
    host.sh("ip link add p type veth peer name q && ip link set weft0 up && ip link set p master weft0");
    host.sh("ip link del p && ip link set weft0 down");
}

/// Prepares another attachment of the same network.
fn neighbour(host: &Ns, _pod: &Ns) {
    let other = Ns::new();
    let text = serde_json::to_string(&bridge_l3()).expect("json");
    let text = text.replace(HOST_VETH, "vethcafe0002").replace("10.88.0.2", "10.88.0.3").replace("88::2", "88::3");
    let plan: Plan = serde_json::from_str(&text).expect("plan");
    with_executor(host, &other, |executor| drop(applied(executor, &plan)));
    // Its namespace must exist as long as the test runs.
    std::mem::forget(other);
}

fn host_parent(host: &Ns, _pod: &Ns) {
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
}

fn container_parent(_host: &Ns, pod: &Ns) {
    pod.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    pod.settle();
}

fn ipv6_off(_host: &Ns, pod: &Ns) {
    for name in ["all", "default", "lo"] {
        pod.set_sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
    pod.sh("ip link set lo up");
}

fn forced_address() {
    let mut plan = bridge_v4();
    for op in &mut plan.ops {
        if let weft_core::plan::Op::EnsureAddress { force, .. } = op {
            *force = true;
        }
    }
    fail_at_each_op(&plan, |host, pod| {
        used_bridge(host, pod);
        host.sh("ip addr add 10.99.0.1/24 brd + dev weft0 && ip addr add 10.99.0.2/24 brd + dev weft0");
        host.sh("ip route add 10.55.0.0/16 via 10.99.0.7 && ip route add 10.56.0.0/16 dev weft0 src 10.99.0.1");
    });
}
