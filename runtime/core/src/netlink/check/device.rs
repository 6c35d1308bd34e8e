//! CHECK of a device that was handed to a container: it is still there, under its name.

use super::Difference;
use crate::netlink::Executor;
use crate::netlink::device::is_taken;
use crate::netlink::error::NetlinkError;
use crate::plan::TakeDevice;

impl Executor {
    pub(super) fn check_device(&self, op: &TakeDevice, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        if !self.look(&op.link())?.is_some_and(|there| is_taken(op, &there)) {
            found.push(Difference::NoContainerLink { name: op.name.clone() });
        }
        Ok(())
    }
}
