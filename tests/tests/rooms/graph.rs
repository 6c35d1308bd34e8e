//! Which file uses which, and cycles among them.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use crate::modules::{Modules, absolute};

/// Edges between files.
#[derive(Debug)]
pub(crate) struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// Returns the graph of a crate.
    pub(crate) fn new(modules: &Modules) -> Self {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &modules.by_path {
            let targets = edges.entry(module.file.clone()).or_default();
            let mut paths = Paths::default();
            module.items.iter().for_each(|item| paths.visit_item(item));
            // A module that is imported is used where a path goes through it.
            let is_module = |path: &[String]| modules.by_path.contains_key(path);
            let imported = module.imports.iter().filter(|path| !is_module(path)).cloned();
            let named = paths.0.into_iter().map(|segments| absolute(path, segments));
            for target in imported.chain(named) {
                targets.extend(modules.file_of(&target).filter(|file| *file != module.file).map(str::to_owned));
            }
        }
        // The root only declares the rooms.
        edges.remove("lib.rs");
        edges.values_mut().for_each(|targets| {
            targets.remove("lib.rs");
        });
        Self(edges)
    }

    /// Returns all files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns pairs of files; the first uses the second.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (from.as_str(), to.as_str())))
    }

    fn reachable<'a>(&'a self, from: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![from];
        while let Some(file) = waiting.pop() {
            for next in self.0.get(file).into_iter().flatten() {
                if seen.insert(next.as_str()) {
                    waiting.push(next);
                }
            }
        }
        seen
    }
}

/// Returns groups of files that use each other, directly or not.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<&str>> {
    let reachable: BTreeMap<&str, BTreeSet<&str>> = graph.files().map(|file| (file, graph.reachable(file))).collect();
    let mut found: Vec<Vec<&str>> = Vec::new();
    for file in graph.files().filter(|file| reachable[file].contains(file)) {
        if found.iter().any(|circle| circle.contains(&file)) {
            continue;
        }
        let both = |other: &&str| reachable[file].contains(other) && reachable[other].contains(file);
        found.push(graph.files().filter(both).collect());
    }
    found
}

/// Every path in a piece of syntax, including names without `::`: an imported function is called by its name alone.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // Arguments of `format!` and the like are expressions; other macros are skipped.
        let parsed = item.parse_body_with(syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated);
        for expression in parsed.into_iter().flatten() {
            // Owned here, so it cannot be visited with the tree's lifetime.
            let mut inner = Paths::default();
            inner.add(&expression);
            self.0.extend(inner.0);
        }
        visit::visit_macro(self, item);
    }

    fn visit_item_mod(&mut self, _inner: &'ast syn::ItemMod) {}

    /// `pub(in crate::room)` says who may use an item, not what the item uses.
    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {}
}

impl Paths {
    fn add(&mut self, expression: &syn::Expr) {
        struct Collector<'a>(&'a mut Vec<Vec<String>>);
        impl<'ast> Visit<'ast> for Collector<'_> {
            fn visit_path(&mut self, path: &'ast syn::Path) {
                if path.leading_colon.is_none() && path.segments.len() > 1 {
                    self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
                }
                visit::visit_path(self, path);
            }
        }
        Collector(&mut self.0).visit_expr(expression);
    }
}
