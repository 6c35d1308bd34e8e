//! Certificates of an etcd.

use std::path::Path;

use anyhow::Result;
use weft_kit::process::{self, Place};

use super::ADDRESS;

/// Makes a CA, and certificates for etcd and its client.
pub(super) fn make(dir: &Path) -> Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    let openssl = |line: &str| -> Result<()> {
        let argv: Vec<&str> = std::iter::once("openssl").chain(line.split_whitespace()).collect();
        process::run(&Place::default(), &argv).map(drop)
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    openssl(&format!("req -x509 {key} -keyout {ca_key} -out {ca} -subj /CN=test-ca -days 2"))?;
    for (name, subject) in [("server", "/CN=etcd"), ("client", "/O=weft"), ("named", "/CN=weft")] {
        let (request, own) = (file(&format!("{name}.csr")), file(&format!("{name}.key")));
        let extension = format!("subjectAltName=IP:{ADDRESS}");
        openssl(&format!("req {key} -keyout {own} -out {request} -subj {subject} -addext {extension}"))?;
        let signed = file(&format!("{name}.pem"));
        openssl(&format!(
            "x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -out {signed} -days 2 -copy_extensions copy"
        ))?;
    }
    Ok(())
}
