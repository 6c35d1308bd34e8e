//! Any input: never panics, and an error is one valid JSON document.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

/// Generates any JSON value, three levels deep, also with keys that the reader knows.
pub(crate) fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![
            "10\\.0\\.[0-9]\\.[0-9]{1,2}/[0-9]{1,2}",
            "fd00::[0-9a-f]{1,4}/1?[0-9]{2}",
            "10\\.0\\.0\\.[0-9]{1,3}"
        ]
        .prop_map(Value::from),
        prop_oneof!["0\\.[1-4]\\.[01]", "1\\.[01]\\.0"].prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop_oneof![
            Just("cniVersion"),
            Just("interfaces"),
            Just("ips"),
            Just("routes"),
            Just("dns"),
            Just("ip4"),
            Just("ip6"),
            Just("ip"),
            Just("address"),
            Just("gateway"),
            Just("dst"),
            Just("gw"),
            Just("name"),
            Just("nameservers"),
            Just("code"),
            Just("msg"),
            Just("interface"),
            Just("mtu")
        ]
        .prop_map(ToOwned::to_owned),
        ".{0,6}".prop_map(String::from)
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..7)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Checks that an error prints one document with its fields.
pub(crate) fn is_one_document(error: &CniError) -> Result<(), TestCaseError> {
    let read: Value = serde_json::from_str(&error.to_json()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(read["code"].as_u64(), Some(u64::from(error.code)));
    prop_assert_eq!(read["msg"].as_str(), Some(error.msg.as_str()));
    Ok(())
}

proptest! {
    #[test]
    fn stdin_of_any_bytes(stdin in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read_network(&stdin) {
            is_one_document(&error)?;
        }
    }

    #[test]
    fn stdin_of_any_json(value in json_value()) {
        match read_network(value.to_string().as_bytes()) {
            Ok(object) => prop_assert!(object.str("name").unwrap().is_some()),
            Err(error) => is_one_document(&error)?,
        }
    }

    #[test]
    fn an_environment_of_any_bytes(
        verb in prop_oneof![Just("ADD"), Just("DEL"), Just("GC"), Just("VERSION"), Just("x")],
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 6),
    ) {
        let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"];
        let read = read_environment(&|name| {
            if name == "CNI_COMMAND" {
                return Some(OsString::from(verb));
            }
            let index = names.iter().position(|known| *known == name)?;
            values.get(index)?.clone().map(OsString::from_vec)
        });
        if let Err(error) = read {
            is_one_document(&error)?;
        }
    }

    #[test]
    fn arguments_of_any_text(args in ".{0,60}") {
        match parse_pairs(&args) {
            Ok(pairs) => {
                let again: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
                prop_assert_eq!(again.join(";"), args);
                if let Err(error) = check_known(&pairs, &["IP"]) {
                    is_one_document(&error)?;
                }
            }
            Err(error) => is_one_document(&error)?,
        }
    }

    #[test]
    fn a_version_of_any_text(text in "\\PC{0,12}") {
        for read in [Version::parse(&text), Version::reconcile(&text)] {
            if let Err(error) = read {
                is_one_document(&error)?;
            }
        }
    }

    #[test]
    fn a_result_of_any_json_is_refused_or_printed(value in json_value()) {
        for fallback in Version::ALL {
            match CniResult::from_json(&value, fallback) {
                Err(error) => is_one_document(&error)?,
                Ok(result) => for version in Version::ALL {
                    match result.to_json(version) {
                        Ok(text) => {
                            let read: Value = serde_json::from_str(&text).unwrap();
                            prop_assert!(CniResult::from_json(&read, Version::V0_1_0).is_ok());
                        }
                        Err(error) => is_one_document(&error)?,
                    }
                },
            }
        }
    }

    #[test]
    fn a_plugins_answer_of_any_bytes(
        stdout in prop::collection::vec(any::<u8>(), 0..80),
        stderr in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        is_one_document(&CniError::parse(&stdout, &stderr, "exit status 1"))?;
    }
}
