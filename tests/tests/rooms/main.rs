//! The rooms of `runtime/core/src`: a file uses only its own room and rooms below it, and no files form a cycle.
//!
//! Imports are parsed, not searched for: `use` trees, paths in expressions and types, and re-exports are followed to the file
//! that defines the item. Test modules are left out.

#![allow(clippy::expect_used, reason = "a suite: what cannot be read fails it")]

mod graph;
mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use weft_kit::programs::repository;

use crate::graph::{Graph, circles};
use crate::modules::Modules;

/// The heading of ARCHITECTURE.md above the figure of the rooms.
const FIGURE: &str = "## Rooms of `weft-core`";

/// Known uses of a higher room, each with its reason. An entry that is no longer needed fails the test.
const KNOWN: &[(&str, &str, &str)] = &[];

fn core() -> Graph {
    Graph::new(&Modules::read(&repository().join("runtime/core/src"), "crate").expect("the source parses"))
}

/// Returns the rooms by floor, from the top, as ARCHITECTURE.md shows them. Rooms of one floor do not use each other.
fn floors() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_before, section) = text.split_once(FIGURE).expect("the section about rooms");
    let figure = section.split("```").nth(1).expect("the figure");
    let floor = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    figure.lines().map(floor).filter(|rooms| !rooms.is_empty()).collect()
}

fn floor(floors: &[Vec<String>], file: &str) -> Option<usize> {
    floors.iter().position(|rooms| rooms.iter().any(|name| name == room(file)))
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

#[test]
fn every_file_is_in_a_room() {
    let (graph, floors) = (core(), floors());
    let lost: Vec<&str> = graph.files().filter(|file| floor(&floors, file).is_none()).collect();
    assert!(lost.is_empty(), "give these a floor in the figure of ARCHITECTURE.md: {lost:?}");
}

#[test]
fn every_room_of_the_figure_has_a_file() {
    let graph = core();
    for name in floors().concat() {
        assert!(
            graph.files().any(|file| room(file) == name),
            "ARCHITECTURE.md shows a room {name}, which is not there"
        );
    }
}

#[test]
fn a_room_uses_only_rooms_below() {
    let (graph, floors) = (core(), floors());
    let mut wrong = Vec::new();
    let mut needed = vec![false; KNOWN.len()];
    for (from, to) in graph.edges() {
        let (Some(upper), Some(lower)) = (floor(&floors, from), floor(&floors, to)) else { continue };
        if room(from) == room(to) || upper < lower {
            continue;
        }
        match KNOWN.iter().position(|(one, other, _reason)| from == *one && to == *other) {
            Some(at) => needed[at] = true,
            None => wrong.push(format!("{from} uses {to}")),
        }
    }
    for (at, (from, to, _reason)) in KNOWN.iter().enumerate() {
        if !needed[at] {
            wrong.push(format!("{from} does not use {to} any more: take it out of KNOWN"));
        }
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
}

#[test]
fn no_two_files_use_each_other() {
    let graph = core();
    let found: Vec<String> = circles(&graph).into_iter().map(|circle| circle.join(" -> ")).collect();
    assert!(found.is_empty(), "\n  {}", found.join("\n  "));
}

// === the test itself finds what it is for ===

fn fake(files: &[(&str, &str)]) -> Graph {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    Graph::new(&Modules::read(dir.path(), "crate").expect("it parses"))
}

fn uses(graph: &Graph) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in graph.edges() {
        all.entry(from).or_default().push(to);
    }
    all
}

#[test]
fn imports_are_followed_to_the_file_that_defines_the_item() {
    let graph = fake(&[
        ("lib.rs", "pub mod upper; pub mod lower;"),
        ("upper/mod.rs", "mod one; mod two; pub use one::One; use crate::lower::Hidden;"),
        ("upper/one.rs", "use super::two::Two; pub struct One(Two);"),
        (
            "upper/two.rs",
            "use crate::lower::{self, Shown}; use super::Hidden; pub struct Two(Shown, Hidden, lower::deep::Deep);",
        ),
        ("lower/mod.rs", "pub mod deep; mod shown; pub use shown::{Shown, Other as Hidden};"),
        ("lower/shown.rs", "pub struct Shown; pub struct Other;"),
        ("lower/deep.rs", "pub struct Deep; #[cfg(test)] mod tests { use crate::upper::One; }"),
    ]);
    let uses = uses(&graph);
    assert_eq!(uses["upper/one.rs"], ["upper/two.rs"]);
    assert_eq!(uses["upper/two.rs"], ["lower/deep.rs", "lower/shown.rs"]);
    assert_eq!(uses.get("lower/deep.rs"), None, "a test module does not count");
}

#[test]
fn a_use_upwards_and_a_circle_are_found() {
    let graph = fake(&[
        ("lib.rs", "pub mod attach; pub mod store;"),
        ("attach/mod.rs", "pub mod add; pub mod del;"),
        ("attach/add.rs", "pub fn add() { super::del::del() }"),
        ("attach/del.rs", "pub fn del() { let _ = crate::attach::add::add; }"),
        ("store/mod.rs", "pub fn open(_: &crate::attach::Node) {} "),
    ]);
    assert_eq!(circles(&graph), [["attach/add.rs", "attach/del.rs"]]);
    assert!(graph.edges().any(|edge| edge == ("store/mod.rs", "attach/mod.rs")));
}
