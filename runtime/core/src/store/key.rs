//! The key of a journal entry and its claims.

use weft_host_abi::types::Attachment;

use super::Fault;

/// Which part of the program owns a journal entry. One attachment may have one of each: an external delegate that calls
/// weft back for its IPAM leaves two, and chained steps leave one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Called as `weft` or as a delegate's name: a link and maybe addresses.
    Attachment,
    /// Called as `weft-ipam`, `host-local` or `static`: only addresses.
    Ipam,
    /// Called as the names of steps in a chain: everything they did to the attachment's link.
    Steps,
    /// Called as `weft-pod`: the list of a pod's attachments, each of which has its own entries.
    Pod,
}

/// Key of a journal entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The attachment.
    pub attachment: Attachment,
    /// The owner of the entry.
    pub role: Role,
}

impl Role {
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Attachment => 0,
            Self::Ipam => 1,
            Self::Steps => 2,
            Self::Pod => 3,
        }
    }

    pub(crate) fn from_code(code: i64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::Attachment),
            1 => Ok(Self::Ipam),
            2 => Ok(Self::Steps),
            3 => Ok(Self::Pod),
            other => Err(Fault::Damaged(format!("a journal entry has role {other}, which does not exist"))),
        }
    }
}
