//! `weftctl doctor`: finds what could prevent weft from working on this node, each finding with its remedy. Changes
//! nothing.

#[cfg(feature = "agent")]
mod cluster;
#[cfg(feature = "agent")]
mod default_network;
mod files;
mod filters;
mod journal;
mod kernel;
#[cfg(feature = "agent")]
mod kubernetes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::installed;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Directory of CNI plugins [default: that of the installation, or /opt/cni/bin].
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Directory of network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    kubernetes: kubernetes::KubernetesArgs,
}

impl DoctorArgs {
    fn bin_dir(&self, state: &Path) -> PathBuf {
        self.bin_dir.clone().unwrap_or_else(|| installed::bin_dir(state))
    }
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As expected.
    Ok,
    /// It works, but something unusual was found, or something is missing that only some nodes need.
    Warn,
    /// It does not work.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) state: State,
    pub(crate) what: String,
    pub(crate) detail: String,
    /// What to do; empty if nothing has to be done.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { state: State::Ok, what: what.into(), detail: detail.into(), remedy: String::new() }
    }

    pub(crate) fn warn(what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Warn, what: what.into(), detail: detail.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Fail, what: what.into(), detail: detail.into(), remedy: remedy.into() }
    }
}

/// Returns exit code 1 if something fails, so that it can be used as a check.
pub(crate) fn run(args: &DoctorArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = kernel::check();
    findings.extend(files::check(args, state));
    findings.extend(journal::check(state));
    findings.extend(filters::check(state));
    #[cfg(feature = "agent")]
    findings.extend(kubernetes::check(args, state));
    let rows = findings.iter().map(|finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        vec![state.to_owned(), finding.what.clone(), finding.detail.clone(), finding.remedy.clone()]
    });
    output.table(&findings, &["state", "what", "found", "remedy"], rows.collect())?;
    let failed = findings.iter().any(|finding| finding.state == State::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
