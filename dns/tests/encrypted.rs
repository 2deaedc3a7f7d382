//! DNS over TLS and over HTTPS, asked with `kdig`, `dig` and `curl`.

mod sample;
mod serve;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nett_dns::{Certificate, CertificateError, Encrypted, Limits, Setup};
use tempfile::TempDir;

use serve::{Running, query, setup};

const HOST: &str = "ns1.steer.example";
const NAME: &str = "api.prod.shop.steer.example.";
const PATIENCE: Duration = Duration::from_secs(10);

/// A server with a certificate of its own authority, which is a file in the directory.
fn server(limits: Limits) -> (Running, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(directory.path().join("ca.pem"), &chain).expect("writable");
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("valid");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let encrypted = Some(Encrypted { tls: vec![any], https: vec![any], certificate });
    (Running::of(Setup { encrypted, ..setup(&[any], limits) }), directory)
}

fn output(command: &mut Command, package: &str) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("install {package}: {e}"))
}

fn kdig(at: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("kdig");
    command.args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+retry=0"]);
    let ran = output(command.args(arguments), "knot-dnsutils");
    let text = String::from_utf8(ran.stdout).expect("kdig writes text");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{arguments:?}: {text}{errors}");
    text
}

/// Status, headers in lower case, body.
fn curl(directory: &Path, at: SocketAddr, path: &str, more: &[&str]) -> (u16, String, Vec<u8>) {
    let (headers, body) = (directory.join("headers"), directory.join("body"));
    let url = format!("https://{HOST}:{}{path}", at.port());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http2", "--max-time", "10", "--noproxy", "*"]);
    command.arg("--resolve").arg(format!("{HOST}:{}:{}", at.port(), at.ip()));
    command.arg("--cacert").arg(directory.join("ca.pem"));
    command.arg("--dump-header").arg(&headers).arg("--output").arg(&body);
    let _ = std::fs::remove_file(&body);
    let ran = output(command.args(more).arg(url), "curl");
    let headers = std::fs::read_to_string(headers).expect("headers").to_ascii_lowercase();
    assert!(ran.status.success(), "{path}: {}", String::from_utf8_lossy(&ran.stderr));
    let status = headers.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    (status.expect("a status"), headers, std::fs::read(body).unwrap_or_default())
}

fn dns_get(message: &[u8]) -> String {
    format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(message))
}

#[test]
fn dns_over_tls_answers_kdig_and_dig() {
    let (server, directory) = server(Limits::default());
    let ca = format!("+tls-ca={}", directory.path().join("ca.pem").display());
    let host = format!("+tls-hostname={HOST}");
    let text = kdig(server.tls[0], &["+tls", &ca, &host, NAME, "A"]);
    assert!(text.contains("192.0.2.1") && text.contains("status: NOERROR"), "{text}");
    assert!(text.contains(";; TLS session (TLS1.3)"), "{text}");
    // Whoever asks for padding gets a length that tells nothing (RFC 8467).
    let text = kdig(server.tls[0], &["+tls", "+padding=128", &ca, &host, NAME, "A"]);
    assert!(text.contains("PADDING") && text.contains("Received 468 B"), "{text}");
    let wide = kdig(server.tls[0], &["+tls", &ca, &host, "wide.prod.shop.steer.example.", "A"]);
    assert!(wide.contains("ANSWER: 256"), "{wide}");

    let mut dig = Command::new("dig");
    dig.args(["-r", "+tls", "+keepalive", "-p", &server.tls[0].port().to_string()]);
    let text = output(dig.args(["@127.0.0.1", NAME, "A"]), "bind9-dnsutils").stdout;
    let text = String::from_utf8(text).expect("dig writes text");
    assert!(text.contains("192.0.2.1") && text.contains("TCP KEEPALIVE: 5.0 secs"), "{text}");
    let counted: u64 = server.stats.queries().filter(|q| q.1 == "tls").map(|q| q.2).sum();
    assert_eq!(counted, 4);
}

#[test]
fn dns_over_https_answers_kdig_and_dig() {
    let (server, directory) = server(Limits::default());
    let at = server.https[0];
    let ca = format!("+tls-ca={}", directory.path().join("ca.pem").display());
    let host = format!("+tls-hostname={HOST}");
    for way in ["+https", "+https-get"] {
        let text = kdig(at, &["+https", way, &ca, &host, NAME, "A"]);
        assert!(text.contains("192.0.2.1"), "{way}: {text}");
        assert!(text.contains(";; HTTP session (HTTP/2-"), "{way}: {text}");
    }
    let mut dig = Command::new("dig");
    dig.args(["-r", "+https", "-p", &at.port().to_string(), "@127.0.0.1", NAME, "AAAA"]);
    let text = String::from_utf8(output(&mut dig, "bind9-dnsutils").stdout).expect("text");
    assert!(text.contains("2001:db8::1") && text.contains("(HTTPS)"), "{text}");
}

#[test]
fn responses_say_how_long_they_may_be_kept_and_by_whom() {
    let (server, directory) = server(Limits::default());
    let at = server.https[0];
    for (name, kind, keep) in [
        (NAME, RecordType::A, "private, max-age=30"),
        ("steer.example.", RecordType::NS, "private, max-age=3600"),
        ("nothing.steer.example.", RecordType::A, "private, max-age=10"),
        ("reflect.steer.example.", RecordType::TXT, "no-store"),
        ("example.org.", RecordType::A, "no-store"),
    ] {
        let question = query(name, kind, Some(1232));
        let got = curl(directory.path(), at, &dns_get(&question), &[]);
        let file = directory.path().join("question");
        std::fs::write(&file, &question).expect("writable");
        let data = format!("@{}", file.display());
        let post = ["--data-binary", &data, "--header", "content-type: application/dns-message"];
        let posted = curl(directory.path(), at, "/dns-query", &post);
        for (status, headers, body) in [got, posted] {
            assert_eq!(status, 200, "{name}: {headers}");
            assert!(headers.contains(&format!("cache-control: {keep}\r\n")), "{name}: {headers}");
            assert!(headers.contains("content-type: application/dns-message\r\n"), "{headers}");
            assert_eq!(body, server.ask_udp(&question), "{name}: the same as over UDP");
            assert!(Message::from_vec(&body).is_ok());
        }
    }
}

#[test]
fn requests_that_are_no_questions_get_a_status() {
    let (server, directory) = server(Limits::default());
    let good = dns_get(&query(NAME, RecordType::A, None));
    for (path, more, expected) in [
        ("/", &[][..], 404),
        ("/dns-query", &[], 400),
        ("/dns-query?dns=", &[], 400),
        ("/dns-query?dns=!!!!", &[], 400),
        ("/dns-query?dns=AAAA", &[], 400),
        ("/dns-query?x=1&dns=AAAA", &[], 400),
        (&good, &["--request", "DELETE"], 405),
        ("/dns-query", &["--data", "x"], 415),
        (&good, &[], 200),
    ] {
        let (status, headers, _) = curl(directory.path(), server.https[0], path, more);
        assert_eq!(status, expected, "{path} {more:?}: {headers}");
        assert_eq!(headers.contains("allow: get, post"), expected == 405, "{headers}");
    }
}

#[test]
fn handshakes_and_idle_connections_have_limits() {
    let idle = Duration::from_millis(300);
    let (server, directory) =
        server(Limits { tcp_idle: idle, tcp_per_source: 2, ..Limits::default() });
    for at in [server.tls[0], server.https[0]] {
        // One says nothing, one says what is no handshake.
        let started = Instant::now();
        let mut silent = TcpStream::connect(at).expect("connected");
        silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut odd = TcpStream::connect(at).expect("connected");
        odd.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        odd.write_all(&[0; 64]).expect("sent");
        assert_eq!(silent.read(&mut [0; 16]).expect("the end"), 0);
        assert!(started.elapsed() >= idle);
        let mut rest = Vec::new();
        // An alert, and then the end.
        let _ = odd.read_to_end(&mut rest);
        let place_back = Instant::now();
        loop {
            let question = dns_get(&query(NAME, RecordType::A, None));
            let url = format!("https://{HOST}:{}{question}", server.https[0].port());
            let resolve = format!("{HOST}:{}:127.0.0.1", server.https[0].port());
            let mut command = Command::new("curl");
            command.args(["--silent", "--max-time", "5", "--resolve", &resolve, "--cacert"]);
            command.arg(directory.path().join("ca.pem")).args(["--output", "/dev/null", &url]);
            if output(&mut command, "curl").status.success() {
                break;
            }
            assert!(place_back.elapsed() < PATIENCE, "the places never came back");
        }
    }
    let dropped = |reason: &str| -> u64 {
        server.stats.dropped().filter(|d| d.0 == reason).map(|d| d.1).sum()
    };
    assert_eq!(dropped("handshake"), 4);
    // The third connection of one source is above its limit.
    let first = [(); 2].map(|()| TcpStream::connect(server.tls[0]).expect("connected"));
    let started = Instant::now();
    while dropped("connection_limit") == 0 {
        let _ = TcpStream::connect(server.tls[0]).expect("connected");
        assert!(started.elapsed() < PATIENCE, "no limit");
    }
    drop(first);
}

#[test]
fn what_is_no_certificate_is_refused() {
    let one = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    let of = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes());
    assert!(of(&chain, &key).is_ok());
    assert!(matches!(of("", &key), Err(CertificateError::Empty)));
    assert!(matches!(of(&chain, ""), Err(CertificateError::Key(_))));
    assert!(matches!(of(&chain, &chain), Err(CertificateError::Key(_))));
    let wrong = of(&chain, &other.signing_key.serialize_pem());
    assert!(matches!(wrong, Err(CertificateError::Unusable(_))));
    assert_eq!(format!("{:?}", of(&chain, &key).expect("valid")), "Certificate");
}
