//! Determines the contract version of a component and its imports from its type alone, before any of it runs.

use wasmtime::Engine;
use wasmtime::component::Component;

/// The package of the contract, without its version.
pub const PACKAGE: &str = "weft:policy";

/// The contract version that this host supports. Components built for an older compatible version load: while the
/// contract is 0.x, one of the same minor version; from 1.0 on, one of the same major version. Newer ones load too, as
/// long as they import nothing that this host lacks.
pub const VERSION: &str = "0.1.1";

/// Why a component is not a policy this host can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// It is a policy, but for another version of the contract.
    #[error(
        "the component was built for {PACKAGE}@{built_for} (it exports {name}); this weft supports {PACKAGE}@{}.x: rebuild it",
        series(VERSION)
    )]
    Version {
        /// Full name of the interface with that version.
        name: String,
        /// The version it was built for.
        built_for: String,
    },
    /// It is a policy of another kind.
    #[error(
        "the component is {} (it exports {export}), not one that {}: set it in {:?}, not in {:?}",
        .found.noun(), .wanted.verb(), .found.key(), .wanted.key()
    )]
    OtherWorld {
        /// The expected kind.
        wanted: Kind,
        /// Its actual kind.
        found: Kind,
        /// Full name of the interface that shows it.
        export: String,
    },
    /// It is a component, but not a policy.
    #[error(
        "the component is not a policy: it exports {exports}, not {PACKAGE}/{}@{VERSION}; build it for the world {PACKAGE}/{}",
        .wanted.interface(), .wanted.world()
    )]
    NoPolicy {
        /// The expected kind.
        wanted: Kind,
        /// What it exports instead.
        exports: String,
    },
}

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Which addresses an attachment gets.
    Ipam,
    /// Which delegate builds it.
    Choice,
}

// === impl Kind ===

impl Kind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Ipam, Self::Choice];

    /// Returns the interface that its policies export.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Ipam => "ipam",
            Self::Choice => "delegate-choice",
        }
    }

    /// Returns the world for which its policies are built.
    #[must_use]
    pub fn world(self) -> &'static str {
        match self {
            Self::Ipam => "ipam-policy",
            Self::Choice => "delegate-policy",
        }
    }

    /// Returns the key of a network's configuration that names such a policy.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Ipam => "ipam",
            Self::Choice => "select",
        }
    }

    /// Returns a description of such a policy.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Ipam => "an IPAM policy",
            Self::Choice => "a delegate policy",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Ipam => "picks addresses",
            Self::Choice => "picks a delegate",
        }
    }

    /// Returns the contract's interfaces that its policies may import.
    fn imports(self) -> &'static [&'static str] {
        match self {
            Self::Ipam => &["ledger", "facts", "log", "types"],
            Self::Choice => &["facts", "log", "types"],
        }
    }

    /// Returns what a component with these exports decides, according to their names; `None` if it is not a policy.
    #[must_use]
    pub fn from_exports(exports: &[String]) -> Option<Self> {
        let exported = |kind: &Self| {
            exports.iter().any(|name| {
                let (package, interface, _version) = split(name);
                package == PACKAGE && interface == kind.interface()
            })
        };
        Self::ALL.into_iter().find(exported)
    }
}

/// A component's imports besides the contract.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imports {
    /// WASI interfaces, in full (`wasi:cli/stdout@0.2.6`).
    pub wasi: Vec<String>,
    /// All other imports, which no host provides.
    pub unknown: Vec<String>,
}

/// Returns the full names of a component's imports.
#[must_use]
pub fn import_names(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().imports(engine).map(|(name, _item)| name.to_owned()).collect()
}

/// Returns the full names of a component's exports.
#[must_use]
pub fn export_names(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().exports(engine).map(|(name, _item)| name.to_owned()).collect()
}

/// The imports and exports of a component.
#[cfg(feature = "compile")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Full names of its imports.
    pub imports: Vec<String>,
    /// Full names of its exports.
    pub exports: Vec<String>,
}

/// Describes a component that was not compiled before, for display.
///
/// # Errors
///
/// An error text, if the bytes are not a component.
#[cfg(feature = "compile")]
pub fn describe(component: &[u8]) -> Result<Description, String> {
    // Only decoded, not compiled: the component may be made to keep a compiler busy.
    let decoded = wit_component::decode(component).map_err(|error| format!("{error:#}"))?;
    let wit_component::DecodedWasm::Component(resolve, world) = decoded else {
        return Err("it is a WIT package, not a component".to_owned());
    };
    let world = resolve.worlds.get(world).ok_or("it has no world")?;
    let imports = world.imports.keys().map(|key| resolve.name_world_key(key)).collect();
    let exports = world.exports.keys().map(|key| resolve.name_world_key(key)).collect();
    Ok(Description { imports, exports })
}

/// Checks that a component is a policy of a kind for this host's contract, and returns its other imports.
///
/// # Errors
///
/// [`ContractError`] says what the component is instead.
pub fn check(component: &Component, engine: &Engine, kind: Kind) -> Result<Imports, ContractError> {
    check_exports(&export_names(component, engine), kind)?;
    let mut imports = Imports::default();
    for name in import_names(component, engine) {
        match split(&name) {
            (PACKAGE, interface, version) if kind.imports().contains(&interface) => check_version(&name, version)?,
            (package, _, _) if package.starts_with("wasi:") => imports.wasi.push(name),
            _ => imports.unknown.push(name),
        }
    }
    Ok(imports)
}

fn check_exports(exports: &[String], wanted: Kind) -> Result<(), ContractError> {
    let mut other = None;
    for name in exports {
        let (package, interface, version) = split(name);
        if package != PACKAGE {
            continue;
        }
        if interface == wanted.interface() {
            return check_version(name, version);
        }
        other = other.or_else(|| Some((Kind::ALL.into_iter().find(|kind| kind.interface() == interface)?, name)));
    }
    match other {
        Some((found, export)) => Err(ContractError::OtherWorld { wanted, found, export: export.clone() }),
        None if exports.is_empty() => Err(ContractError::NoPolicy { wanted, exports: "nothing".to_owned() }),
        None => Err(ContractError::NoPolicy { wanted, exports: exports.join(", ") }),
    }
}

fn check_version(name: &str, version: &str) -> Result<(), ContractError> {
    // As in wasmtime's own rule, a pre-release never matches.
    if !version.contains('-') && series(version) == series(VERSION) {
        return Ok(());
    }
    Err(ContractError::Version { name: name.to_owned(), built_for: version.to_owned() })
}

/// Splits `ns:package/interface@version`; missing parts are empty.
fn split(name: &str) -> (&str, &str, &str) {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let (package, interface) = path.split_once('/').unwrap_or((path, ""));
    (package, interface, version)
}

/// Returns the part of a version that determines compatibility: `0.1` of `0.1.5`, `1` of `1.2.3`.
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
        let export = |version: &str| check_exports(&[format!("weft:policy/ipam@{version}")], Kind::Ipam);
        export("0.1.0").expect("same");
        export("0.1.7").expect("newer patch");
        for version in ["0.2.0", "1.0.0", "0.1.0-rc.1"] {
            let text = export(version).expect_err(version).to_string();
            assert!(text.contains(&format!("built for weft:policy@{version}")), "{text}");
            assert!(text.contains("supports weft:policy@0.1.x"), "{text}");
        }
    }

    #[test]
    fn other_components_are_named_for_what_they_are() {
        let text = |wanted: Kind, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            check_exports(&names, wanted).expect_err("no policy").to_string()
        };
        assert_eq!(
            text(Kind::Ipam, &["weft:policy/delegate-choice@0.1.0"]),
            "the component is a delegate policy (it exports weft:policy/delegate-choice@0.1.0), not one that picks \
             addresses: set it in \"select\", not in \"ipam\""
        );
        assert_eq!(
            text(Kind::Choice, &["weft:policy/ipam@0.1.0"]),
            "the component is an IPAM policy (it exports weft:policy/ipam@0.1.0), not one that picks a delegate: set it in \
             \"ipam\", not in \"select\""
        );
        assert!(text(Kind::Ipam, &["wasi:cli/run@0.2.6"]).contains("exports wasi:cli/run@0.2.6"));
        assert!(text(Kind::Choice, &[]).contains("exports nothing, not weft:policy/delegate-choice@0.1.1"));
    }

    #[test]
    fn kinds_follow_from_exports() {
        let of = |name: &str| Kind::from_exports(&[name.to_owned()]);
        assert_eq!(of("weft:policy/ipam@0.1.0"), Some(Kind::Ipam));
        assert_eq!(of("weft:policy/delegate-choice@9.9.9"), Some(Kind::Choice));
        assert_eq!(of("acme:policy/ipam@0.1.0"), None);
        for kind in Kind::ALL {
            let wit = include_str!("../wit/policy.wit");
            assert!(wit.contains(&format!("world {} {{", kind.world())), "{kind:?}");
            assert!(wit.contains(&format!("    export {};", kind.interface())), "{kind:?}");
        }
    }
}
