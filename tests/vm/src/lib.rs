//! Cases in a virtual machine: Debian's own kernel, which has VLAN filtering, VLAN, ipvlan, VRF and dummy links where the
//! machine's may lack them.
//!
//! ```text
//!  cases/*.json -> kernel (Debian's package, unpacked) -> image (initramfs) -> machines (QEMU, side by side)
//!                                                             |
//!                                        init (src/bin) runs each case for each subject
//!                                                             v
//!                                          transcripts over the second serial port -> judge
//! ```
//!
//! Inside nothing is judged, and outside nothing is run: a transcript can be looked at, and judged anew.
//! A new case is one file in `cases/` (fields: [`case::Case`]).

pub mod case;
pub mod fleet;
pub mod image;
pub mod judge;
pub mod kernel;
pub mod machine;
