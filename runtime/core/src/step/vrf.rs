//! `vrf`: puts the interface into a VRF of the container, which is made with its first slave and deleted with its last.

use super::{Step, StepError, StepInput, StepPlan};
use crate::cni::{Object, Version, check_ifname};
use crate::keys;
use crate::plan::{JoinVrf, Op};

/// The `vrf` step.
pub(super) struct Vrf;

impl Step for Vrf {
    fn kind(&self) -> &'static str {
        "vrf"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["vrfname", "table"]
    }

    fn oldest(&self) -> Version {
        Version::V0_3_1
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        read(conf).map(drop)
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let (vrf, table) = read(input.conf)?;
        if input.previous.is_none() {
            return Err(StepError::Previous("missing prevResult from earlier plugin".to_owned()));
        }
        let op = JoinVrf { link: input.attachment.ifname.clone(), vrf, table };
        Ok(StepPlan { ops: vec![Op::JoinVrf(op)], ..StepPlan::default() })
    }
}

/// Returns the VRF's name, and the requested table.
fn read(conf: &Object) -> Result<(String, Option<u32>), StepError> {
    let table = conf.u32("table").map_err(keys::mistyped)?.filter(|table| *table != 0);
    let name = conf.text("vrfname").map_err(keys::mistyped)?;
    let name = name.ok_or_else(|| StepError::Conf("configuration is expected to have a valid vrf name".to_owned()))?;
    check_ifname(name)
        .map_err(|error| StepError::Conf(format!("vrfname {name:?} cannot be a link's: {}", error.msg)))?;
    Ok((name.to_owned(), table))
}
