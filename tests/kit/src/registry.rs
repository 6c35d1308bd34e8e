//! Debian's `docker-registry` with the environment of a site: certificates by openssl, passwords, keys by minisign.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dhcp::{Daemon, PATIENCE, wait};
use crate::process::{self, Place};

/// A web server that writes down what it is asked, and sends everybody elsewhere, until the value is dropped.
#[derive(Debug)]
pub struct RecordingServer {
    _daemon: Daemon,
    log: PathBuf,
}

/// A registry that runs until the value is dropped.
#[derive(Debug)]
pub struct Registry {
    daemon: Daemon,
    storage: PathBuf,
}

/// An authority of the site, and the certificate that it issued to the registry. All fields are paths of PEM files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: String,
    /// The registry's certificate.
    pub certificate: String,
    /// The registry's key.
    pub key: String,
}

/// A key that minisign made.
#[derive(Debug, Clone)]
pub struct Minisign {
    /// The file of the secret key.
    pub secret: String,
    /// The public key in Base64, as in the second line of its file.
    pub public: String,
    /// The file of the public key.
    pub file: String,
}

// === impl Registry ===

impl Registry {
    /// Starts a registry in a place and waits until it answers. Its files are in `dir`; `more` has additional lines of
    /// its configuration, below `http`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(place: &Place, dir: &Path, address: &str, more: &str) -> Result<Self> {
        Self::start_at(place, dir, &format!("http://{address}/v2/"), address, more)
    }

    /// Like `start`, with a certificate.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_tls(
        place: &Place,
        dir: &Path,
        address: &str,
        certificates: &Certificates,
        more: &str,
    ) -> Result<Self> {
        let Certificates { certificate, key, .. } = certificates;
        let more = format!("  tls: {{ certificate: {certificate}, key: {key} }}\n{more}");
        Self::start_at(place, dir, &format!("https://{address}/v2/"), address, &more)
    }

    fn start_at(place: &Place, dir: &Path, url: &str, address: &str, more: &str) -> Result<Self> {
        let (config, storage) = (dir.join("registry.yml"), dir.join("storage"));
        let text = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp:\n  addr: \"{address}\"\n{more}",
            storage.display()
        );
        fs::write(&config, text).context("write the registry's configuration")?;
        let argv = ["docker-registry".to_owned(), "serve".to_owned(), config.display().to_string()];
        let daemon = Daemon::start(place, &argv, &dir.join("registry.log"))?;
        wait(PATIENCE, "the registry", || Ok(process::run(place, &["python3", "-c", ASK, url]).is_ok()))
            .with_context(|| daemon.log())?;
        Ok(Self { daemon, storage })
    }

    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Returns how many requests it has answered, from its log.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.daemon.log().lines().filter(|line| line.contains(" /v2/")).count()
    }

    /// Returns the registry's file of a blob.
    ///
    /// # Errors
    /// The digest is invalid.
    pub fn stored(&self, digest: &str) -> Result<PathBuf> {
        stored(&self.storage, digest)
    }
}

/// Returns the file of a blob in a registry with that storage.
///
/// # Errors
/// The digest is invalid.
pub fn stored(storage: &Path, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("a digest")?;
    let head = hex.get(..2).context("a digest")?;
    Ok(storage.join("docker/registry/v2/blobs/sha256").join(head).join(hex).join("data"))
}

/// Changes the last byte of a file.
///
/// # Errors
/// It cannot be read or written, or is empty.
pub fn tamper(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    *bytes.last_mut().context("an empty file")? ^= 1;
    fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
}

/// Returns lines of a registry's configuration that require a user's password; the password file is made in `dir`.
///
/// # Errors
/// python3 fails.
pub fn password(dir: &Path, user: &str, password: &str) -> Result<String> {
    let script = "import crypt, sys; print(crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let hash = process::run(&Place::default(), &["python3", "-W", "ignore", "-c", script, password])?.text();
    let file = dir.join("htpasswd");
    fs::write(&file, format!("{user}:{hash}")).context("write the passwords")?;
    Ok(format!("auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n", file.display()))
}

/// Returns lines of a registry's configuration that send clients to a server for a token.
#[must_use]
pub fn token_server(realm: &str, certificates: &Certificates) -> String {
    let Certificates { ca, .. } = certificates;
    format!("auth: {{ token: {{ realm: \"{realm}\", service: test, issuer: test, rootcertbundle: {ca} }} }}\n")
}

// === impl Witness ===

impl RecordingServer {
    /// Starts the server in a place. It answers every request with `answer`: a redirect if that is an address, otherwise
    /// a document. With certificates it has TLS. `name` is the name of its files in `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        place: &Place,
        dir: &Path,
        name: &str,
        address: &str,
        answer: &str,
        certificates: Option<&Certificates>,
    ) -> Result<Self> {
        let [log, script] = ["asked", "py"].map(|end| dir.join(format!("{name}.{end}")));
        fs::write(&script, WITNESS).context("write the server")?;
        let (certificate, key) = certificates.map_or(("", ""), |it| (it.certificate.as_str(), it.key.as_str()));
        let file = |path: &Path| path.display().to_string();
        let argv = [
            "python3".to_owned(),
            file(&script),
            address.to_owned(),
            file(&log),
            answer.to_owned(),
            certificate.to_owned(),
            key.to_owned(),
        ];
        let daemon = Daemon::start(place, &argv, &dir.join(format!("{name}.log")))?;
        wait(PATIENCE, name, || Ok(log.exists())).with_context(|| daemon.log())?;
        Ok(Self { _daemon: daemon, log })
    }

    /// Returns the requests so far, each with its authorization.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn asked(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("read what the server was asked")
    }
}

// === impl Certificates ===

impl Certificates {
    /// Makes an authority and a certificate for these names, as in `IP:192.0.2.1,DNS:registry.test`.
    ///
    /// # Errors
    /// openssl fails.
    pub fn new(dir: &Path, names: &str) -> Result<Self> {
        let [ca, ca_key, certificate, key] =
            ["ca.pem", "ca.key", "registry.pem", "registry.key"].map(|name| dir.join(name).display().to_string());
        let new_key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let run = |line: &str| process::run(&Place::default(), &line.split_whitespace().collect::<Vec<_>>());
        run(&format!("{new_key} -keyout {ca_key} -out {ca} -subj /CN=site"))?;
        run(&format!(
            "{new_key} -keyout {key} -out {certificate} -subj /CN=registry -CA {ca} -CAkey {ca_key} \
             -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE"
        ))?;
        Ok(Self { ca, certificate, key })
    }
}

// === impl Minisign ===

impl Minisign {
    /// Makes a key without a password.
    ///
    /// # Errors
    /// minisign fails.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let [secret, file] = ["key", "pub"].map(|kind| dir.join(format!("{name}.{kind}")).display().to_string());
        process::run(&Place::default(), &["minisign", "-G", "-W", "-f", "-s", &secret, "-p", &file])?;
        let public = fs::read_to_string(&file).context("read a public key")?;
        let public = public.lines().nth(1).unwrap_or_default().to_owned();
        Ok(Self { secret, public, file })
    }
}

/// Checks whether a URL answers: a registry that requires a password answers 401.
const ASK: &str = "import ssl, sys, urllib.request, urllib.error
try: urllib.request.urlopen(sys.argv[1], timeout=5, context=ssl._create_unverified_context())
except urllib.error.HTTPError: pass";

/// Writes requests with their authorization into a file, and answers all of them in the same way.
const WITNESS: &str = r#"import http.server, ssl, sys
address, log, answer, certificate, key = sys.argv[1:6]
host, port = address.rsplit(":", 1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(log, "a") as file: print(self.command, self.path, self.headers.get("Authorization"), file=file)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        elsewhere = answer.startswith("http") and self.path != "/v2/"
        self.send_response(307 if elsewhere else 200)
        if elsewhere: self.send_header("Location", answer)
        body = b"" if elsewhere else answer.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET
    def log_message(self, *more): pass
server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
open(log, "a").close()
server.serve_forever()
"#;
