//! A policy that does and answers whatever its configuration says, however wrong.
//!
//! `{"do": [...], "answer": {...}}` or `{"do": [...], "deny": {"denied": "text"}}`; the steps of `do` come first.

use weft_allocator::conf::{self, Object, Value, entries, object};
use weft_sdk::{
    Decision, Denial, IpAddress, IpPrefix, IpRange, Ledger, Policy, Problem, ReleaseRule, Request, WantedAddress,
    facts, log,
};

struct Scripted;

impl Policy for Scripted {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).expect("the script is JSON");
        let script = conf::top_object(&config).expect("the script is an object");
        for (_at, step) in script.list("do").expect("do is a list") {
            run_step(step.as_str().expect("a step is a word"), request, ledger);
        }
        if let Some(deny) = script.object("deny").expect("deny is an object") {
            let text = |key| deny.text(key).expect("a text").map(str::to_owned);
            return Err(text("denied")
                .map(Denial::Denied)
                .or_else(|| text("exhausted").map(Denial::Exhausted))
                .or_else(|| text("invalid-config").map(Denial::InvalidConfig))
                .or_else(|| text("try-again").map(Denial::TryAgain))
                .expect("a kind of denial"));
        }
        Ok(answer(&script.object("answer").expect("answer is an object").expect("there is an answer")))
    }

    fn validate(config: &str) -> Vec<Problem> {
        vec![Problem { at: "/x".to_owned(), message: format!("echo: {config}") }]
    }

    fn config_schema() -> String {
        "x".repeat(600 << 10)
    }
}

fn run_step(step: &str, request: &Request, ledger: &dyn Ledger) {
    let range = || request.range_sets[0].ranges[0];
    match step {
        "panic" => panic!("the script says so"),
        "shout" => log::warn("line one\nline two \u{1b}[31m"),
        "whisper" => log::debug("psst"),
        "flood-log" => (0..1000).for_each(|i| log::info(&format!("line {i}"))),
        "flood-ledger" => {
            for _ in 0..1_000_000 {
                ledger.usage(&range());
            }
        }
        "ask" => drop(ledger.usage(&range())),
        "ask-backwards" => drop(ledger.usage(&IpRange { first: range().last, last: range().first, ..range() })),
        "long-owner" => drop(ledger.held_by(&"x".repeat(2 << 20))),
        other => panic!("no such step: {other}"),
    }
}

fn answer(answer: &Object<'_>) -> Decision {
    let mut addresses = Vec::new();
    for (at, value) in answer.list("addresses").expect("a list") {
        let want = object(value, at).expect("an object");
        let candidates = match want.get("candidates") {
            Some(Value::Number(count)) => vec![net("10.1.0.9/24"); count.as_u64().expect("a count") as usize],
            Some(list) => entries(list, "")
                .expect("a list")
                .iter()
                .map(|(_at, net_text)| net(net_text.as_str().expect("a text")))
                .collect(),
            None => Vec::new(),
        };
        addresses.push(WantedAddress { candidates, gateway: want.address("gateway").expect("an address") });
    }
    let text = |key| answer.text(key).expect("a text").map(str::to_owned);
    Decision {
        addresses,
        routes: conf::routes(answer).expect("routes"),
        dns: conf::dns(answer).expect("dns"),
        release: text("keep").map_or(ReleaseRule::Free, ReleaseRule::Keep),
        reason: match text("reason") {
            Some(reason) if reason == "the facts" => facts(),
            reason => reason.unwrap_or_default(),
        },
    }
}

/// Returns what the host knows about the pod.
fn facts() -> String {
    let labels: Vec<_> =
        facts::namespace_labels().into_iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    format!("{:?}: {}", facts::source(), labels.join(","))
}

/// Accepts any length, and `mapped` is an IPv4 address in IPv6 form: the policy must be able to give forbidden answers.
fn net(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    let address = match address {
        "mapped" => IpAddress::Ipv6((0, 0, 0, 0, 0, 0xffff, 0x0a01, 0x0009)),
        address => address.parse().expect("an address"),
    };
    IpPrefix { address, length: length.parse().expect("a length") }
}

weft_sdk::policy!(Scripted);
