//! Calls that fail, each with its code and message: environment, values, stdin, and the gates of the versions.

use weft_kit::cni::Call;

use super::{Row, conf};

pub(super) fn row(name: &'static str, code: u64, msg: &'static str, call: Call) -> Row {
    Row { name, call, code, msg, details: Some(""), prefix: false, known_to_reference: true }
}

fn edit(verb: &str, change: impl FnOnce(&mut Call)) -> Call {
    let mut call = Call::complete(verb, &conf("1.0.0"));
    change(&mut call);
    call
}

pub(super) fn stdin(verb: &str, text: &str) -> Call {
    edit(verb, |call| call.stdin = text.as_bytes().to_vec())
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = environment_rows();
    rows.extend(value_rows());
    rows.extend(stdin_rows());
    rows.extend(gate_rows());
    rows
}

/// Returns calls with missing variables, which are reported all at once.
fn environment_rows() -> Vec<Row> {
    let only = |verb: &str| Call::new(verb, &conf("1.0.0"));
    vec![
        row("unknown-command", 4, "unknown CNI_COMMAND: FOO", edit("FOO", |_| ())),
        row("lower-case-command", 4, "unknown CNI_COMMAND: add", edit("add", |_| ())),
        row(
            "missing-all-add",
            4,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
            only("ADD"),
        ),
        row(
            "missing-all-check",
            4,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
            only("CHECK"),
        ),
        row("missing-all-del", 4, "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing", only("DEL")),
        row(
            "missing-id",
            4,
            "required env variables [CNI_CONTAINERID] missing",
            edit("ADD", |call| call.container_id = None),
        ),
        row(
            "empty-id",
            4,
            "required env variables [CNI_CONTAINERID] missing",
            edit("ADD", |call| call.container_id = Some(String::new())),
        ),
        row("missing-netns", 4, "required env variables [CNI_NETNS] missing", edit("ADD", |call| call.netns = None)),
        row("missing-ifname", 4, "required env variables [CNI_IFNAME] missing", edit("DEL", |call| call.ifname = None)),
        row("missing-path", 4, "required env variables [CNI_PATH] missing", edit("DEL", |call| call.path = None)),
    ]
}

/// Returns calls with wrong values.
fn value_rows() -> Vec<Row> {
    let ifname = |name: &'static str, value: &str, msg| {
        row(name, 4, msg, edit("ADD", |call| call.ifname = Some(value.to_owned())))
    };
    let id = |name: &'static str, value: &'static str| Row {
        details: Some(value),
        ..row(
            name,
            4,
            "invalid characters in containerID",
            edit("ADD", |call| call.container_id = Some(value.to_owned())),
        )
    };
    let strange = "interface name contains / or : or whitespace characters";
    vec![
        id("id-slash", "some/container"),
        id("id-leading-dash", "-container"),
        id("id-space", "some container"),
        Row {
            details: Some("interface name should be less than 16 characters"),
            ..ifname("ifname-too-long", "1234567890123456", "interface name is too long")
        },
        ifname("ifname-dot", ".", "interface name is . or .."),
        ifname("ifname-dots", "..", "interface name is . or .."),
        ifname("ifname-slash", "eth/0", strange),
        ifname("ifname-colon", "eth:0", strange),
        ifname("ifname-space", "eth 0", strange),
        // Values are checked in order: a wrong id is reported although the path is missing (1.1.1 collects first).
        Row {
            known_to_reference: false,
            details: Some("a/b"),
            ..row(
                "wrong-before-missing",
                4,
                "invalid characters in containerID",
                edit("ADD", |call| {
                    call.container_id = Some("a/b".to_owned());
                    call.path = None;
                }),
            )
        },
    ]
}

/// Returns calls whose stdin is no configuration.
fn stdin_rows() -> Vec<Row> {
    let decode = |name, text| Row {
        prefix: true,
        details: None,
        ..row(name, 6, "error unmarshall network config:", stdin("ADD", text))
    };
    let named = |name, text, details| Row {
        details: Some(details),
        ..row(name, 7, "invalid characters found in network name", stdin("ADD", text))
    };
    let missing = |name, text| row(name, 7, "missing network name", stdin("ADD", text));
    vec![
        decode("stdin-empty", ""),
        decode("stdin-no-json", "nonsense"),
        decode("stdin-cut", "{\"cniVersion\": \"1.0.0\", \"name\": \"net\""),
        decode("stdin-list", "[]"),
        decode("stdin-two-documents", "{\"name\":\"net\"} {}"),
        decode("stdin-name-number", "{\"cniVersion\": \"1.0.0\", \"name\": 7}"),
        missing("name-missing", "{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\"}"),
        missing("name-empty", "{\"cniVersion\": \"1.0.0\", \"name\": \"\"}"),
        missing("name-null", "{\"cniVersion\": \"1.0.0\", \"name\": null}"),
        missing("stdin-null", "null"),
        missing("stdin-object", "{}"),
        named("name-slash", "{\"cniVersion\": \"1.0.0\", \"name\": \"a/b\"}", "a/b"),
        named("name-leading-dot", "{\"cniVersion\": \"1.0.0\", \"name\": \".net\"}", ".net"),
        named("name-any-case-key", "{\"cniVersion\": \"1.0.0\", \"NAME\": \"a b\"}", "a b"),
    ]
}

/// Returns versions, and the verbs of each.
fn gate_rows() -> Vec<Row> {
    let with = |verb: &str, version: &str| Call::complete(verb, &conf(version));
    let no_check = "config version does not allow CHECK";
    let ours = |row: Row| Row { known_to_reference: false, ..row };
    let supports =
        "config is \"9.9.9\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]";
    vec![
        ours(Row {
            details: Some(supports),
            ..row("version-unknown", 1, "incompatible CNI versions", with("ADD", "9.9.9"))
        }),
        Row { details: None, ..row("version-unknown-any", 1, "incompatible CNI versions", with("ADD", "9.9.9")) },
        Row { details: None, ..row("version-unknown-del", 1, "incompatible CNI versions", with("DEL", "0.3.2")) },
        Row {
            details: None,
            ..row(
                "version-key-any-case",
                1,
                "incompatible CNI versions",
                stdin("ADD", "{\"CNIVERSION\":\"9.9.9\",\"name\":\"net\"}"),
            )
        },
        row("check-0.1.0", 1, no_check, with("CHECK", "0.1.0")),
        row("check-0.3.1", 1, no_check, with("CHECK", "0.3.1")),
        row("check-no-version", 1, no_check, stdin("CHECK", "{\"name\":\"net\",\"type\":\"bridge\"}")),
        ours(row("gc-1.0.0", 1, "config version does not allow GC", with("GC", "1.0.0"))),
        ours(row("gc-0.1.0", 1, "config version does not allow GC", with("GC", "0.1.0"))),
        ours(row("status-1.0.0", 1, "config version does not allow STATUS", with("STATUS", "1.0.0"))),
        ours(row(
            "status-missing-path",
            4,
            "required env variables [CNI_PATH] missing",
            edit("STATUS", |call| call.path = None),
        )),
        ours(row(
            "gc-missing-path",
            4,
            "required env variables [CNI_PATH] missing",
            edit("GC", |call| call.path = None),
        )),
    ]
}
