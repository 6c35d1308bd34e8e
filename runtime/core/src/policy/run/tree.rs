//! Files in memory, and the resolution of paths among them. Pure.
//!
//! Invariants: no path leads out of its starting directory, whatever its links; links are resolved here, never by the
//! kernel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;

/// Maximum number of links in one path.
const LINKS_MAX: usize = 40;

/// The root directory.
pub(super) const ROOT: usize = 0;

/// Directories and files; each is identified by its index in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree(Vec<Node>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    parent: usize,
    what: NodeKind,
}

/// The kind of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeKind {
    Directory(BTreeMap<OsString, usize>),
    File(Bytes),
    /// Its target.
    Link(OsString),
    /// A socket, a pipe or a device: nothing to read.
    Other,
}

/// Why a path cannot be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResolveError {
    Missing,
    NotDirectory,
    /// It would leave its starting directory.
    Outside,
    /// It has too many links.
    Loop,
}

// === impl Tree ===

impl Tree {
    /// Creates an empty directory.
    pub(super) fn new() -> Self {
        Self(vec![Node { parent: ROOT, what: NodeKind::Directory(BTreeMap::new()) }])
    }

    /// Adds a node to a directory and returns its index.
    pub(super) fn add(&mut self, directory: usize, name: OsString, what: NodeKind) -> usize {
        let place = self.0.len();
        self.0.push(Node { parent: directory, what });
        if let Some(Node { what: NodeKind::Directory(entries), .. }) = self.0.get_mut(directory) {
            entries.insert(name, place);
        }
        place
    }

    /// Returns the node at an index.
    pub(super) fn node(&self, place: usize) -> &NodeKind {
        self.0.get(place).map_or(&NodeKind::Other, |node| &node.what)
    }

    fn parent(&self, place: usize) -> usize {
        self.0.get(place).map_or(ROOT, |node| node.parent)
    }

    /// Resolves a path from a directory. `follow` says whether to follow a link as the last component.
    pub(super) fn find(&self, from: usize, path: &str, follow: bool) -> Result<usize, ResolveError> {
        let mut here = from;
        // The remaining components, the next one last.
        let mut parts: Vec<&OsStr> = Vec::new();
        push(&mut parts, OsStr::new(path))?;
        let mut links = 0;
        while let Some(part) = parts.pop() {
            let NodeKind::Directory(entries) = self.node(here) else { return Err(ResolveError::NotDirectory) };
            match part.as_bytes() {
                b"" | b"." => {}
                b".." if here == from => return Err(ResolveError::Outside),
                b".." => here = self.parent(here),
                _ => {
                    let place = *entries.get(part).ok_or(ResolveError::Missing)?;
                    match self.node(place) {
                        NodeKind::Link(target) if follow || !parts.is_empty() => {
                            links += 1;
                            if links > LINKS_MAX {
                                return Err(ResolveError::Loop);
                            }
                            push(&mut parts, target)?;
                        }
                        _ => here = place,
                    }
                }
            }
        }
        Ok(here)
    }
}

/// Adds the components of a path, the first one last.
fn push<'a>(parts: &mut Vec<&'a OsStr>, path: &'a OsStr) -> Result<(), ResolveError> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        return Err(ResolveError::Missing);
    }
    if bytes.starts_with(b"/") {
        return Err(ResolveError::Outside);
    }
    parts.extend(bytes.split(|byte| *byte == b'/').rev().map(OsStr::from_bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn tree() -> (Tree, usize) {
        let mut tree = Tree::new();
        let file = |text: &'static str| NodeKind::File(Bytes::from_static(text.as_bytes()));
        let link = |to: &str| NodeKind::Link(to.into());
        // The layout in which kubelet mounts a ConfigMap.
        let version = tree.add(ROOT, "..2026".into(), NodeKind::Directory(BTreeMap::new()));
        tree.add(version, "table".into(), file("rack 1"));
        for (name, to) in [
            ("..data", "..2026"),
            ("table", "..data/table"),
            ("out", "../secret"),
            ("passwd", "/etc/passwd"),
            ("a", "b"),
            ("b", "a"),
            ("empty", ""),
        ] {
            tree.add(ROOT, name.into(), link(to));
        }
        tree.add(version, "up".into(), link("../plain"));
        tree.add(ROOT, "plain".into(), file("x"));
        (tree, version)
    }

    #[test]
    fn paths_and_links_lead_to_files() {
        let (tree, version) = tree();
        let file = |path: &str| match tree.node(tree.find(ROOT, path, true).unwrap()) {
            NodeKind::File(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        for path in ["table", "./table", "..data/table", "..data//table", "..2026/../..data/./table"] {
            assert_eq!(file(path), "rack 1", "{path}");
        }
        assert_eq!(file("..data/up"), "x");
        assert_eq!(tree.find(ROOT, ".", true), Ok(ROOT));
        assert_eq!(tree.find(ROOT, "..data/", false), Ok(version));
        assert!(matches!(tree.node(tree.find(ROOT, "table", false).unwrap()), NodeKind::Link(_)));
    }

    #[test]
    fn paths_cannot_leave_the_tree() {
        let (tree, version) = tree();
        for path in ["..", "../secret", "/etc/passwd", "out", "passwd", "..data/../..", "..2026/../../secret"] {
            assert_eq!(tree.find(ROOT, path, true), Err(ResolveError::Outside), "{path}");
        }
        // The descriptor of a directory gives no access to its parent.
        assert_eq!(tree.find(version, "up", true), Err(ResolveError::Outside));
        assert_eq!(tree.find(ROOT, "a", true), Err(ResolveError::Loop));
        for path in ["none", "..data/none", "", "empty"] {
            assert_eq!(tree.find(ROOT, path, true), Err(ResolveError::Missing), "{path}");
        }
        for path in ["plain/x", "table/x", "plain/"] {
            assert_eq!(tree.find(ROOT, path, true), Err(ResolveError::NotDirectory), "{path}");
        }
    }
}
