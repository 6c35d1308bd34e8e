//! `world delegate-policy`.

use wasmtime::AsContextMut;
use wasmtime::component::{Component, Linker};

use super::{CallError, Host, Link, World};
use crate::bindings::delegate::{DelegatePolicy as Bound, DelegatePolicyPre as BoundPre};
use crate::contract::Kind;
use crate::types::{Candidate, ChoiceRequest, Chosen, Denial, Problem};
use crate::{bindings, convert};

/// Policies that pick a delegate.
#[derive(Debug, Clone, Copy)]
pub struct Choice;

/// An instance of such a policy.
pub struct ChoiceInstance(Bound);

impl World for Choice {
    const KIND: Kind = Kind::Choice;

    type Linked<T: 'static> = BoundPre<T>;

    type Instance = ChoiceInstance;

    fn link<T: Host + 'static>(component: &Component, linker: &mut Linker<T>) -> wasmtime::Result<BoundPre<T>> {
        Bound::add_to_linker::<T, Link<T>>(linker, |host| super::Adapter(host))?;
        BoundPre::new(linker.instantiate_pre(component)?)
    }

    fn instantiate<T: Send>(
        linked: &BoundPre<T>,
        store: impl AsContextMut<Data = T>,
    ) -> wasmtime::Result<ChoiceInstance> {
        Ok(ChoiceInstance(linked.instantiate(store)?))
    }

    fn config_schema(instance: &ChoiceInstance, store: impl AsContextMut) -> Result<String, CallError> {
        instance.0.weft_policy_delegate_choice().call_config_schema(store).map_err(CallError::Ended)
    }
}

// === impl ChoiceInstance ===

impl ChoiceInstance {
    /// `delegate-choice.choose`.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub fn choose(
        &self,
        store: impl AsContextMut,
        request: &ChoiceRequest,
    ) -> Result<Result<Chosen, Denial>, CallError> {
        let request = convert::choice_request(request);
        let answer = self.0.weft_policy_delegate_choice().call_choose(store, &request).map_err(CallError::Ended)?;
        Ok(answer.map(convert::chosen).map_err(convert::denial))
    }

    /// `delegate-choice.validate`.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub fn validate(
        &self,
        store: impl AsContextMut,
        config: &str,
        candidates: &[Candidate],
    ) -> Result<Vec<Problem>, CallError> {
        let candidates: Vec<bindings::delegate::Candidate> = candidates.iter().map(convert::candidate).collect();
        let export = self.0.weft_policy_delegate_choice();
        let problems = export.call_validate(store, config, &candidates).map_err(CallError::Ended)?;
        Ok(problems.into_iter().map(convert::problem).collect())
    }
}
