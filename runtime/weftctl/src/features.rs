//! The commands and options that only a weftctl with the feature `agent` has. A build without it (the demo's) names the build
//! that has them.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands, with the commands that they belong to.
const COMMANDS: &[&str] = &[
    "agent",
    "controller",
    "policy push",
    "policy pull",
    "policy lock",
    "policy rm",
    "policy save",
    "policy load",
    "policy sign",
    "policy verify",
    "ledger freeze",
    "ledger thaw",
    "ledger fence",
    "ledger reclaim",
    "ledger clear",
    "ledger check",
    "ledger who-has",
    "ledger import whereabouts",
    "ledger export whereabouts",
];

/// Options.
const OPTIONS: &[&str] =
    &["kubernetes", "preset", "conf-name", "default-network", "take-over", "cluster", "registry-ca", "trust"];

/// Returns what to do about a command line that this build does not understand, if another build does.
pub(crate) fn hint(error: &clap::Error) -> Option<String> {
    let missing = if cfg!(feature = "agent") { None } else { missing(error) }?;
    Some(format!(
        "weftctl: this build lacks the feature \"agent\", and so {missing}: use a released weftctl, or build one with `cargo \
         build --release -p weftctl`"
    ))
}

/// Returns the command or option of a build with all features.
fn missing(error: &clap::Error) -> Option<String> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(name)) => Some(name.trim_start_matches('-').to_owned()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = named(ContextKind::InvalidSubcommand)?;
            let known = COMMANDS.iter().find(|command| command.rsplit(' ').next() == Some(name.as_str()))?;
            Some(format!("`weftctl {known}`"))
        }
        ErrorKind::UnknownArgument => {
            let name = named(ContextKind::InvalidArg)?;
            let name = name.split(['=', ' ']).next().unwrap_or_default();
            OPTIONS.contains(&name).then(|| format!("`--{name}`"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn missing_features_are_named() {
        let of = |words: &[&str]| {
            let small = Command::new("weftctl").subcommand(Command::new("policy").subcommand(Command::new("check")));
            let error = small.arg(Arg::new("json").long("json")).try_get_matches_from(words).unwrap_err();
            missing(&error)
        };
        assert_eq!(of(&["weftctl", "policy", "pull", "x"]).as_deref(), Some("`weftctl policy pull`"));
        assert_eq!(of(&["weftctl", "agent"]).as_deref(), Some("`weftctl agent`"));
        assert_eq!(of(&["weftctl", "--cluster"]).as_deref(), Some("`--cluster`"));
        assert_eq!(of(&["weftctl", "nonsense"]), None);
        assert_eq!(of(&["weftctl", "--nonsense"]), None);
    }

    #[cfg(feature = "agent")]
    #[test]
    fn a_build_with_all_features_has_them() {
        use clap::CommandFactory;

        fn options(command: &Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
            own.chain(command.get_subcommands().flat_map(options)).collect()
        }
        let whole = crate::Cli::command();
        for command in COMMANDS {
            let found = command.split(' ').try_fold(&whole, |within, name| within.find_subcommand(name));
            assert!(found.is_some(), "{command}");
        }
        let known = options(&whole);
        for option in OPTIONS {
            assert!(known.iter().any(|known| known == option), "{option}");
        }
    }
}
