//! The policy `{{name}}`: the pod's label `network` names the delegate; a pod without it gets the first one.

use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{DelegatePolicy, Denial, Problem};

struct ByLabel;

impl DelegatePolicy for ByLabel {
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
        let label = request.pod.iter().flat_map(|pod| &pod.labels).find(|label| label.key == "network");
        let (found, reason) = match label {
            Some(label) => {
                let found = request.candidates.iter().find(|candidate| candidate.name == label.value);
                let none = || Denial::Denied(format!("there is no delegate {:?} on this network", label.value));
                (found.ok_or_else(none)?, "the pod's label names it")
            }
            None => {
                let none = || Denial::InvalidConfig("the network has no delegates".to_owned());
                (request.candidates.first().ok_or_else(none)?, "it is the first")
            }
        };
        Ok(Choice { name: found.name.clone(), settings: Vec::new(), reason: reason.to_owned() })
    }

    fn validate(_config: &str, _candidates: &[Candidate]) -> Vec<Problem> {
        // `config` is the network's `select` object as JSON text; give the place of each problem as a JSON pointer.
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

weft_sdk::delegate_policy!(ByLabel);

#[cfg(test)]
mod tests {
    use weft_sdk::DelegatePolicy;
    use weft_sdk::choice::Candidate;
    use weft_sdk::testing::choice_request;

    use super::ByLabel;

    #[test]
    fn a_pod_without_the_label_gets_the_first() {
        let candidate = |name: &str| Candidate { name: name.into(), config: "{}".into(), settable: Vec::new() };
        let request = choice_request("{}", vec![candidate("internal"), candidate("isolated")]);
        assert_eq!(ByLabel::choose(&request).expect("a choice").name, "internal");
    }
}
