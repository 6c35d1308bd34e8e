//! What a storm is made of, whatever it is that is stormed: calls that are killed or stopped at random instants (`strike`), an
//! oracle that looks at the kernel and at results (`oracle`), and what was counted (`tally`).

pub mod oracle;
pub mod strike;
pub mod tally;
