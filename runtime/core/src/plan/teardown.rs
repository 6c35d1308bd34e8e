//! What teardown can do. Which op asks for what is said with the ops; how it is done, in `netlink`.

use super::{FirewalldSource, JoinVrf, LinkAttributes, LinkRef, SourceRoutes, TakeDevice};

/// What DEL does about an op, from the journal alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teardown {
    /// Nothing: the thing is shared, or goes away with a link of the plan.
    Nothing,
    /// Deletes a container link together with its peer; missing is success.
    DeleteLink {
        /// The link in the container.
        container: LinkRef,
        /// Its other end on the host: deleted instead where the container's namespace is gone or was never entered.
        host_peer: Option<String>,
        /// Its kind, as `ip -d link` names it: a link of another kind is not ours and stays.
        kind: &'static str,
    },
    /// Gives a device back to the host under the name it had there, down; missing is success.
    ReturnDevice(TakeDevice),
    /// Takes a link down; missing is success.
    LinkDown(LinkRef),
    /// Removes nftables elements and rules; missing is success.
    Elements,
    /// Deletes a link of the host that belongs to the attachment alone; missing is success.
    DeleteHostLink {
        /// Its name.
        name: String,
        /// Its kind: a link of another kind is not ours and stays.
        kind: &'static str,
    },
    /// Removes a host link's queueing discipline of this kind; missing is success, and so is a link that the plan made,
    /// with which it goes.
    RemoveQdisc {
        /// The host's link.
        link: String,
        /// `tbf` at the root, or `ingress`.
        kind: &'static str,
    },
    /// Puts attributes of a container link back; missing is success.
    RestoreLink {
        /// The link in the container.
        link: String,
        /// What it had.
        before: LinkAttributes,
    },
    /// Removes the rules for addresses of the container; missing is success.
    RemoveRules(SourceRoutes),
    /// Takes a link out of a VRF and deletes that with its last slave; missing is success.
    LeaveVrf(JoinVrf),
    /// Removes a source from a zone of firewalld; missing is success, and so is firewalld not running.
    Firewalld(FirewalldSource),
}
