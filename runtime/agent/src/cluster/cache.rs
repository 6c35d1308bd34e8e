//! A copy of the objects of one kind, by namespace and name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use kube::runtime::watcher::Event;

type Key = (String, String);

/// The copy. It is kept while the API server is away.
#[derive(Debug)]
pub(super) struct Cache<V> {
    known: RefCell<HashMap<Key, Rc<V>>>,
    /// The partial result of a new list, which replaces `known` when it is
    /// complete.
    listing: RefCell<HashMap<Key, Rc<V>>>,
    synced: Cell<bool>,
    version: Cell<u64>,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { known: RefCell::default(), listing: RefCell::default(), synced: Cell::new(false), version: Cell::new(0) }
    }
}

impl<V> Cache<V> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Rc<V>> {
        self.known.borrow().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(super) fn entries(&self) -> Vec<(Key, Rc<V>)> {
        self.known.borrow().iter().map(|(key, value)| (key.clone(), Rc::clone(value))).collect()
    }

    /// Incremented by every change.
    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    pub(super) fn len(&self) -> usize {
        self.known.borrow().len()
    }

    /// Returns whether a first list is complete.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.get()
    }

    /// Applies an event of a watch with its reduced object.
    pub(super) fn apply(&self, event: Event<(Key, V)>) {
        match event {
            Event::Init => self.listing.borrow_mut().clear(),
            Event::InitApply((key, value)) => {
                self.listing.borrow_mut().insert(key, Rc::new(value));
            }
            Event::InitDone => {
                self.known.replace(self.listing.take());
                self.synced.set(true);
            }
            Event::Apply((key, value)) => {
                self.known.borrow_mut().insert(key, Rc::new(value));
            }
            Event::Delete((key, _value)) => {
                self.known.borrow_mut().remove(&key);
            }
        }
        self.version.set(self.version.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("ns".to_owned(), name.to_owned())
    }

    #[test]
    fn an_unfinished_list_hides_nothing_and_a_finished_one_replaces_all() {
        let cache = Cache::default();
        assert!(!cache.is_synced());
        cache.apply(Event::Init);
        cache.apply(Event::InitApply((key("a"), 1)));
        cache.apply(Event::InitApply((key("b"), 2)));
        assert_eq!(cache.get("ns", "a"), None);
        cache.apply(Event::InitDone);
        assert!(cache.is_synced());
        cache.apply(Event::Apply((key("c"), 3)));
        cache.apply(Event::Delete((key("b"), 2)));
        assert_eq!((cache.get("ns", "a").as_deref(), cache.get("ns", "b"), cache.len()), (Some(&1), None, 2));
        // The watch starts over, breaks off, and starts over again.
        cache.apply(Event::Init);
        cache.apply(Event::InitApply((key("x"), 9)));
        assert_eq!((cache.get("ns", "a").as_deref(), cache.get("ns", "x")), (Some(&1), None));
        cache.apply(Event::Init);
        cache.apply(Event::InitApply((key("c"), 4)));
        cache.apply(Event::InitDone);
        assert_eq!((cache.len(), cache.get("ns", "c").as_deref()), (1, Some(&4)));
    }
}
