//! `world ipam-policy`.

use wasmtime::AsContextMut;
use wasmtime::component::{Component, Linker};

use super::{CallError, Host, Link, World};
use crate::bindings::ipam::{IpamPolicy as Bound, IpamPolicyPre as BoundPre};
use crate::contract::Kind;
use crate::convert;
use crate::types::{Decision, Denial, Problem, Request};

/// Policies that pick addresses.
#[derive(Debug, Clone, Copy)]
pub struct Ipam;

/// An instance of such a policy.
pub struct IpamInstance(Bound);

impl World for Ipam {
    const KIND: Kind = Kind::Ipam;

    type Linked<T: 'static> = BoundPre<T>;

    type Instance = IpamInstance;

    fn link<T: Host + 'static>(component: &Component, linker: &mut Linker<T>) -> wasmtime::Result<BoundPre<T>> {
        Bound::add_to_linker::<T, Link<T>>(linker, |host| super::Adapter(host))?;
        BoundPre::new(linker.instantiate_pre(component)?)
    }

    fn instantiate<T: Send>(
        linked: &BoundPre<T>,
        store: impl AsContextMut<Data = T>,
    ) -> wasmtime::Result<IpamInstance> {
        Ok(IpamInstance(linked.instantiate(store)?))
    }

    fn config_schema(instance: &IpamInstance, store: impl AsContextMut) -> Result<String, CallError> {
        instance.0.weft_policy_ipam().call_config_schema(store).map_err(CallError::Ended)
    }
}

// === impl IpamInstance ===

impl IpamInstance {
    /// `ipam.allocate`.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub fn allocate(&self, store: impl AsContextMut, request: &Request) -> Result<Result<Decision, Denial>, CallError> {
        let request = convert::request(request);
        let answer = self.0.weft_policy_ipam().call_allocate(store, &request).map_err(CallError::Ended)?;
        match answer {
            Ok(decision) => convert::decision(decision).map(Ok).map_err(CallError::Malformed),
            Err(denial) => Ok(Err(convert::denial(denial))),
        }
    }

    /// `ipam.validate`.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub fn validate(&self, store: impl AsContextMut, config: &str) -> Result<Vec<Problem>, CallError> {
        let problems = self.0.weft_policy_ipam().call_validate(store, config).map_err(CallError::Ended)?;
        Ok(problems.into_iter().map(convert::problem).collect())
    }
}
