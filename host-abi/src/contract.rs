//! Which contract version a component was built for, and what it wants from the host: answered from its type alone,
//! before any of it runs.

use wasmtime::Engine;
use wasmtime::component::Component;

/// The package of the contract, without its version.
pub const PACKAGE: &str = "weft:policy";

/// The contract version this host speaks. Components built for the same `MAJOR.MINOR` (while major is 0) load.
pub const VERSION: &str = "0.1.0";

/// Why a component is not a policy this host can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// It is a policy, but for another version of the contract.
    #[error(
        "it was built for {PACKAGE}@{built_for} (it has {name}); this host speaks {PACKAGE}@{}.x: rebuild it",
        series(VERSION)
    )]
    Version {
        /// Full name of the interface that shows it.
        name: String,
        /// The version it was built for.
        built_for: String,
    },
    /// It decides something else.
    #[error(
        "it is a delegate policy (it exports {0}), not one that picks addresses: name it under \"select\", not \"ipam\""
    )]
    Delegate(String),
    /// It is a component, but no policy.
    #[error(
        "it is no policy: it exports {exports}, where {PACKAGE}/ipam@{VERSION} is wanted; build it for the world {PACKAGE}/ipam-policy"
    )]
    NoPolicy {
        /// What it exports instead.
        exports: String,
    },
}

/// What a component imports beside the contract.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imports {
    /// WASI interfaces, in full (`wasi:cli/stdout@0.2.6`).
    pub wasi: Vec<String>,
    /// Everything else that no host of ours provides.
    pub unknown: Vec<String>,
}

/// Full names of everything a component imports.
#[must_use]
pub fn import_names(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().imports(engine).map(|(name, _item)| name.to_owned()).collect()
}

/// Full names of everything a component exports.
#[must_use]
pub fn export_names(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().exports(engine).map(|(name, _item)| name.to_owned()).collect()
}

/// What a component says of itself.
#[cfg(feature = "compile")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Full names of its imports.
    pub imports: Vec<String>,
    /// Full names of its exports.
    pub exports: Vec<String>,
}

/// Describes a component that was not compiled before, for people who look at it.
///
/// # Errors
///
/// A text, when the bytes are no component.
#[cfg(feature = "compile")]
pub fn describe(component: &[u8]) -> Result<Description, String> {
    let text = |error: wasmtime::Error| format!("{error:#}");
    let engine = crate::engine::new_engine().map_err(text)?;
    let component = Component::from_binary(&engine, component).map_err(text)?;
    Ok(Description { imports: import_names(&component, &engine), exports: export_names(&component, &engine) })
}

/// Checks that a component is an IPAM policy for this host's contract, and lists what else it imports.
///
/// # Errors
///
/// [`ContractError`] says in words what the component is instead.
pub fn check_ipam(component: &Component, engine: &Engine) -> Result<Imports, ContractError> {
    check_exports(&export_names(component, engine))?;
    let mut imports = Imports::default();
    for name in import_names(component, engine) {
        match split(&name) {
            (PACKAGE, "ledger" | "log" | "types", version) => check_version(&name, version)?,
            (package, _, _) if package.starts_with("wasi:") => imports.wasi.push(name),
            _ => imports.unknown.push(name),
        }
    }
    Ok(imports)
}

fn check_exports(exports: &[String]) -> Result<(), ContractError> {
    let mut delegate = None;
    for name in exports {
        match split(name) {
            (PACKAGE, "ipam", version) => return check_version(name, version),
            (PACKAGE, "delegate-choice", _) => delegate = Some(name.clone()),
            _ => {}
        }
    }
    match delegate {
        Some(name) => Err(ContractError::Delegate(name)),
        None if exports.is_empty() => Err(ContractError::NoPolicy { exports: "nothing".to_owned() }),
        None => Err(ContractError::NoPolicy { exports: exports.join(", ") }),
    }
}

fn check_version(name: &str, version: &str) -> Result<(), ContractError> {
    // A pre-release never matches, as in wasmtime's own rule.
    if !version.contains('-') && series(version) == series(VERSION) {
        return Ok(());
    }
    Err(ContractError::Version { name: name.to_owned(), built_for: version.to_owned() })
}

/// `ns:package/interface@version` in its parts; what is missing is empty.
fn split(name: &str) -> (&str, &str, &str) {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let (package, interface) = path.split_once('/').unwrap_or((path, ""));
    (package, interface, version)
}

/// The part of a version within which it is compatible: `0.1` of `0.1.5`, `1` of `1.2.3`.
fn series(version: &str) -> &str {
    let dots = if version.starts_with("0.") { 2 } else { 1 };
    let end = version.match_indices('.').nth(dots - 1).map_or(version.len(), |(at, _dot)| at);
    &version[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn version_is_the_wit_packages() {
        assert!(include_str!("../wit/policy.wit").contains(&format!("package {PACKAGE}@{VERSION};")));
    }

    #[test]
    fn series_is_minor_before_one_and_major_after() {
        assert_eq!(["0.1.0", "0.1.5", "0.2.0", "1.2.3", "0.1"].map(series), ["0.1", "0.1", "0.2", "1", "0.1"]);
    }

    #[test]
    fn other_versions_are_refused_in_words() {
        let export = |version: &str| check_exports(&[format!("weft:policy/ipam@{version}")]);
        export("0.1.0").expect("same");
        export("0.1.7").expect("newer patch");
        for version in ["0.2.0", "1.0.0", "0.1.0-rc.1"] {
            let text = export(version).expect_err(version).to_string();
            assert!(text.contains(&format!("built for weft:policy@{version}")), "{text}");
            assert!(text.contains("speaks weft:policy@0.1.x"), "{text}");
        }
    }

    #[test]
    fn other_components_are_named_for_what_they_are() {
        let text = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            check_exports(&names).expect_err("no policy").to_string()
        };
        assert!(text(&["weft:policy/delegate-choice@0.1.0"]).contains("delegate policy"));
        assert!(text(&["wasi:cli/run@0.2.6"]).contains("exports wasi:cli/run@0.2.6"));
        assert!(text(&[]).contains("exports nothing"));
    }
}
