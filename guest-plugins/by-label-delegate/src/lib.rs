//! The `by-label-delegate` policy: labels of the pod and of the node pick one of the declared delegates.
//!
//! ```json
//! {"policy": "by-label-delegate",
//!  "rules": [{"match": {"pod": {"tier": "gold"}, "node": {"rack": "a"}}, "delegate": "lan", "set": {"mtu": 9000}},
//!            {"match": {"pod": {"tier": "gold"}}, "delegate": "lan"}],
//!  "default": "nat"}
//! ```
//! The first rule whose labels the pod and the node all have decides; `default` (a name, or `{"delegate", "set"}`) is for
//! those that match none, and without it they are denied. `set` gives values to keys that the delegate lists as settable.

use weft_allocator::conf;
use weft_labels::format_labels;
use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{DelegatePolicy, Denial, Pair, Problem};

mod rules;

struct ByLabelDelegate;

impl DelegatePolicy for ByLabelDelegate {
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let select = conf::top_object(&config).map_err(conf::invalid)?;
        let rules = rules::read(&select).map_err(conf::invalid)?;
        let pod: &[Pair] = request.pod.as_ref().map_or(&[], |pod| &pod.labels);
        let rule = rules.choose(pod, &request.node.labels).ok_or_else(|| no_match(request, pod))?;
        // The host would refuse both; reported here, they are recognisable as mistakes of the configuration.
        if let Some(problem) = rules::problems(rule, &request.candidates).into_iter().next() {
            return Err(conf::invalid(problem));
        }
        Ok(Choice {
            name: rule.leads_to.delegate.clone(),
            settings: rule.leads_to.set.clone(),
            reason: format!("{} chose {}", rule.describe("pod ", "node "), rule.leads_to.delegate),
        })
    }

    fn validate(config: &str, candidates: &[Candidate]) -> Vec<Problem> {
        let read = conf::parse(config).and_then(|config| rules::read(&conf::top_object(&config)?));
        match read {
            Ok(rules) => rules.all_rules().flat_map(|rule| rules::problems(rule, candidates)).collect(),
            Err(problem) => vec![problem],
        }
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

fn no_match(request: &ChoiceRequest, pod: &[Pair]) -> Denial {
    Denial::Denied(format!(
        "no rule matches the labels of the pod ({}) and of the node {:?} ({}), and there is no \"default\" delegate",
        format_labels(pod),
        request.node.name,
        format_labels(&request.node.labels)
    ))
}

weft_sdk::delegate_policy!(ByLabelDelegate);

#[cfg(test)]
mod tests;
