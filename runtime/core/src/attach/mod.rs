//! The life of one attachment: choose a delegate, decide, claim, apply, give back, check, remove. Only this module
//! knows all the parts below. It returns typed results, and a [`Node`] lets several attachments run one after the other
//! in one process.
//!
//! Invariants:
//! - Nothing before the claim has a side effect; everything from the claim on has an inverse.
//! - Every ADD, whatever the source of its addresses, ends in `finish`, which applies the plan and takes it back on
//!   failure.
//! - A [`Call`] never changes. When a policy picks the delegate, `choose` makes a new one.
//!
//! Not here: environment, stdin and stdout (`command`), and the list of a pod's attachments (`pod`).

mod add;
mod blocks;
mod call;
mod chain;
mod chained;
mod check;
mod choice_monitor;
mod choose;
mod chosen;
mod claim;
mod cluster;
mod cluster_agent;
mod cluster_view;
mod comparison;
mod conflict;
mod decide;
mod declared;
mod del;
mod entry;
mod error;
mod error_code;
mod error_details;
mod error_text;
mod evidence;
mod external;
mod external_add;
mod failures;
mod fallback;
mod finish;
mod gc;
mod ipam_keys;
mod lease;
mod lease_add;
mod lint;
mod liveness;
mod lock;
mod monitor;
mod monitor_common;
mod node;
mod notice;
mod of_pod;
mod policies;
mod pool;
mod preflight;
mod preview;
mod record;
mod recorded_netns;
mod remove;
mod repair;
mod restart;
mod result;
mod returned_devices;
mod rules;
mod shared_cells;
mod sharing;
mod stage;
mod status;
mod steps;
mod stock_del;
mod supersede;
mod takeover;
mod teardown;
mod trace;
mod truncate;

pub use crate::exec::ExecError;
pub use add::add;
pub use call::Call;
pub use chain::chained_record;
pub use check::check;
pub use chosen::judge_choice;
pub use cluster::{CANDIDATES, LIST_AFTER};
pub use comparison::{Difference, MonitorTrace, Outcome};
pub use decide::ASKS;
pub use del::del;
pub use error::AttachError;
pub use evidence::no_attachments;
pub use failures::{Failure, failures, record_unparsed};
pub use gc::gc;
pub use ipam_keys::{ipam_problems, select_problems};
pub use lint::{HostChecks, Problems, check_conf};
pub use liveness::{NetnsState, netns_state};
pub(crate) use liveness::{called_netns, is_gone, recorded_netns};
pub use lock::Lock;
pub use monitor::observe;
pub use node::{Compile, Context, Node};
pub use notice::Notice;
pub(crate) use of_pod::{remove_left, without_entry};
pub use preview::{Preview, preview};
pub use record::{ExternalCall, check_texts, plans, traces};
pub(crate) use recorded_netns::RecordedNetns;
pub use repair::{LostFilters, Repair, lost_filters, repair};
pub use rules::{CallLimits, Judged, Rules, limits};
pub use status::{STATUS_LIMIT, status};
pub use stock_del::kept_file;
pub use trace::{Asked, Attempt, ChoiceTrace, Fallback, Trace, Traces};
