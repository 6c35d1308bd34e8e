//! The verbs: the only place that knows all the parts. One file per verb; `add` reads like the figure in `lib.rs`.
//!
//! Invariant: whatever happens, the caller gets exactly one JSON document for stdout (or none where CNI prints none), and
//! logs are kept apart from it.

mod add;
mod call;
mod check;
mod choose;
mod decide;
mod del;
mod error;
mod external;
mod gc;
mod lease;
mod lint;
mod preview;
mod process;
mod result;
mod stage;
mod status;
mod steps;
mod trace;

use std::path::{Path, PathBuf};

pub use error::CommandError;
pub use external::ExternalCall;
pub use lint::{Problems, check_conf};
pub use preview::{Preview, preview};
pub use process::{Output, main, run};
pub use trace::{ChoiceTrace, Trace, Traces};

use crate::plan::Plan;
use crate::policy::PolicyRef;

/// Where weft keeps its state, unless `WEFT_STATE_DIR` says otherwise.
pub const STATE_DIR: &str = "/var/lib/weft";

/// Compiles the component at a path into the cache, or says why not.
pub type Compile = Box<dyn Fn(&Path) -> Result<(), String>>;

/// What a call needs from the program around it.
pub struct Context {
    /// The state directory: store, policies, compiled cache.
    pub state_dir: PathBuf,
    /// Compiles a component into the cache. `weft` has no compiler and runs `weftctl`.
    pub compile: Compile,
    /// Sees each plan before it is journalled. The rollback suite puts an impossible op in here; the programs leave it alone.
    pub plan_hook: Box<dyn Fn(&mut Plan)>,
    /// The process ends with the call. What the kernel takes back by itself then (memory, descriptors, locks) is not given
    /// back piece by piece before.
    pub short_lived: bool,
}

impl Context {
    /// A context for a state directory, with `weftctl` as the compiler.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        let compile_into = state_dir.clone();
        Self {
            state_dir,
            compile: Box::new(move |component| process::compile_with_weftctl(&compile_into, component)),
            plan_hook: Box::new(|_plan| ()),
            short_lived: false,
        }
    }

    /// Is done with something.
    fn leave<T>(&self, thing: T) {
        if self.short_lived {
            std::mem::forget(thing);
        }
    }

    /// Whether a policy of this name is installed.
    fn has_policy(&self, name: &str) -> bool {
        PolicyRef::shipped(name).is_ok_and(|policy| policy.path(&self.state_dir).is_file())
    }
}
