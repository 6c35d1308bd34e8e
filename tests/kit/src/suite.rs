//! Trials for libtest-mimic. A trial that a machine cannot run is shown as ignored, with the reason, and never as
//! passed.
//!
//! `WEFT_REQUIRE_ALL=1` (the repository's own check sets it) turns every such reason into a failure.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{programs, sandbox};

/// A requirement of a trial.
#[derive(Debug, Clone)]
pub enum Need {
    /// Root, and private namespaces.
    Sandbox,
    /// The reference plugins (Debian's `containernetworking-plugins`).
    Reference,
    /// The `weft` binary.
    Weft,
    /// The `weftctl` binary.
    Weftctl,
    /// The `weft-failing` example.
    WeftFailing,
    /// Kubernetes as one program.
    Kubernetes,
    /// Helm.
    Helm,
    /// A program in PATH.
    Tool(&'static str),
    /// whereabouts' CNI program.
    Whereabouts,
    /// A kind of link that the kernel must support.
    LinkKind(&'static str),
    /// Like `LinkKind`, but the virtual machine covers kernels without it: never a failure.
    LinkKindOrVm(&'static str),
    /// A plugin that old reference plugins lack: never a failure.
    ReferencePlugin(String),
    /// The CNI project's current plugins.
    Current,
}

impl Need {
    /// Returns whether it may be missing even if everything is required.
    fn is_optional(&self) -> bool {
        matches!(self, Self::LinkKindOrVm(_) | Self::ReferencePlugin(_))
    }

    /// Returns why this need is not met.
    fn missing(&self) -> Option<String> {
        match self {
            Self::Sandbox => sandbox::refusal(),
            Self::Reference => programs::reference_dir().err(),
            Self::Weft => programs::weft().err(),
            Self::Weftctl => programs::weftctl().err(),
            Self::WeftFailing => programs::weft_failing().err(),
            Self::Current => programs::current_dir().err(),
            Self::Kubernetes => programs::kubernetes().err(),
            Self::Helm => programs::helm().err(),
            Self::Tool(name) => programs::tool(name).err(),
            Self::Whereabouts => programs::whereabouts().err(),
            Self::LinkKind(kind) => match sandbox::refusal() {
                Some(reason) => Some(reason),
                None => crate::netns::kernel_lacks(kind),
            },
            Self::LinkKindOrVm(kind) => Self::LinkKind(kind).missing(),
            Self::ReferencePlugin(kind) => {
                let found = programs::reference_dir().is_ok_and(|dir| dir.join(kind).is_file());
                (!found).then(|| format!("this reference has no {kind} plugin"))
            }
        }
    }
}

/// A list of trials.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// An empty suite.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a trial that runs when all needs are met.
    pub fn test<F>(&mut self, name: impl Into<String>, needs: &[Need], body: F)
    where
        F: FnOnce() -> Result<()> + Send + 'static,
    {
        let needs = needs.to_vec();
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some((need, reason)) = needs.iter().find_map(|need| Some((need, need.missing()?))) {
                return if std::env::var_os("WEFT_REQUIRE_ALL").is_some() && !need.is_optional() {
                    Err(Failed::from(format!("cannot run here: {reason}")))
                } else {
                    Ok(Completion::ignored_with(reason))
                };
            }
            body().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }

    /// Runs the trials selected on the command line.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_threads(None)
    }

    /// Runs the trials, at most `threads` at a time unless the command line says otherwise.
    #[must_use]
    pub fn run_threads(self, threads: Option<usize>) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = arguments.test_threads.or(threads);
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}
