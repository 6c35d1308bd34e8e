//! The harness of weft's whole-program tests: runs programs as a container runtime does, and observes them from
//! outside.
//!
//! ```text
//! sandbox   the test process leaves the machine's network and mount namespace, once, before any thread
//! programs  where weft, weftctl and the reference plugins are; an installation of weft to test
//! world     one scratch machine: a "host" netns, container netns, an optional outside netns, private state
//! cni       one call: CNI_* environment and stdin in, exit status and one JSON document out
//! dhcp      a DHCP server and the agent on a world
//! containerd  a real runtime on a world
//! registry  an OCI registry with certificates, passwords and keys
//! observe   what the kernel has, through ip, bridge and nft
//! names     replaces what differs from run to run (MACs, indexes, random names, paths) by what it stands for
//! talk      servers and questions over TCP and UDP, between namespaces
//! firewalld  a firewalld on a real D-Bus
//! stopped   a call that stands still at one of its requests to the kernel
//! case      data-driven cases: a directory each, run through the reference and through weft, compared
//! suite     trials for libtest-mimic, ignored with a reason where a machine cannot run them
//! ```
//! Nothing here links weft: the contract is the executable.

pub mod case;
pub mod cni;
pub mod containerd;
pub mod dhcp;
pub mod firewalld;
pub mod names;
pub mod netns;
pub mod observe;
pub mod process;
pub mod programs;
pub mod registry;
pub mod sandbox;
pub mod stopped;
pub mod suite;
pub mod talk;
pub mod world;
