//! Uploads to a registry, in one piece each: every registry takes them so.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use oci_client::errors::OciDistributionError;
use reqwest::{Response, StatusCode, Url};
use weft_core::policy::Digest;

use super::{Http, HttpError, Rights, beginning, patience, refusal, with_authorization};

// === impl Http ===

impl Http {
    /// Uploads a blob, unless the repository has it.
    pub(in crate::registry) async fn put_blob(&self, repository: &str, blob: &[u8]) -> Result<(), HttpError> {
        let patience = patience(blob.len());
        let answer = tokio::time::timeout(patience, self.upload(repository, blob)).await;
        answer.unwrap_or(Err(HttpError::Late(patience)))
    }

    async fn upload(&self, repository: &str, blob: &[u8]) -> Result<(), HttpError> {
        let (base, digest) = (&self.base, Digest::new(blob).to_string());
        let authorization = self.authorization(repository, Rights::Push).await?;
        let asked = self.client.head(format!("{base}/{repository}/blobs/{digest}"));
        if with_authorization(asked, authorization.clone()).send().await?.status() == StatusCode::OK {
            return Ok(());
        }
        let begun = self.client.post(format!("{base}/{repository}/blobs/uploads/")).header(CONTENT_LENGTH, 0);
        let begun = accepted(with_authorization(begun, authorization.clone()).send().await?).await?;
        let mut place = upload_url(begun.url(), begun.headers())?;
        self.servers.check(&place)?;
        place.query_pairs_mut().append_pair("digest", &digest);
        // Another server gets what the registry wrote into its address, and nothing else.
        let authorization = authorization.filter(|_header| self.servers.is_registry(&place));
        let sent = self.uploads.put(place).header(CONTENT_TYPE, "application/octet-stream").body(blob.to_vec());
        accepted(with_authorization(sent, authorization).send().await?).await.map(drop)
    }

    /// Uploads a manifest under a tag, after its blobs.
    pub(in crate::registry) async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &'static str,
        manifest: &[u8],
    ) -> Result<(), HttpError> {
        let authorization = self.authorization(repository, Rights::Push).await?;
        let sent = self.client.put(format!("{}/{repository}/manifests/{tag}", self.base));
        let sent = sent.header(CONTENT_TYPE, kind).body(manifest.to_vec());
        accepted(with_authorization(sent, authorization).send().await?).await.map(drop)
    }
}

/// Returns the address that an upload continues at.
fn upload_url(from: &Url, headers: &HeaderMap) -> Result<Url, HttpError> {
    let named = headers.get(LOCATION).and_then(|place| from.join(place.to_str().ok()?).ok());
    named.ok_or(HttpError::Registry(OciDistributionError::RegistryNoLocationError))
}

async fn accepted(response: Response) -> Result<Response, HttpError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().to_string());
    Err(HttpError::Registry(refusal(status, &beginning(response).await?, url)))
}
