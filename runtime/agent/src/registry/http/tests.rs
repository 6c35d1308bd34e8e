//! Registries that send too much, everywhere they can. A body here never ends, so a client that keeps all of it fails
//! by the memory of the machine; and one that logs in as registries want it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// The answer to a request: status, header lines, and a body; without one, spaces until the client goes.
struct Says {
    status: &'static str,
    headers: String,
    body: Option<String>,
}

fn endless(status: &'static str) -> Says {
    Says { status, headers: CHUNKED.to_owned(), body: None }
}

fn says(status: &'static str, headers: &str, body: &str) -> Says {
    let headers = format!("{headers}content-length: {}\r\n", body.len());
    Says { status, headers, body: Some(body.to_owned()) }
}

/// A registry on a port of its own. The function gets the path and the authorization of each request.
fn registry(answer: impl Fn(&str, Option<&str>) -> Says + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that has read enough closes the connection.
            serve(stream, &answer).ok();
        }
    });
    host
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&str, Option<&str>) -> Says) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let authorization = headers.iter().find_map(|line| line.strip_prefix("authorization: "));
    let Says { status, headers, body } = answer(&path, authorization);
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n")?;
    let Some(body) = body else {
        let spaces = " ".repeat(64 << 10);
        loop {
            write!(stream, "{:x}\r\n{spaces}\r\n", spaces.len())?;
        }
    };
    stream.write_all(body.as_bytes())
}

fn reader(host: &str, auth: RegistryAuth) -> Reader {
    rustls::crypto::ring::default_provider().install_default().ok();
    Reader::new(Client::builder().no_proxy().build().unwrap(), true, host, auth)
}

fn get(reader: &Reader, path: &str) -> Result<Vec<u8>, ReadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(reader.get("a/b", path, None, 1 << 20))
}

#[test]
fn a_body_without_end_is_too_large() {
    let host = registry(|path, _authorization| match path {
        "/v2/a/b/manifests/endless" => endless("200 OK"),
        "/v2/a/b/manifests/fits" => says("200 OK", "", &" ".repeat(1 << 20)),
        "/v2/a/b/manifests/one-more" => says("200 OK", "", &" ".repeat((1 << 20) + 1)),
        _ => says("200 OK", "", ""),
    });
    let reader = reader(&host, RegistryAuth::Anonymous);
    assert!(matches!(get(&reader, "manifests/endless"), Err(ReadError::TooLarge)));
    assert!(matches!(get(&reader, "manifests/one-more"), Err(ReadError::TooLarge)));
    assert_eq!(get(&reader, "manifests/fits").unwrap().len(), 1 << 20);
}

#[test]
fn an_error_without_end_is_an_error() {
    let host = registry(|path, _authorization| match path {
        "/v2/a/b/manifests/1" => endless("500 Internal Server Error"),
        "/v2/a/b/manifests/2" => {
            says("404 Not Found", "", r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no", "detail": null}]}"#)
        }
        // What this one says is never read.
        _ => endless("200 OK"),
    });
    let reader = reader(&host, RegistryAuth::Anonymous);
    let failed = get(&reader, "manifests/1").unwrap_err();
    let ReadError::Registry(OciDistributionError::ServerError { code, message, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!((code, message.len()), (500, ERROR_MAX));
    let unknown = get(&reader, "manifests/2").unwrap_err();
    assert!(matches!(unknown, ReadError::Registry(OciDistributionError::RegistryError { .. })), "{unknown:?}");
}

#[test]
fn a_token_without_end_is_too_large() {
    for status in ["200 OK", "403 Forbidden"] {
        let (tell, told) = std::sync::mpsc::channel::<String>();
        let host = registry(move |path, _authorization| match path.split('?').next() {
            Some("/v2/") => {
                let host = told.recv().unwrap();
                let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n");
                says("401 Unauthorized", &challenge, "")
            }
            _ => endless(status),
        });
        tell.send(host.clone()).unwrap();
        let failed = get(&reader(&host, RegistryAuth::Anonymous), "manifests/1").unwrap_err();
        let is_refused = matches!(failed, ReadError::Registry(OciDistributionError::AuthenticationFailure(_)));
        assert!(if status == "200 OK" { matches!(failed, ReadError::TooLarge) } else { is_refused }, "{failed:?}");
    }
}

#[test]
fn credentials_are_exchanged_for_a_token() {
    let (tell, told) = std::sync::mpsc::channel::<String>();
    // `user:pass` in base64.
    let basic = "Basic dXNlcjpwYXNz";
    let host = registry(move |path, authorization| match (path, authorization) {
        ("/v2/", _) => {
            let host = told.recv().unwrap();
            let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n");
            says("401 Unauthorized", &challenge, "")
        }
        ("/token?scope=repository%3Aa%2Fb%3Apull&service=s", Some(given)) if given == basic => {
            says("200 OK", "", r#"{"access_token": "abc"}"#)
        }
        ("/v2/a/b/tags/list", Some("Bearer abc")) => says("200 OK", "", "it"),
        _ => says("401 Unauthorized", "", ""),
    });
    tell.send(host.clone()).unwrap();
    let auth = RegistryAuth::Basic("user".to_owned(), "pass".to_owned());
    let reader = reader(&host, auth);
    assert_eq!(get(&reader, "tags/list").unwrap(), b"it");
    // The token is used again: the registry would answer the question for it only once.
    assert_eq!(get(&reader, "tags/list").unwrap(), b"it");
}

#[test]
fn credentials_do_not_leave_tls() {
    let (tls, plain) = ("https://registry.example/v2", "http://127.0.0.1:5000/v2");
    assert!(is_downgrade(tls, "http://registry.example/token"));
    assert!(is_downgrade(tls, "not a URL"));
    assert!(!is_downgrade(tls, "HTTPS://auth.example/token"));
    assert!(!is_downgrade(plain, "http://127.0.0.1:5000/token"));
}
