//! Chooses the first delegate; or, with `lie` in its configuration, gives an answer that no host
//! should accept.

use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{DelegatePolicy, Denial, Pair, Problem};

struct First;

/// Longer than any readable text.
const HUGE: usize = 4 << 20;

impl DelegatePolicy for First {
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
        let first = &request.candidates[0].name;
        let with = |key: &str, value: &str| Choice {
            name: first.clone(),
            settings: vec![Pair { key: key.to_owned(), value: value.to_owned() }],
            reason: "a lie".to_owned(),
        };
        let mut honest = with("", "");
        honest.settings.clear();
        honest.reason = "the first delegate".to_owned();
        match configured_lie(&request.config) {
            "unknown-name" => Ok(Choice { name: "nosuch".to_owned(), ..honest }),
            "not-settable" => Ok(with("bridge", "\"stolen0\"")),
            "type" => Ok(with("type", "\"host-device\"")),
            "not-json" => Ok(with("mtu", "{")),
            "bad-value" => Ok(with("mtu", "\"big\"")),
            "bad-ranges" => Ok(with("ipam.ranges", "[[{\"subnet\": \"10.77.0.1/24\"}]]")),
            "huge-name" => Ok(Choice { name: "n".repeat(HUGE), ..honest }),
            "long-reason" => Ok(Choice { reason: format!("\u{1b}[31m{}", "r".repeat(100_000)), ..honest }),
            "huge-denial" => Err(Denial::Denied("y".repeat(HUGE))),
            "many-settings" => {
                let mut many = with("mtu", "1400");
                many.settings = vec![many.settings[0].clone(); 1000];
                Ok(many)
            }
            "trap" => panic!("on purpose"),
            "loop" => endless(request.seed),
            "memory" => allocate_forever(),
            "set" => Ok(with("mtu", "1300")),
            "try-again" => Err(Denial::TryAgain("not yet".to_owned())),
            "no-one" => Err(Denial::Denied("nobody gets anything".to_owned())),
            _honest => Ok(honest),
        }
    }

    fn validate(config: &str, candidates: &[Candidate]) -> Vec<Problem> {
        if config.contains("refuse-me") {
            let message = format!("pick-first does not like this beside {} delegates", candidates.len());
            return vec![Problem { at: "/refuse-me".to_owned(), message }];
        }
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

/// Returns the value of `"lie"`. A parser would be most of this component.
fn configured_lie(config: &str) -> &str {
    let rest = config.split_once("\"lie\"").map_or("", |(_, rest)| rest);
    rest.split('"').nth(1).unwrap_or("")
}

fn endless(start: u64) -> ! {
    let mut n = start;
    loop {
        n = std::hint::black_box(n.wrapping_mul(3).wrapping_add(1));
    }
}

fn allocate_forever() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&all);
    }
}

weft_sdk::delegate_policy!(First);
