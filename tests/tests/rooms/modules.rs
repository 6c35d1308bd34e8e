//! The modules of a crate: their files, their definitions, and the names that their `use` items introduce.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use syn::{Attribute, Item, UseTree};

/// A path as segments from the crate's root: `["crate", "attach", "add"]`.
pub(crate) type Segments = Vec<String>;

/// One module.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its file, relative to the crate's source.
    pub(crate) file: String,
    /// Its syntax, without test modules.
    pub(crate) items: Vec<Item>,
    /// Names that `use` items introduce, and the paths behind them.
    pub(crate) uses: BTreeMap<String, Segments>,
    /// The paths that `use` items name, each once (without `pub use`).
    pub(crate) imports: Vec<Segments>,
}

/// All modules by path.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pub(crate) by_path: BTreeMap<Segments, Module>,
}

impl Modules {
    /// Reads a crate.
    ///
    /// # Errors
    /// If a file cannot be read or parsed.
    pub(crate) fn read(source: &Path, name: &str) -> Result<Self> {
        let mut modules = Self::default();
        modules.add_file(source, &source.join("lib.rs"), vec![name.to_owned()])?;
        Ok(modules)
    }

    fn add_file(&mut self, source: &Path, file: &Path, path: Segments) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("parse {}", file.display()))?;
        self.add(source, file, path, parsed.items)
    }

    fn add(&mut self, source: &Path, file: &Path, path: Segments, items: Vec<Item>) -> Result<()> {
        let items: Vec<Item> = items.into_iter().filter(|item| !is_test(attributes(item))).collect();
        let mut module = Module {
            file: file.strip_prefix(source).unwrap_or(file).display().to_string(),
            items: Vec::new(),
            uses: BTreeMap::new(),
            imports: Vec::new(),
        };
        for item in items {
            match item {
                Item::Mod(inner) => {
                    let mut below = path.clone();
                    below.push(inner.ident.to_string());
                    match inner.content {
                        Some((_, items)) => self.add(source, file, below, items)?,
                        None => self.add_file(source, &file_of(file, &inner.ident.to_string()), below)?,
                    }
                }
                Item::Use(item) => {
                    let public = !matches!(item.vis, syn::Visibility::Inherited);
                    collect(&item.tree, &[], &mut |full, name| {
                        let full = absolute(&path, full);
                        if !public {
                            module.imports.push(full.clone());
                        }
                        module.uses.insert(name, full);
                    });
                }
                other => module.items.push(other),
            }
        }
        self.by_path.insert(path, module);
        Ok(())
    }

    /// Returns the file that defines what a path names, if it is in this crate. A path into a module names what that
    /// module defines or imports under the name.
    pub(crate) fn file_of(&self, path: &[String]) -> Option<&str> {
        self.resolve(path, 0)
    }

    fn resolve(&self, path: &[String], depth: usize) -> Option<&str> {
        if depth > 16 {
            return None;
        }
        let known = (1..=path.len()).rev().find(|length| self.by_path.contains_key(&path[..*length]))?;
        let module = self.by_path.get(&path[..known])?;
        match path.get(known) {
            Some(name) => match module.uses.get(name) {
                Some(target) => {
                    let whole: Segments = target.iter().chain(&path[known + 1..]).cloned().collect();
                    self.resolve(&whole, depth + 1)
                }
                None => Some(&module.file),
            },
            None => Some(&module.file),
        }
    }
}

/// Returns the file of a module that another file declares.
fn file_of(declaring: &Path, name: &str) -> PathBuf {
    let dir = match declaring.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs") => declaring.with_file_name(""),
        _ => declaring.with_extension(""),
    };
    let flat = dir.join(format!("{name}.rs"));
    if flat.is_file() { flat } else { dir.join(name).join("mod.rs") }
}

/// Returns a module's path from the crate's root. Others (`std::...`, names of this module) stay as they are, with the
/// module's path in front.
pub(crate) fn absolute(module: &[String], path: Vec<String>) -> Segments {
    let mut base = module.to_vec();
    let mut rest = path.as_slice();
    match rest.first().map(String::as_str) {
        Some("crate") => return path,
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => {}
    }
    base.extend(rest.iter().cloned());
    base
}

/// Calls `found` with each full path of a `use` tree and the name it introduces.
fn collect(tree: &UseTree, before: &[String], found: &mut dyn FnMut(Vec<String>, String)) {
    let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => collect(&path.tree, &with(path.ident.to_string()), found),
        UseTree::Name(name) if name.ident == "self" => {
            found(before.to_vec(), before.last().cloned().unwrap_or_default());
        }
        UseTree::Name(name) => found(with(name.ident.to_string()), name.ident.to_string()),
        UseTree::Rename(rename) => found(with(rename.ident.to_string()), rename.rename.to_string()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, before, found)),
        UseTree::Glob(_) => found(before.to_vec(), "*".to_owned()),
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns whether the attributes have `#[cfg(test)]`, alone or in a longer condition.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg")
            && list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
    })
}
