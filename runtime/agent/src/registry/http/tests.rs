//! Registries that send too much in every part of an answer, that redirect to other servers, and whose errors repeat
//! secrets. A body here never ends, so a client that keeps all of it runs out of memory. And a registry that asks for a
//! login as real ones do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
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

fn response(status: &'static str, headers: &str, body: &str) -> Says {
    let headers = format!("{headers}content-length: {}\r\n", body.len());
    Says { status, headers, body: Some(body.to_owned()) }
}

/// A registry on a port of its own. The function gets the method and the path, and the authorization of each request.
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

/// A registry that is told its own address, which some of its answers contain.
fn registry_at(answer: impl Fn(&str, &str, Option<&str>) -> Says + Send + 'static) -> String {
    let (tell, told) = channel::<String>();
    let own = std::cell::OnceCell::new();
    let host =
        registry(move |path, authorization| answer(own.get_or_init(|| told.recv().unwrap()), path, authorization));
    tell.send(host.clone()).unwrap();
    host
}

/// A server that is nobody's registry, and the requests that it gets.
fn other_server(answer: &'static str) -> (String, Receiver<(String, Option<String>)>) {
    let (tell, told) = channel();
    let host = registry(move |path, authorization| {
        tell.send((path.to_owned(), authorization.map(str::to_owned))).ok();
        response("200 OK", "", answer)
    });
    (host, told)
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&str, Option<&str>) -> Says) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let request = first.rsplit_once(' ').map_or("", |(request, _version)| request);
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name));
    let length = header("content-length: ").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
    // A read is named by its path alone.
    let Says { status, headers, body } =
        answer(request.strip_prefix("GET ").unwrap_or(request), header("authorization: "));
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n")?;
    if request.starts_with("HEAD ") {
        return Ok(());
    }
    let Some(body) = body else {
        let spaces = " ".repeat(64 << 10);
        loop {
            write!(stream, "{:x}\r\n{spaces}\r\n", spaces.len())?;
        }
    };
    stream.write_all(body.as_bytes())
}

fn http(host: &str, auth: RegistryAuth, plain: &[String]) -> Http {
    rustls::crypto::ring::default_provider().install_default().ok();
    let base = format!("http://{host}/v2");
    let servers = Servers::new(Url::parse(&base).unwrap(), plain);
    let client = || Client::builder().no_proxy().redirect(servers.redirects()).build().unwrap();
    Http::new(Clients { client: client(), uploads: client() }, &base, servers.clone(), auth)
}

fn reader(host: &str, auth: RegistryAuth) -> Http {
    http(host, auth, &[])
}

fn user() -> RegistryAuth {
    RegistryAuth::Basic("user".to_owned(), "pass".to_owned())
}

/// `user:pass` in base64.
const BASIC: &str = "Basic dXNlcjpwYXNz";

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn get(http: &Http, path: &str) -> Result<Vec<u8>, HttpError> {
    wait(http.get(Get { repository: "a/b", path, accept: None, most: 1 << 20, rights: Rights::Pull }))
}

fn challenge(realm: &str) -> String {
    format!("www-authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n")
}

#[test]
fn a_body_without_end_is_too_large() {
    let host = registry(|path, _authorization| match path {
        "/v2/a/b/manifests/endless" => endless("200 OK"),
        "/v2/a/b/manifests/fits" => response("200 OK", "", &" ".repeat(1 << 20)),
        "/v2/a/b/manifests/one-more" => response("200 OK", "", &" ".repeat((1 << 20) + 1)),
        _ => response("200 OK", "", ""),
    });
    let reader = reader(&host, RegistryAuth::Anonymous);
    assert!(matches!(get(&reader, "manifests/endless"), Err(HttpError::TooLarge)));
    assert!(matches!(get(&reader, "manifests/one-more"), Err(HttpError::TooLarge)));
    assert_eq!(get(&reader, "manifests/fits").unwrap().len(), 1 << 20);
}

#[test]
fn an_error_without_end_is_an_error() {
    let host = registry(|path, _authorization| match path {
        "/v2/a/b/manifests/1" => endless("500 Internal Server Error"),
        "/v2/a/b/manifests/2" => response(
            "404 Not Found",
            "",
            r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no", "detail": null}]}"#,
        ),
        // What this one says is never read.
        _ => endless("200 OK"),
    });
    let reader = reader(&host, RegistryAuth::Anonymous);
    let failed = get(&reader, "manifests/1").unwrap_err();
    let HttpError::Registry(OciDistributionError::ServerError { code, message, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!((code, message.as_str()), (500, ""));
    let unknown = get(&reader, "manifests/2").unwrap_err();
    assert!(matches!(unknown, HttpError::Registry(OciDistributionError::RegistryError { .. })), "{unknown:?}");
}

/// A registry may lead to any server with its errors, so what those say is not kept.
#[test]
fn an_error_that_is_no_registrys_is_not_repeated() {
    let host = registry(|path, _authorization| match path {
        "/v2/a/b/manifests/envelope" => {
            response("400 Bad Request", "", r#"{"errors": [{"code": "MANIFEST_INVALID", "message": "no layer"}]}"#)
        }
        "/v2/a/b/manifests/list" => response("400 Bad Request", "", r#"{"errors": ["the secret"]}"#),
        "/v2/a/b/manifests/text" => response("418 I'm a teapot", "", "the secret"),
        _ => response("200 OK", "", ""),
    });
    let reader = reader(&host, RegistryAuth::Anonymous);
    let image = crate::artifact::Image::parse("127.0.0.1:5000/a/b:1").unwrap();
    let said = |path: &str| {
        let HttpError::Registry(error) = get(&reader, path).unwrap_err() else { panic!("{path}") };
        crate::registry::RegistryError::from_oci(&image, "the manifest", error).to_string()
    };
    assert_eq!(said("manifests/text"), "registry 127.0.0.1:5000 failed: it answers with the HTTP status 418");
    assert_eq!(said("manifests/list"), "registry 127.0.0.1:5000 failed: it answers with the HTTP status 400");
    assert_eq!(said("manifests/envelope"), "registry 127.0.0.1:5000 failed: it says \"no layer\"");
}

#[test]
fn a_redirect_to_another_server_of_the_node_is_not_followed() {
    let (other, asked) = other_server("the secret");
    let to = format!("location: http://{other}/secret\r\n");
    let host = registry(move |path, _authorization| match path {
        "/v2/a/b/manifests/1" => response("307 Temporary Redirect", &to, ""),
        "/v2/a/b/manifests/2" => response("302 Found", "location: /v2/a/b/manifests/here\r\n", ""),
        "/v2/a/b/manifests/3" => response("302 Found", "location: /v2/a/b/manifests/3\r\n", ""),
        _ => response("200 OK", "", "it"),
    });
    let failed = get(&reader(&host, RegistryAuth::Anonymous), "manifests/1").unwrap_err();
    let HttpError::Astray(astray) = failed else { panic!("{failed:?}") };
    assert!(astray.to_string().contains(&format!("--plain-http {other}")), "{astray}");
    assert!(asked.try_recv().is_err(), "the server was asked");
    // The operator may name it.
    let named = http(&host, user(), std::slice::from_ref(&other));
    assert_eq!(get(&named, "manifests/1").unwrap(), b"the secret");
    assert_eq!(asked.recv().unwrap(), ("/secret".to_owned(), None));
    let reader = reader(&host, RegistryAuth::Anonymous);
    assert_eq!(get(&reader, "manifests/2").unwrap(), b"it");
    assert!(matches!(get(&reader, "manifests/3"), Err(HttpError::Astray(_))));
}

/// Neither with credentials nor without: the answer would go to the registry, as a token.
#[test]
fn a_token_server_that_is_another_server_of_the_node_is_not_asked() {
    let (other, asked) = other_server(r#"{"token": "the secret"}"#);
    let realm = challenge(&format!("http://{other}/token"));
    let host = registry(move |path, authorization| match path {
        "/v2/" => response("401 Unauthorized", &realm, ""),
        _ => response("200 OK", "", authorization.unwrap_or_default()),
    });
    for auth in [RegistryAuth::Anonymous, user()] {
        let failed = get(&reader(&host, auth.clone()), "manifests/1").unwrap_err();
        let HttpError::Astray(astray) = failed else { panic!("{failed:?}") };
        assert!(astray.to_string().contains("it gets no request for a token"), "{astray}");
        assert!(asked.try_recv().is_err(), "the server was asked");
        let pushed = wait(reader(&host, auth).put_blob("a/b", b"blob"));
        assert!(matches!(pushed, Err(HttpError::Astray(_))), "{pushed:?}");
        assert!(asked.try_recv().is_err(), "the server was asked for a push");
    }
    let named = http(&host, user(), std::slice::from_ref(&other));
    assert_eq!(get(&named, "manifests/1").unwrap(), b"Bearer the secret");
}

#[test]
fn a_token_without_end_is_too_large() {
    for status in ["200 OK", "403 Forbidden"] {
        let host = registry_at(move |own, path, _authorization| match path.split('?').next() {
            Some("/v2/") => response("401 Unauthorized", &challenge(&format!("http://{own}/token")), ""),
            _ => endless(status),
        });
        let failed = get(&reader(&host, RegistryAuth::Anonymous), "manifests/1").unwrap_err();
        let is_refused = matches!(failed, HttpError::Registry(OciDistributionError::AuthenticationFailure(_)));
        assert!(if status == "200 OK" { matches!(failed, HttpError::TooLarge) } else { is_refused }, "{failed:?}");
    }
}

#[test]
fn a_text_that_is_not_a_token_is_not_repeated() {
    let host = registry_at(|own, path, _authorization| match path.split('?').next() {
        Some("/v2/") => response("401 Unauthorized", &challenge(&format!("http://{own}/token")), ""),
        _ => response("200 OK", "", "\"the secret\""),
    });
    let failed = get(&reader(&host, RegistryAuth::Anonymous), "manifests/1").unwrap_err();
    assert!(!format!("{failed:?}").contains("secret"), "{failed:?}");
}

#[test]
fn credentials_are_exchanged_for_a_token() {
    let answered = std::cell::Cell::new(0);
    let host = registry_at(move |own, path, authorization| match (path, authorization) {
        ("/v2/", _) => response("401 Unauthorized", &challenge(&format!("http://{own}/token")), ""),
        ("/token?scope=repository%3Aa%2Fb%3Apull&service=s", Some(BASIC)) => {
            answered.set(answered.get() + 1);
            response("200 OK", "", &format!(r#"{{"access_token": "abc{}"}}"#, answered.get()))
        }
        ("/v2/a/b/tags/list", Some("Bearer abc1")) => response("200 OK", "", "it"),
        _ => response("401 Unauthorized", "", ""),
    });
    let reader = reader(&host, user());
    assert_eq!(get(&reader, "tags/list").unwrap(), b"it");
    // The token is used again.
    assert_eq!(get(&reader, "tags/list").unwrap(), b"it");
}

/// An upload has a token of its own, and only the registry sees it.
#[test]
fn a_push_uploads_what_is_missing() {
    let (storage, stored) = other_server("");
    let place = format!("location: http://{storage}/x?state=1\r\n");
    let host = registry_at(move |own, request, authorization| match (request, authorization) {
        ("/v2/", _) => response("401 Unauthorized", &challenge(&format!("http://{own}/token")), ""),
        ("/token?scope=repository%3Aa%2Fb%3Apull%2Cpush&service=s", Some(BASIC)) => {
            response("200 OK", "", r#"{"token": "t"}"#)
        }
        (_, given) if given != Some("Bearer t") => response("401 Unauthorized", "", ""),
        (request, _) if request.starts_with("HEAD /v2/a/b/blobs/sha256:e3b0") => response("200 OK", "", ""),
        ("POST /v2/a/b/blobs/uploads/", _) => response("202 Accepted", &place, ""),
        ("PUT /v2/a/b/manifests/1", _) => response("201 Created", "", ""),
        _ => response("404 Not Found", "", ""),
    });
    let http = http(&host, user(), std::slice::from_ref(&storage));
    wait(http.put_blob("a/b", b"")).unwrap();
    assert!(stored.try_recv().is_err(), "it is there already");
    wait(http.put_blob("a/b", b"blob")).unwrap();
    let (path, authorization) = stored.recv().unwrap();
    assert!(path.starts_with("PUT /x?state=1&digest=sha256%3A") && authorization.is_none(), "{path} {authorization:?}");
    wait(http.put_manifest("a/b", "1", "application/json", b"{}")).unwrap();
    let refused = wait(reader(&host, user()).put_blob("a/b", b"blob"));
    assert!(matches!(refused, Err(HttpError::Astray(_))), "{refused:?}");
}
