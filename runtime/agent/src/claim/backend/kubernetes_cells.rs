//! Cells and domains as Kubernetes objects: `AddressBlock` and `LedgerDomain`.

use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{NotUsed, Object, ObjectMeta};
use weft_core::ledger::remote::Versions;

use super::answers::{created, read, written};
use super::contract::{Backend as _, Cells, Listing, ReadError, WriteError};
use super::kubernetes::{Kubernetes, NoClient};
use super::kubernetes_objects::{DOMAIN_LABEL, EPOCH, node_label, resource, versions};
use super::pool::{OBJECTS, next};
use super::readable::{Readable, Unread};
use crate::claim::block::{Block, BlockSpec, LedgerDomain};

type BlockObject = Object<BlockSpec, NotUsed>;
type ReadBlock = Object<Readable<BlockSpec>, NotUsed>;
type DomainObject = Object<LedgerDomain, NotUsed>;

const BLOCK: (&str, &str) = ("AddressBlock", "addressblocks");
const DOMAIN: (&str, &str) = ("LedgerDomain", "ledgerdomains");

impl Kubernetes {
    fn blocks_api(&self) -> Result<Api<BlockObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource(BLOCK.0, BLOCK.1)))
    }

    fn blocks_to_read(&self) -> Result<Api<ReadBlock>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource(BLOCK.0, BLOCK.1)))
    }

    fn domains_api(&self) -> Result<Api<DomainObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource(DOMAIN.0, DOMAIN.1)))
    }
}

/// Adds the annotation of a re-assertion.
fn annotated(meta: ObjectMeta, epoch: Option<u64>) -> ObjectMeta {
    ObjectMeta { annotations: epoch.map(|epoch| [(EPOCH.to_owned(), epoch.to_string())].into()), ..meta }
}

fn object(spec: &BlockSpec, read: Option<&Versions>, epoch: Option<u64>) -> BlockObject {
    let mut labels = vec![(DOMAIN_LABEL.to_owned(), spec.domain.clone())];
    labels.extend(spec.holder.iter().map(|holder| (node_label(&holder.node), String::new())));
    let mut object = Object::new(&spec.name(), &resource(BLOCK.0, BLOCK.1), spec.clone());
    object.metadata = ObjectMeta {
        labels: Some(labels.into_iter().collect()),
        managed_fields: Some(vec![Default::default()]),
        uid: read.map(|read| read.uid.clone()),
        resource_version: read.map(|read| read.version.clone()),
        ..annotated(object.metadata, epoch)
    };
    object
}

/// Returns a cell that was read by its name.
fn block(name: &str, object: ReadBlock) -> Block {
    let versions = versions(&object.metadata);
    match object.spec {
        Readable::Yes(spec) => Block { spec, versions },
        Readable::No(_why) => Block::unreadable(name, versions),
    }
}

/// Returns a cell of a list, if it can be read.
fn listed(object: ReadBlock, unread: &Unread) -> Option<Block> {
    let versions = versions(&object.metadata);
    let spec = unread.sort_out(object.metadata.name.as_deref().unwrap_or_default(), object.spec)?;
    Some(Block { spec, versions })
}

impl Cells for Kubernetes {
    async fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        let (blocks, object, mark) = (self.blocks_api()?, object(spec, None, epoch), self.history().mark());
        let made = created(blocks.create(&PostParams::default(), &object)).await;
        self.wrote(mark, None, made.map(|object| object.metadata))
    }

    async fn block(&self, name: &str) -> Result<Option<Block>, ReadError> {
        // Without resourceVersion this is a quorum read.
        Ok(read(self.blocks_to_read()?.get_opt(name)).await?.map(|object| block(name, object)))
    }

    async fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> Result<Versions, WriteError> {
        let (blocks, name, object) = (self.blocks_api()?, spec.name(), object(spec, Some(read), None));
        let mark = self.history().mark();
        let made = written(blocks.replace(&name, &PostParams::default(), &object)).await;
        self.wrote(mark, Some(read), made.map(|object| object.metadata))
    }

    async fn delete_block(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        let preconditions = Preconditions { uid: Some(read.uid.clone()), resource_version: Some(read.version.clone()) };
        let params = DeleteParams::default().preconditions(preconditions);
        written(self.blocks_api()?.delete(name, &params)).await.map(drop)
    }

    async fn blocks(&self, listing: Listing<'_>) -> Result<Vec<Block>, ReadError> {
        let params = ListParams::default().limit(OBJECTS);
        let mut params = match listing {
            Listing::Node(node) => params.labels(&node_label(node)),
            // Not from a cache, because it decides whether a cell is left.
            Listing::Domain(domain) => params.labels(&format!("{DOMAIN_LABEL}={domain}")),
            Listing::All => params,
            Listing::Persistent | Listing::Conflict => return Ok(Vec::new()),
        };
        let (blocks, mut found) = (self.blocks_to_read()?, Vec::new());
        loop {
            let page = async {
                match blocks.list(&params).await {
                    // The API server does not know the resource, so there are no cells.
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                    page => page.map(Some),
                }
            };
            let Some(page) = read(page).await? else { return Ok(found) };
            let token = next(&page.metadata);
            found.extend(page.items.into_iter().filter_map(|object| listed(object, &self.unread)));
            match token {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    async fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> Result<(), WriteError> {
        let mut object = Object::new(&domain.domain, &resource(DOMAIN.0, DOMAIN.1), domain.clone());
        object.metadata = annotated(object.metadata, epoch);
        let (domains, mark) = (self.domains_api()?, self.history().mark());
        let made = created(domains.create(&PostParams::default(), &object)).await;
        self.wrote(mark, None, made.map(|object: DomainObject| object.metadata)).map(drop)
    }

    async fn domain(&self, name: &str) -> Result<Option<LedgerDomain>, ReadError> {
        Ok(read(self.domains_api()?.get_opt(name)).await?.map(|object| object.spec))
    }
}
