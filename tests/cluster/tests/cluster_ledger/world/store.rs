//! A node's store, read with sqlite3, and what is left of attachments.

use anyhow::{Context, Result};
use serde_json::Value;
use weft_kit::dhcp::wait;
use weft_kit::process;

use super::{Node, PATIENCE};

impl Node {
    /// Returns the answer of the node's store to a query, made with sqlite3.
    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        let store = self.installation.state().join("weft.db").display().to_string();
        let argv = ["sqlite3", "-cmd", ".timeout 10000", &store, statement];
        Ok(process::run(&self.netns.place(), &argv)?.text().trim().to_owned())
    }

    /// Returns how far its agent has seen the ledger's history, from the store.
    pub(crate) fn seen(&self) -> Result<u64> {
        let lines = self.sql("SELECT value FROM meta WHERE key LIKE 'seen %'")?;
        let revision = |line: &str| serde_json::from_str::<Value>(line).ok()?["revision"].as_u64();
        Ok(lines.lines().map(|line| revision(line).unwrap_or(0)).min().unwrap_or(0))
    }

    /// Returns how many addresses of the store are in a state: 0 intent, 1 entry, 2 tombstone.
    pub(crate) fn rows(&self, state: u8) -> Result<String> {
        self.sql(&format!("SELECT count(*) FROM remote_addresses WHERE state = {state}"))
    }

    /// Makes every intent, tombstone and cell look an hour old.
    pub(crate) fn age(&self) -> Result<()> {
        self.move_clock(3600)
    }

    /// Makes every intent, tombstone and cell look as if the clock had been moved by so many seconds, ahead or back.
    pub(crate) fn move_clock(&self, seconds: i64) -> Result<()> {
        let tables = [("remote", "created"), ("remote_addresses", "since"), ("cells", "since")];
        let older = tables.map(|(table, column)| format!("UPDATE {table} SET {column} = {column} - ({seconds})"));
        self.sql(&older.join("; ")).map(drop)
    }

    /// Returns the nonces of the cells that this node's store owns, and the number of cells in another state.
    pub(crate) fn cells(&self) -> Result<(Vec<String>, usize)> {
        let owned = self.sql("SELECT nonce FROM cells WHERE state = 1")?;
        let others = self.sql("SELECT count(*) FROM cells WHERE state <> 1")?;
        Ok((owned.lines().map(str::to_owned).collect(), others.parse()?))
    }

    /// Returns everything of attachments on this node: journal entries, rows of the ledger, ends of pods' links.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (what, table) in [("entry", "journal"), ("row", "remote"), ("address", "remote_addresses")] {
            let count = self.sql(&format!("SELECT count(*) FROM {table}"))?;
            left.extend((count != "0").then(|| format!("{count} of {what}")));
        }
        let text = self.netns.line("ip -j link show type veth")?.text();
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        left.extend(names.filter(|name| *name != "up0").map(|name| format!("link {name}")));
        Ok(left)
    }

    /// Waits until nothing of attachments is left on this node.
    pub(crate) fn wait_for_nothing_left(&self) -> Result<()> {
        let nothing = || Ok(self.leftovers()?.is_empty());
        wait(PATIENCE, "an empty node", nothing).with_context(|| format!("{:?}\n{}", self.leftovers(), self.log()))
    }
}
