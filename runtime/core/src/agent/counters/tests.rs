//! Counts are summed up once, and bounded.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn counts_of_processes_add_up_once() {
    let dir = tempfile::tempdir().unwrap();
    let took = Duration::from_millis(250);
    let add = || {
        let mut counts = Counts::default();
        counts.call("ADD", "net", 0, took);
        counts.write(dir.path());
    };
    // Without an agent, there is no file.
    add();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let collector = Collector::open(dir.path()).unwrap();
    let totals = Totals::default();
    add();
    add();
    let mut counts = Counts::default();
    counts.call("DEL", "a\tb\nc", 11, took);
    counts.policy("net", "file:///a\tb", "monitor", "denied");
    counts.conflicts("n\te\tt", 2);
    counts.conflicts("net", 1);
    counts.write(dir.path());
    // What is written is not written again.
    counts.write(dir.path());
    collector.collect(&totals).unwrap();
    add();
    for _ in 0..3 {
        collector.collect(&totals).unwrap();
    }
    let of = |verb: &str, network: &str, code: &str| (verb.to_owned(), network.to_owned(), code.to_owned());
    assert_eq!(totals.requests(), [(of("ADD", "net", "0"), 3), (of("DEL", "abc", "11"), 1)]);
    let answer = ["net", "file:///ab", "monitor", "denied"].map(str::to_owned);
    assert_eq!(totals.policies(), [(answer, 1)]);
    assert_eq!(totals.conflicts(), [("net".to_owned(), 3)]);
    assert_eq!(totals.durations()[0], ("ADD".to_owned(), (3, 0.75)));
}

#[test]
fn phases_of_a_call_add_up_to_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::open(dir.path()).unwrap();
    let totals = Totals::default();
    let millis = Duration::from_millis;
    let mut counts = Counts::default();
    counts.call_with_phases(("ADD", "net", 0), millis(100), [10, 20, 30, 0].map(millis));
    // Two threads at the same time.
    counts.call_with_phases(("ADD", "net", 0), millis(100), [90, 90, 0, 0].map(millis));
    counts.write(dir.path());
    // A line of an older weft.
    totals.add("DEL\tnet\t0\t5000");
    collector.collect(&totals).unwrap();
    collector.collect(&totals).unwrap();
    let found: Vec<(String, u64)> = totals
        .phases()
        .into_iter()
        .map(|((verb, phase), seconds)| (format!("{verb} {phase}"), (seconds * 1e3).round() as u64))
        .collect();
    let found: Vec<(&str, u64)> = found.iter().map(|(name, millis)| (name.as_str(), *millis)).collect();
    let of_add = [("ADD claim", 30), ("ADD links", 30), ("ADD other", 40), ("ADD plugins", 0), ("ADD policy", 100)];
    assert_eq!(found[..5], of_add);
    assert_eq!(found[5..], [("DEL other", 5)]);
}

#[test]
fn decisions_fuel_and_fallbacks_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::open(dir.path()).unwrap();
    let totals = Totals::default();
    let mut counts = Counts::default();
    counts.decision("net", "by-label", "decided", 700);
    counts.decision("net", "by-label", "denied", 300);
    counts.policy("net", "by-label", "monitor", "decided");
    counts.fallback("n\tet", "node");
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), 0, "all are one write");
    counts.write(dir.path());
    collector.collect(&totals).unwrap();
    collector.collect(&totals).unwrap();
    let answer = |part: &str, outcome: &str| ["net", "by-label", part, outcome].map(str::to_owned);
    let answers =
        [(answer("active", "decided"), 1), (answer("active", "denied"), 1), (answer("monitor", "decided"), 1)];
    assert_eq!(totals.policies(), answers);
    assert_eq!(totals.fuel(), [(("net".to_owned(), "by-label".to_owned()), (2, 1000))]);
    assert_eq!(totals.fallbacks(), [(("net".to_owned(), "node".to_owned()), 1)]);
}

#[test]
fn the_file_is_bounded_and_so_are_the_outcomes() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::open(dir.path()).unwrap();
    fs::write(dir.path().join(FILE), vec![b'x'; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
    let mut counts = Counts::default();
    counts.call("ADD", "net", 0, Duration::ZERO);
    counts.write(dir.path());
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), LARGEST + 1);
    let totals = Totals::default();
    collector.collect(&totals).unwrap();
    collector.collect(&totals).unwrap();
    assert!(totals.requests().is_empty());
    for index in 0..DISTINCT * 2 {
        totals.add(&format!("ADD\tn{index}\t0\t1"));
    }
    assert_eq!(totals.requests().len(), DISTINCT + 1);
}
