//! Ranges of keys in etcd, in pages: a ledger may have more keys than an answer can hold.

use std::ops::ControlFlow;

use serde::de::DeserializeOwned;
use serde_json::json;
use weft_core::ledger::remote::Versions;

use super::contract::ReadError;
use super::etcd::{Etcd, base64, content, decoded, unreadable, value};
use super::etcd_gateway::KeyValue;

impl Etcd {
    /// Returns the contents of all keys of a kind. Fails if one cannot be read.
    pub(super) async fn read_all_keys<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>, ReadError> {
        let mut found = Vec::new();
        let each = |pair: &KeyValue| {
            found.push(value(pair)?.0);
            Ok(ControlFlow::Continue(()))
        };
        self.pages(self.key_range(kind), (false, self.pages.1), each).await?;
        Ok(found)
    }

    /// Returns first key and end of a kind.
    fn key_range(&self, kind: &str) -> (String, String) {
        (format!("{}/{kind}/", self.prefix), format!("{}/{kind}0", self.prefix))
    }

    /// Returns all keys of a kind that are wanted, without those that cannot be read.
    pub(super) async fn range<T: DeserializeOwned>(
        &self,
        kind: &str,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<(T, Versions)>, ReadError> {
        let ends = self.key_range(kind);
        let mut found = Vec::new();
        let each = |pair: &KeyValue| {
            let (content, versions) = content(pair)?;
            let key = decoded(&pair.key)?;
            let name = String::from_utf8_lossy(key.get(ends.0.len()..).unwrap_or_default()).into_owned();
            let content = self.unread.sort_out(&name, content).filter(&wanted);
            found.extend(content.map(|content| (content, versions)));
            Ok(ControlFlow::Continue(()))
        };
        self.pages(ends.clone(), (false, self.pages.1), each).await?;
        Ok(found)
    }

    /// Passes the names of a domain's claims between two names to `each`.
    pub(super) async fn names(
        &self,
        (first, last): (&str, &str),
        page: u32,
        mut each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let start = format!("{}/claims/", self.prefix);
        // The end itself does not belong to a range.
        let ends = (format!("{start}{first}"), format!("{start}{last}\0"));
        let each = |pair: &KeyValue| {
            let key = decoded(&pair.key)?;
            Ok(std::str::from_utf8(&key)
                .ok()
                .and_then(|key| key.strip_prefix(&start))
                .map_or(ControlFlow::Continue(()), &mut each))
        };
        self.pages(ends, (true, page), each).await
    }

    /// Passes the keys of a range to `each`, page by page, until it breaks. All pages are of one revision.
    async fn pages(
        &self,
        (first, end): (String, String),
        (keys_only, limit): (bool, u32),
        mut each: impl FnMut(&KeyValue) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let end = base64(end.as_bytes());
        let mut body = json!({"key": base64(first.as_bytes()), "range_end": end, "keys_only": keys_only});
        let mut limit = limit;
        loop {
            body["limit"] = json!(limit);
            let answer = self.call("/v3/kv/range", &body, true).await.map_err(unreadable)?;
            for pair in &answer.kvs {
                if each(pair)?.is_break() {
                    return Ok(());
                }
            }
            let Some(last) = answer.kvs.last().filter(|_last| answer.more) else { return Ok(()) };
            let mut next = decoded(&last.key)?;
            next.push(0);
            body["key"] = json!(base64(&next));
            if body.get("revision").is_none() {
                body["revision"] = json!(answer.header.revision);
            }
            // After the first answer full pages follow, also for a list that began with one name.
            limit = limit.max(if keys_only { self.pages.0 } else { self.pages.1 });
        }
    }
}
