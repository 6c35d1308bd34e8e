//! Golden plans of `loopback`.

use serde_json::json;

use super::*;

#[test]
fn brings_lo_up_whatever_the_interface_name_is() {
    let plan = Call::new("loopback", json!({})).plan().unwrap();
    let lo = LinkRef::container("lo");
    assert_eq!(serde_json::to_value(&plan.ops).unwrap(), json!([{"op": "link-up", "link": lo}]));
    assert_eq!(plan.result.interfaces, std::slice::from_ref(&lo));
    assert!(plan.result.observed_addresses);
    assert_eq!(find("loopback").unwrap().needs(&Object::default(), None).unwrap(), [Need::Link(lo)]);
}

#[test]
fn an_address_of_another_net_is_an_error() {
    let mut call = Call::new("loopback", json!({})).with_link(LinkRef::container("lo"), "", 65536);
    call.observed.links.get_mut(&LinkRef::container("lo")).unwrap().addresses =
        vec!["127.0.0.1/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert!(call.plan().is_ok());
    call.observed.links.get_mut(&LinkRef::container("lo")).unwrap().addresses.push("10.1.1.1/32".parse().unwrap());
    assert_eq!(call.error(), "loopback interface found with non-loopback address \"10.1.1.1\"");
}
