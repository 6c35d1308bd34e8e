//! Cells and domains in etcd: keys `<prefix>/cells/<name>` and `<prefix>/domains/<name>`.

use serde_json::json;
use weft_core::ledger::remote::Versions;

use super::contract::{Cells, Listing, ReadError, WriteError};
use super::etcd::{Etcd, absent, content};
use super::readable::Readable;
use crate::claim::block::{Block, BlockSpec, LedgerDomain};

const CELLS: &str = "cells";
const DOMAINS: &str = "domains";

impl Cells for Etcd {
    async fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write_key((CELLS, &spec.name()), spec, &absent(), epoch.is_some()).await
    }

    async fn block(&self, name: &str) -> Result<Option<Block>, ReadError> {
        // Linearizable, which is the default.
        let Some(found) = self.find(CELLS, name).await? else { return Ok(None) };
        let (content, versions) = content(&found)?;
        Ok(Some(match content {
            Readable::Yes(spec) => Block { spec, versions },
            Readable::No(_why) => Block::unreadable(name, versions),
        }))
    }

    async fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> Result<Versions, WriteError> {
        self.write_key((CELLS, &spec.name()), spec, read, false).await
    }

    async fn delete_block(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        let key = self.key(CELLS, name);
        let delete = json!({"request_delete_range": {"key": key}});
        self.txn(&key, read, delete, true).await.map(drop)
    }

    async fn blocks(&self, listing: Listing<'_>) -> Result<Vec<Block>, ReadError> {
        let wanted = |spec: &BlockSpec| match listing {
            Listing::Node(node) => spec.holder.as_ref().is_some_and(|holder| holder.node == node),
            Listing::Persistent | Listing::Conflict => false,
            Listing::Domain(domain) => spec.domain == domain,
            Listing::All => true,
        };
        let listed = self.range(CELLS, wanted).await?.into_iter();
        Ok(listed.map(|(spec, versions)| Block { spec, versions }).collect())
    }

    async fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> Result<(), WriteError> {
        self.write_key((DOMAINS, &domain.domain), domain, &absent(), epoch.is_some()).await.map(drop)
    }

    async fn domain(&self, name: &str) -> Result<Option<LedgerDomain>, ReadError> {
        let found = self.read_key(DOMAINS, name).await?;
        Ok(found.map(|(domain, _versions)| domain))
    }
}
