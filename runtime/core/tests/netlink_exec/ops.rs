//! Whole plans applied, checked, undone and torn down, against what `ip` and `nft` show.

use std::collections::BTreeSet;

use weft_core::netlink::Executor;
use weft_core::plan::{LinkRef, Op, Plan};

use crate::plans::*;
use crate::support::*;

pub(crate) const TESTS: [(&str, Option<&str>, fn()); 1] = [("ops::bridge_l3", None, bridge_l3_plan)];

pub(crate) fn executor(container: &Ns) -> Executor {
    Executor::open(Some(container.path())).expect("executor")
}

fn bridge_l3_plan() {
    let (host, pod) = (Ns::new(), Ns::new());
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    host.run(|| {
        let mut executor = executor(&pod);
        assert!(!executor.same_netns());
        let plan = bridge_l3();
        let applied = executor.apply(&plan).unwrap_or_else(|error| panic!("{error}: {}", error.cause));
        println!("{:#?}", applied.links);
        println!("{}", sh("ip -d addr; ip route; nft list ruleset"));
        println!("{}", pod.sh("ip -d addr; ip route; ip -6 route"));
        assert_eq!(executor.check(&plan).expect("check"), []);
        let errors = executor.undo(applied);
        assert!(errors.is_empty(), "{errors:?}");
    });
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
    let _: (BTreeSet<u8>, Option<Op>, Option<Plan>, Option<LinkRef>);
}
