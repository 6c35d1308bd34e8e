//! What the owner of a pod should know about an ADD, besides its result: a policy denied it, its fallback decided, a pool is
//! exhausted, or a machine on the wire uses an address. `weft-pod` sends it as events.

/// Something that the owner of a pod should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The ADD failed because a policy denied it.
    Denied,
    /// The ADD failed because no address is left.
    Exhausted,
    /// The fallback decided. The text says instead of which policy, and why.
    FellBack(String),
    /// A machine on the wire uses an address of the network.
    Conflict(String),
}
