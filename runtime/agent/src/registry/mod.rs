//! Policies in OCI registries, and in directories that replace one: named, packed, pushed, fetched, verified, added.
//!
//! ```text
//!  Image --Source--> Looked{manifest, what it imports, signatures} --Trust--> component --> add: compiled, recorded, renamed
//! ```
//! The agent fetches what networks name; `weftctl policy` does the same by hand. `weft` has none of this.
//!
//! Invariants: only bytes with the named digest are used. Trust is judged before the layer is pulled, as far as the
//! configuration lists the imports, and the component is checked against that list afterwards. Only the lock file maps
//! a tag to a digest.

mod error;
mod fetch;
mod http;
mod layout;
mod lock;
mod remote;
mod roots;
mod save;
mod signatures;
mod source;

use anyhow::Context as _;
use tokio::runtime::Builder;

pub use self::error::RegistryError;
pub(crate) use self::error::chain;
pub use self::fetch::{Fetched, Looked, add, admit, fetch, look, push};
pub use self::layout::Layout;
pub use self::lock::{Change, Entry, check_lock, lock, lock_ahead};
pub use self::remote::{Access, Remote};
pub use self::roots::stand_in_for_system_roots;
pub use self::save::{Loaded, Saved, load, save};
pub use self::signatures::{attach, signatures};
pub use self::source::Source;

/// Runs asynchronous work with a registry to its end, for commands.
///
/// # Errors
///
/// The event loop does not start, or the work fails.
pub fn wait<T, E>(work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    Ok(runtime.block_on(work)?)
}
