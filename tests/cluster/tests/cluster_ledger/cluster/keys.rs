//! The keys in etcd: claims and cells as they are, without asking weft.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_cluster::api_server;

use super::{Cluster, OBJECTS, ROOT, Server};
use crate::world::PATIENCE;

/// First key and end of the claims that weft writes into etcd: `/weft/ipam/claims/`, in base64.
const IN_ETCD: (&str, &str) = ("L3dlZnQvaXBhbS9jbGFpbXMv", "L3dlZnQvaXBhbS9jbGFpbXMw");
/// The same of AddressClaims: `/registry/ipam.weft.dev/addressclaims/`.
const IN_KUBERNETES: (&str, &str) =
    ("L3JlZ2lzdHJ5L2lwYW0ud2VmdC5kZXYvYWRkcmVzc2NsYWltcy8=", "L3JlZ2lzdHJ5L2lwYW0ud2VmdC5kZXYvYWRkcmVzc2NsYWltczA=");

/// A key without meaning: `something`, in base64.
const SOMETHING: &str = "c29tZXRoaW5n";

impl Cluster {
    /// Returns key and value of each claim in etcd, in base64.
    pub(crate) fn claims(&self) -> Result<Vec<Value>> {
        let (first, end) = self.keys();
        let answer = self.post("range", &json!({"key": first, "range_end": end}))?;
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        Ok(pairs.map(|pair| json!({"key": pair["key"], "value": pair["value"]})).collect())
    }

    /// Returns key and value of one claim in etcd, in base64.
    pub(crate) fn one_claim(&self) -> Result<Value> {
        let (first, end) = self.keys();
        let answer = self.post("range", &json!({"key": first, "range_end": end, "limit": 1}))?;
        answer["kvs"].get(0).cloned().context("a claim")
    }

    /// Returns the number of claims in etcd, without reading them.
    pub(crate) fn count(&self) -> Result<usize> {
        let (first, end) = self.keys();
        let answer = self.post("range", &json!({"key": first, "range_end": end, "count_only": true}))?;
        // Zero values are absent.
        Ok(answer["count"].as_str().unwrap_or("0").parse()?)
    }

    fn range_of_cells(&self) -> Value {
        let (first, end) = match &self.server {
            Server::Etcd(_) => ("/weft/ipam/cells/", "/weft/ipam/cells0"),
            Server::Kubernetes(_) => {
                ("/registry/ipam.weft.dev/addressblocks/", "/registry/ipam.weft.dev/addressblocks0")
            }
        };
        json!({"key": STANDARD.encode(first), "range_end": STANDARD.encode(end)})
    }

    /// Deletes every cell behind weft's back.
    pub(crate) fn remove_cells(&self) -> Result<()> {
        self.post("deleterange", &self.range_of_cells()).map(drop)
    }

    /// Deletes every claim behind weft's back.
    pub(crate) fn remove_claims(&self) -> Result<()> {
        let (first, end) = self.keys();
        self.post("deleterange", &json!({"key": first, "range_end": end})).map(drop)
    }

    /// Returns the `spec` of each cell in etcd.
    pub(crate) fn cells(&self) -> Result<Vec<Value>> {
        let answer = self.post("range", &self.range_of_cells())?;
        let values = answer["kvs"].as_array().into_iter().flatten().filter_map(|pair| pair["value"].as_str());
        values
            .map(|value| {
                let object: Value = serde_json::from_slice(&STANDARD.decode(value)?)?;
                Ok(object.get("spec").cloned().unwrap_or(object))
            })
            .collect()
    }

    /// Writes a claim returned by `claims`.
    pub(crate) fn put(&self, claim: &Value) -> Result<()> {
        self.post("put", claim).map(drop)
    }

    /// Writes many claims, in few transactions.
    pub(crate) fn put_all(&self, claims: &[Value]) -> Result<()> {
        // `--max-txn-ops` of etcd is 128.
        for some in claims.chunks(100) {
            let puts: Vec<Value> = some.iter().map(|claim| json!({"requestPut": claim})).collect();
            self.post("txn", &json!({"success": puts}))?;
        }
        Ok(())
    }

    /// Removes a claim returned by `claims`.
    pub(crate) fn remove(&self, claim: &Value) -> Result<()> {
        self.post("deleterange", &json!({"key": claim["key"]})).map(drop)
    }

    /// Returns etcd's revision.
    pub(crate) fn revision(&self) -> Result<u64> {
        let answer = self.post("range", &json!({"key": SOMETHING}))?;
        let revision = answer["header"]["revision"].as_str().context("a revision")?;
        revision.parse().with_context(|| revision.to_owned())
    }

    /// Writes a meaningless key this many times, like other clients.
    pub(crate) fn write_more(&self, times: usize) -> Result<()> {
        (0..times).try_for_each(|_| self.put(&json!({"key": SOMETHING, "value": ""})))
    }

    /// Removes all of weft's objects: after a freeze, nodes of earlier trials would be waited for.
    pub(super) fn forget(&self) -> Result<()> {
        self.post("deleterange", &json!({"key": OBJECTS.0, "range_end": OBJECTS.1})).map(drop)
    }

    fn keys(&self) -> (&'static str, &'static str) {
        match &self.server {
            Server::Etcd(_) => IN_ETCD,
            Server::Kubernetes(_) => IN_KUBERNETES,
        }
    }

    /// One call about keys.
    fn post(&self, what: &str, body: &Value) -> Result<Value> {
        let token = match &self.server {
            Server::Etcd(etcd) if etcd.secured => {
                let login = json!({"name": "root", "password": ROOT});
                let answer = self.ask("/v3/auth/authenticate", None, &login)?;
                Some(answer["token"].as_str().context("a token")?.to_owned())
            }
            _ => None,
        };
        self.ask(&format!("/v3/kv/{what}"), token.as_deref(), body)
    }

    /// Calls etcd's JSON gateway at its endpoint without TLS.
    pub(super) fn ask(&self, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        let head = format!("POST {path} HTTP/1.0\r\n{token}Content-Length: {}\r\n\r\n", body.len());
        let call = self.netns.inside(move || {
            let mut stream = TcpStream::connect(api_server::ETCD)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{head}{body}").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let answer = call.join().map_err(|_panic| anyhow::anyhow!("asking etcd panicked"))??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        ensure!(head.contains(" 200 "), "etcd answers {answer}");
        serde_json::from_str(body).with_context(|| answer.clone())
    }
}
