//! The parts of a storm that do not depend on what it tests: calls that are killed or stopped at random instants
//! (`strike`), an oracle that reads the kernel and results (`oracle`), and counters (`tally`).

pub mod oracle;
pub mod strike;
pub mod tally;
