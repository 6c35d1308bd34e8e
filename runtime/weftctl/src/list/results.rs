//! libcni's cache: one file for each attachment, `<cache>/results/<network>-<container>-<interface>`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// `kind` in libcni's files.
const KIND: &str = "cniCacheV1";

/// The directory of the files.
#[derive(Debug)]
pub(super) struct Results(PathBuf);

/// The contents of an attachment's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attached<'a> {
    pub(super) network: &'a str,
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
    pub(super) netns: &'a str,
    pub(super) args: &'a str,
    pub(super) cap_args: &'a Map<String, Value>,
    /// The configuration's original text.
    pub(super) config: &'a [u8],
    pub(super) result: &'a Value,
}

// === impl Results ===

impl Results {
    pub(super) fn new(cache_dir: &Path) -> Self {
        Self(cache_dir.join("results"))
    }

    /// None of the three can contain a slash.
    fn file(&self, of: &Attached<'_>) -> PathBuf {
        self.0.join(format!("{}-{}-{}", of.network, of.container_id, of.ifname))
    }

    pub(super) fn write(&self, of: &Attached<'_>) -> anyhow::Result<()> {
        let mut document = json!({
            "kind": KIND, "containerId": of.container_id, "config": STANDARD.encode(of.config), "ifName": of.ifname,
            "networkName": of.network, "netns": of.netns, "result": of.result,
        });
        let pairs: Vec<_> = of.args.split(';').filter_map(|pair| pair.split_once('=')).collect();
        if !pairs.is_empty() {
            document["cniArgs"] = json!(pairs);
        }
        if !of.cap_args.is_empty() {
            document["capabilityArgs"] = json!(of.cap_args);
        }
        let path = self.file(of);
        let cannot = || format!("cannot keep the result in {}", path.display());
        weft_core::private::make_dir(&self.0).with_context(cannot)?;
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(weft_core::private::FILE)
            .open(&path)
            .with_context(cannot)?;
        file.write_all(document.to_string().as_bytes()).with_context(cannot)
    }

    /// Returns the result; `None` if there is none.
    pub(super) fn read(&self, of: &Attached<'_>) -> anyhow::Result<Option<Value>> {
        let path = self.file(of);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let document: Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        // Old libraries stored only the result.
        let result = if document["kind"] == KIND { document["result"].clone() } else { document };
        Ok(Some(result))
    }

    pub(super) fn remove(&self, of: &Attached<'_>) -> anyhow::Result<()> {
        match fs::remove_file(self.file(of)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.file(of).display()))
            }
            _removed => Ok(()),
        }
    }
}
