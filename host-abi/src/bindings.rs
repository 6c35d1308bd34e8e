//! The generated bindings of both worlds. Private to the crate: [`crate::guest`] and [`crate::convert`] wrap them.

#![allow(missing_docs, unreachable_pub, reason = "generated; the WIT file is the documentation")]

/// `world ipam-policy`.
pub(crate) mod ipam {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "ipam-policy",
        imports: { default: trappable },
    });
}

/// `world delegate-policy`, sharing the nouns of the other world.
pub(crate) mod delegate {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "delegate-policy",
        imports: { default: trappable },
        with: {
            "weft:policy/types": super::ipam::weft::policy::types,
            "weft:policy/facts": super::ipam::weft::policy::facts,
            "weft:policy/log": super::ipam::weft::policy::log,
        },
    });

    pub(crate) use exports::weft::policy::delegate_choice::{Candidate, Choice, ChoiceRequest, File};
}
