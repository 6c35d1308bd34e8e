//! What a policy may use when its author runs it: what the project's network grants, or what options say.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use weft_core::policy::Grants;

use super::cases::{of_ours, parsed};

/// The directory of a project with the data that its network grants.
const DATA: &str = "data";

#[derive(Debug, Clone, Default, Args)]
pub(super) struct GrantArgs {
    /// The directory that the policy may read [default: with "grants.data" in the network, the project's `data`, or the directory
    /// that the network names].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Let the policy import WASI [default: as the network's "grants.wasi" says].
    #[arg(long)]
    wasi: bool,
}

// === impl GrantArgs ===

impl GrantArgs {
    /// Returns the grants by the options alone.
    pub(super) fn options_alone(&self) -> Grants {
        Grants { wasi: self.wasi || self.data.is_some(), data: self.data.clone(), isolated: false }
    }

    /// Returns the grants of a network that is tested in `dir`, or those of the options.
    pub(super) fn resolve(&self, dir: &Path, network: Option<&Value>) -> Grants {
        // A mistake in the network is reported when a case asks about it.
        let granted = network.and_then(|network| parsed(of_ours(network).ok()?, "").ok());
        let granted = granted.map(|network| network.terms.grants).unwrap_or_default();
        let own = dir.join(DATA);
        let data = granted.data.map(|named| if own.is_dir() { own } else { named });
        let Grants { wasi, data: chosen, isolated } = self.options_alone();
        Grants { wasi: wasi || granted.wasi, data: chosen.or(data), isolated }
    }
}
