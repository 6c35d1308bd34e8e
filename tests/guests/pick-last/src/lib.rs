//! Chooses the last delegate. Replaces `pick-first` in a test.

use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{DelegatePolicy, Denial, Problem};

struct Last;

impl DelegatePolicy for Last {
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
        let last = request.candidates.last().ok_or_else(|| Denial::Denied("there is no delegate".to_owned()))?;
        Ok(Choice { name: last.name.clone(), settings: Vec::new(), reason: "the last delegate".to_owned() })
    }

    fn validate(_config: &str, _candidates: &[Candidate]) -> Vec<Problem> {
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

weft_sdk::delegate_policy!(Last);
