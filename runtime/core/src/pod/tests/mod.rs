//! One test per rule, named after it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod annotation;
mod author;
mod docs;
mod list;
mod settings;
mod status;
