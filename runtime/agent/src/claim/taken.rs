//! Lists of the taken addresses of domains, for ADDs that lose races.
//!
//! A domain may have half a million claims, and many ADDs may lose at the same time. So each domain has one list at a
//! time, which serves every ADD that asked before it ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use weft_core::ledger::remote::{Runs, Span};

use super::backend::{Backend, ReadError};

/// How long a list serves ADDs that ask after it ended.
const FRESH: Duration = Duration::from_secs(1);

/// The newest list of each domain.
#[derive(Debug, Default)]
pub(super) struct Lists(RefCell<BTreeMap<String, Rc<Mutex<Option<Listed>>>>>);

/// A list that ended.
#[derive(Debug)]
struct Listed {
    spans: Vec<Span>,
    ended: Instant,
    outcome: Result<Rc<Runs>, ReadError>,
}

impl Lists {
    /// Returns the taken addresses of a domain in some spans.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) async fn taken<B: Backend>(
        &self,
        backend: &B,
        domain: &str,
        spans: &[Span],
    ) -> Result<Rc<Runs>, ReadError> {
        let asked = Instant::now();
        let newest = Rc::clone(self.0.borrow_mut().entry(domain.to_owned()).or_default());
        let mut newest = newest.lock().await;
        if let Some(listed) = newest.as_ref().filter(|listed| listed.spans == spans && listed.ended + FRESH > asked) {
            return listed.outcome.clone();
        }
        // An old one needs no memory beside the new one.
        *newest = None;
        let outcome = backend.taken(domain, spans).await.map(Rc::new);
        *newest = Some(Listed { spans: spans.to_vec(), ended: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    /// Forgets lists that serve nobody any more.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().retain(|_domain, newest| {
            let is_fresh = |listed: &Listed| listed.ended.elapsed() < FRESH;
            Rc::strong_count(newest) > 1 || newest.try_lock().is_ok_and(|listed| listed.as_ref().is_some_and(is_fresh))
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::backend::memory::Memory;
    use super::super::tests::{Machine, WEB, address};
    use super::*;

    impl Lists {
        /// Makes every list too old to serve anybody.
        fn age(&self) {
            for newest in self.0.borrow().values() {
                newest.try_lock().unwrap().iter_mut().for_each(|listed| listed.ended -= FRESH);
            }
        }
    }

    #[tokio::test]
    async fn adds_that_ask_at_once_share_one_list_of_names() {
        let server = Memory::default();
        Machine::new("a", "m-a", &server).add(&WEB).await.unwrap();
        let (lists, all) = (Lists::default(), [(address(), "10.0.0.9".parse().unwrap())]);
        let ask = || lists.taken(&server, "default", &all);
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        let expected: Runs = [address()].into_iter().collect();
        for taken in [first, second, third] {
            assert_eq!(*taken.unwrap(), expected);
        }
        let lists_sent = || (server.0.borrow().name_lists, server.0.borrow().whole_lists);
        assert_eq!(lists_sent(), (1, 0));
        // Other spans, another domain, and later.
        let others = [("10.0.0.2".parse().unwrap(), "10.0.0.9".parse().unwrap())];
        assert_eq!(*lists.taken(&server, "default", &others).await.unwrap(), Runs::default());
        assert_eq!(*lists.taken(&server, "lab", &all).await.unwrap(), Runs::default());
        assert_eq!(lists_sent(), (3, 0));
        lists.age();
        lists.forget();
        assert!(lists.0.borrow().is_empty());
        assert_eq!(*ask().await.unwrap(), expected);
        assert_eq!(lists_sent(), (4, 0));
        // A failure is shared too: others do not wait for it once more, one after the other.
        server.0.borrow_mut().away = true;
        lists.age();
        let (first, second) = tokio::join!(ask(), ask());
        assert!(first.is_err() && second.is_err());
        assert_eq!(lists_sent(), (5, 0));
    }
}
