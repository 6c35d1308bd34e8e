//! `ipam` of type `dhcp`: the stock plugin's keys and ours.

use super::*;

fn read(ipam: Value) -> Result<DhcpConf, ConfError> {
    read_with(Persona::Weft, ipam, "")
}

fn read_with(persona: Persona, mut ipam: Value, args: &str) -> Result<DhcpConf, ConfError> {
    ipam["type"] = json!("dhcp");
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "delegate": {"type": "bridge"}, "ipam": ipam});
    let mut conf = object(conf);
    if persona != Persona::Weft {
        conf.remove("delegate");
    }
    let network = Network::parse(persona, &conf, &crate::cni::usable_pairs(args), &is_shipped)?;
    let ipam = network.ipam.unwrap();
    assert_eq!(ipam.kind, IpamKind::Dhcp);
    Ok(ipam.dhcp.unwrap())
}

fn refused(ipam: Value) -> String {
    read(ipam).unwrap_err().to_string()
}

#[test]
fn defaults() {
    for persona in [Persona::Weft, Persona::Delegate("bridge"), Persona::Ipam("dhcp")] {
        let conf = read_with(persona, json!({}), "").unwrap();
        assert_eq!(conf.socket, std::path::Path::new("/run/weft/agent.sock"));
        assert_eq!((conf.wish.ipv4, conf.wish.ipv6, conf.wish.broadcast), (true, false, false));
        assert_eq!(conf.wish.request, [1, 121, 3, 33, 6, 15, 119]);
        assert!(conf.wish.provide.is_empty() && conf.wish.priority.is_none());
    }
}

#[test]
fn options_are_named_or_numbered_and_come_from_arguments_first() {
    let ipam = json!({"priority": 5, "provide": [
        {"option": "host-name", "value": "a", "fromArg": "NAME"},
        {"option": "60", "value": "vendor"},
        {"option": 77, "fromArg": "MISSING"},
        {"option": "dhcp-client-identifier", "value": "me", "fromArg": "MISSING"},
    ]});
    let conf = read_with(Persona::Ipam("dhcp"), ipam.clone(), "NAME=b;broken;NAME=c=d").unwrap();
    let provided: Vec<_> = conf.wish.provide.iter().map(|(code, value)| (*code, value.as_str())).collect();
    assert_eq!(provided, [(12, "c=d"), (60, "vendor"), (61, "me")]);
    assert_eq!(conf.wish.priority, Some(5));
    assert_eq!(read_with(Persona::Weft, ipam, "").unwrap().wish.provide[&12], "a");
}

#[test]
fn requests_add_to_the_defaults_or_replace_them() {
    let request = |items| read(json!({ "request": items })).unwrap().wish.request;
    assert_eq!(request(json!([{"option": "routers"}, {"option": "42"}])), [1, 121, 3, 33, 6, 15, 119, 42]);
    assert_eq!(request(json!([{"option": "routers"}, {"option": 1, "skipDefault": true}])), [3, 1]);
    assert_eq!(request(json!([{"skipDefault": true}])), Vec::<u8>::new());
}

#[test]
fn what_is_wrong_is_named() {
    let parse = "Can not parse option: strconv.ParseUint: parsing";
    assert_eq!(
        refused(json!({"provide": [{"option": "nonsense"}]})),
        format!("Can not parse option \"nonsense\": {parse} \"nonsense\": invalid syntax")
    );
    assert!(refused(json!({"request": [{"option": "256"}]})).ends_with("parsing \"256\": value out of range"));
    assert!(refused(json!({"request": [{"option": -1}]})).ends_with("invalid syntax"));
    assert!(refused(json!({"request": [{}]})).ends_with("parsing \"\": invalid syntax"));
    assert!(refused(json!({"provide": [{"option": 53, "value": "x"}]})).contains("this one is set by weft"));
    assert!(refused(json!({"provide": [{"option": 12, "value": "x".repeat(256)}]})).contains("longer than 255"));
    assert!(refused(json!({"ipv4": false})).contains("no address would be asked for"));
    assert!(refused(json!({"daemonSocketPath": "agent.sock"})).contains("an absolute path"));
    assert!(refused(json!({"ranges": []})).contains("unknown key \"ranges\" in \"ipam\""));
    assert!(read_with(Persona::Delegate("bridge"), json!({"ranges": []}), "").is_ok());
    assert!(matches!(read(json!({"priority": "7"})), Err(ConfError::Mistyped(_))));
}
