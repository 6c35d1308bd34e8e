//! Parts of the messages of `error`.

use std::error::Error;
use std::net::IpAddr;

use weft_host_abi::types::{Attachment, Denial, Problem};

/// Returns an error with all its causes, on one line.
pub(super) fn in_full(error: &dyn Error) -> String {
    let causes = causes(error);
    if causes.is_empty() { error.to_string() } else { format!("{error}: {causes}") }
}

/// Returns the causes of an error, outermost first.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.join(": ")
}

pub(super) fn join(parts: &[String]) -> String {
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("; ")
}

pub(super) fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn problems_text(problems: &[Problem]) -> String {
    let first = problems.first().map(|problem| problem.message.as_str()).unwrap_or_default();
    match problems.len() {
        0 | 1 => first.to_owned(),
        many => format!("{first} ({} more in the details)", many - 1),
    }
}

pub(super) fn denial_text(denial: &Denial) -> &str {
    match denial {
        Denial::Denied(text) | Denial::Exhausted(text) | Denial::InvalidConfig(text) | Denial::TryAgain(text) => text,
    }
}

/// With an address, this is the stock plugin's text, which tools look for.
pub(super) fn exists_text(attachment: &Attachment, address: Option<IpAddr>) -> String {
    let id = &attachment.container_id;
    match address {
        Some(address) => format!("{address} has been allocated to {id}, duplicate allocation is not allowed"),
        None => {
            format!("interface {} of container {id} is attached to {:?} already", attachment.ifname, attachment.network)
        }
    }
}

pub(super) fn teardown_text(problems: &[String]) -> String {
    match problems {
        [only] => only.clone(),
        many => {
            format!("{} objects could not be removed; fix the causes in the details, then repeat DEL or GC", many.len())
        }
    }
}
