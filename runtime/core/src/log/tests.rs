//! Lines, levels, sinks and settings.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::net::UnixDatagram;

use super::*;

fn subject() -> Subject {
    Subject {
        verb: "ADD".to_owned(),
        plugin: "bridge".to_owned(),
        network: "my pods".to_owned(),
        container: "c1".to_owned(),
        ifname: "eth0".to_owned(),
        pod: String::new(),
    }
}

fn logger(level: Level) -> (tempfile::TempDir, std::path::PathBuf, Logger) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.log");
    let settings = Settings { level, file: Some(path.clone()), ..Settings::default() };
    (dir, path, Logger::new(&Target::Written(settings)))
}

#[test]
fn a_line_names_its_subject_and_is_written_at_once() {
    let (_dir, path, logger) = logger(Level::Info);
    logger.set_subject(subject());
    logger.info("ADD begins\n\u{1b}[2J");
    logger.debug(|| unreachable!("nobody wants it"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (_time, line) = text.split_once("]: ").unwrap();
    assert_eq!(line, "info: ADD begins\\n\\u{1b}[2J plugin=bridge network=\"my pods\" container=c1 ifname=eth0\n");
}

#[test]
fn levels_bound_what_is_written() {
    for (level, count) in [(Level::Off, 0), (Level::Error, 1), (Level::Warn, 2), (Level::Info, 3), (Level::Debug, 4)] {
        let (_dir, path, logger) = logger(level);
        logger.error("e");
        logger.warn("w");
        logger.info("i");
        logger.debug(|| "d".to_owned());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), count, "{level:?}");
    }
}

#[test]
fn lines_that_are_kept_are_taken_once() {
    let logger = Logger::new(&Target::Kept);
    logger.set_subject(subject());
    logger.warn("one");
    logger.debug(|| unreachable!("not for a person"));
    assert_eq!((logger.take(), logger.take()), ("weft: one\n".to_owned(), String::new()));
}

#[test]
fn the_journal_gets_fields() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let server = UnixDatagram::bind(&socket).unwrap();
    Journal::connect(&socket).unwrap().write(Level::Warn, "look here", &subject());
    let mut datagram = [0; 512];
    let length = server.recv(&mut datagram).unwrap();
    let text = std::str::from_utf8(&datagram[..length]).unwrap();
    let want = "PRIORITY=4\nSYSLOG_IDENTIFIER=weft\nMESSAGE=look here\nCNI_COMMAND=ADD\nCNI_PLUGIN=bridge\n\
                CNI_NETWORK=my pods\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\n";
    assert_eq!(text, want);
}

#[test]
fn settings_come_from_the_node_and_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let none = |_name: &str| None;
    assert_eq!(Settings::of_node(dir.path(), &none), Settings::default());
    let write = |text: &str| std::fs::write(dir.path().join("node.json"), text).unwrap();
    write(r#"{"labels": {"a": "b"}, "log": {"level": "warn", "file": "/x", "journal": true}}"#);
    let declared = Settings { level: Level::Warn, file: Some("/x".into()), journal: true, problem: None };
    assert_eq!(Settings::of_node(dir.path(), &none), declared);
    let env = |name: &str| match name {
        "WEFT_LOG" => Some("debug".into()),
        "WEFT_LOG_FILE" => Some("/y".into()),
        _ => None,
    };
    let mixed = Settings { level: Level::Debug, file: Some("/y".into()), ..declared };
    assert_eq!(Settings::of_node(dir.path(), &env), mixed);
    write(r#"{"log": {"level": "loud"}}"#);
    let broken = Settings::of_node(dir.path(), &none);
    assert!(broken.level == Level::Info && broken.problem.is_some_and(|text| text.contains("loud")));
    let wrong = Settings::of_node(dir.path(), &|name| (name == "WEFT_LOG").then(|| "all".into()));
    assert!(wrong.problem.is_some_and(|text| text.contains("\"all\"")));
}
