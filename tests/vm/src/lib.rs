//! Cases in a virtual machine: Debian's own kernel, which has VLAN filtering, VLAN, ipvlan, VRF and dummy links where
//! the machine's may lack them.
//!
//! ```text
//!  cases/*.json -> kernel (Debian's package, unpacked) -> image (initramfs) -> machines (QEMU, side by side)
//!                                                             |
//!                                        init (src/bin) runs each case for each subject
//!                                                             v
//!                                          transcripts over the second serial port -> judge
//! ```
//!
//! Nothing is judged inside, and nothing is run outside, so a transcript can be inspected, and judged again. A new case
//! is one file in `cases/` (fields: [`case::Case`]).

pub mod case;
pub mod fleet;
pub mod image;
pub mod judge;
pub mod kernel;
pub mod machine;
