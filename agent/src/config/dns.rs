//! The `[dns]` part of `agent.toml`: where the name server listens, what it says about itself, and
//! how much it gives to one client.
//!
//! Files named here are read once to report what is wrong with them; their content is no part of
//! the configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nett_dns::{Certificate, CertificateError, LONGEST_NSID, Secret};
use nett_policy::document::form::{self, Flaw};
use nett_policy::document::{At, Code, Reader, Section};

use super::file::{path, socket_address};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Never a wildcard. No DNS is served when empty.
    pub listen: Vec<SocketAddr>,
    pub encrypted: Option<EncryptedDns>,
    /// 1 to 64.
    pub threads: u8,
    /// Equal answers a second to one network; 0 for no limit.
    pub rate_limit: u32,
    pub nsid: Nsid,
    /// Answer to `version.bind`; REFUSED without.
    pub version: Option<String>,
    /// Answer to `hostname.bind`; REFUSED without.
    pub hostname: Option<String>,
    pub cookies: CookiePolicy,
    /// Secrets of cookies; without, the agent makes its own.
    pub cookie_secrets: Option<PathBuf>,
    /// File of the keys that secondaries sign with, as `tsig-keygen` writes it.
    pub tsig_keys: Option<At<PathBuf>>,
    /// Directory of the keys that the zone is signed with.
    pub key_dir: Option<At<PathBuf>>,
}

/// Where DNS is served inside TLS, and with what certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDns {
    /// DNS over TLS. Never a wildcard.
    pub tls: Vec<SocketAddr>,
    /// DNS over HTTPS. Never a wildcard.
    pub https: Vec<SocketAddr>,
    /// PEM: the server's certificate and those between it and a root.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// The name server identifier (RFC 5001).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nsid {
    /// The id of the node.
    Node,
    Text(String),
    Off,
}

/// DNS cookies (RFC 7873).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookiePolicy {
    Off,
    /// Given to who asks; a good one lifts the rate limit.
    On,
    /// Besides, who sends a client cookie over UDP needs a good server cookie.
    Required,
}

/// Why a file of secrets cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("cannot read the secrets of cookies in {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} does not hold one or two lines of 32 hexadecimal digits")]
    Form(PathBuf),
}

/// Why certificate or key cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{cert} with {key}: {source}")]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: CertificateError,
    },
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            encrypted: None,
            threads: 1,
            rate_limit: nett_dns::Limits::default().equal_answers_per_second,
            nsid: Nsid::Node,
            version: None,
            hostname: None,
            cookies: CookiePolicy::On,
            cookie_secrets: None,
            tsig_keys: None,
            key_dir: None,
        }
    }
}

/// The certificate of the encrypted transports.
///
/// # Errors
/// A file cannot be read, or they are no certificate and its key. No part of the key is in it.
pub fn read_certificate(cert: &Path, key: &Path) -> Result<Certificate, CertificateFileError> {
    let read = |path: &Path| {
        let failed = |source| CertificateFileError::Read { path: path.to_owned(), source };
        std::fs::read(path).map_err(failed)
    };
    let unusable = |source| {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        CertificateFileError::Unusable { cert, key, source }
    };
    Certificate::from_pem(&read(cert)?, &read(key)?).map_err(unusable)
}

/// The secret to sign with, and the one before it.
///
/// # Errors
/// The file cannot be read, or has another form. No part of it is in the error.
pub fn read_secrets(path: &Path) -> Result<(Secret, Option<Secret>), SecretsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SecretsError::Read { path: path.to_owned(), source })?;
    let secret = |line: &str| {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(line.as_bytes()).ok()?;
        Some(Secret::new(bytes.try_into().ok()?))
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let secrets: Option<Vec<Secret>> = lines.into_iter().map(secret).collect();
    match secrets.as_deref() {
        Some([one]) => Ok((*one, None)),
        Some([one, before]) => Ok((*one, Some(*before))),
        _ => Err(SecretsError::Form(path.to_owned())),
    }
}

pub(super) fn read(r: &Reader<'_>, s: &Section<'_, '_>, directory: &Path) -> Dns {
    let defaults = Dns::default();
    let addresses = |key| {
        let found = s.optional(key).map(|v| r.items(v, |v| r.parse_text(v, service_address)));
        found.unwrap_or_default()
    };
    let (listen, tls, https) = (addresses("listen"), addresses("tls"), addresses("https"));
    // All of them are TCP sockets too.
    once_each(r, &[&listen[..], &tls, &https].concat());
    let threads = s.optional("threads").and_then(|v| r.integer(v, 1..=64_u8));
    let rate = s.optional("rate_limit").and_then(|v| r.integer(v, 0..=1_000_000_u32));
    let at = |key| {
        let found = s.optional(key).and_then(|v| r.parse_text(v, path))?;
        Some(At { value: directory.join(found.value), span: s.span_of(key) })
    };
    let words = |key| s.optional(key).and_then(|v| r.parse_text(v, form::words));
    let policies = [
        ("off", CookiePolicy::Off),
        ("on", CookiePolicy::On),
        ("required", CookiePolicy::Required),
    ];
    let cookies = s.optional("cookies").and_then(|v| r.choice(v, &policies));
    let secrets = s.optional("cookie_secrets").and_then(|v| r.parse_text(v, path));
    let secrets = secrets.map(|file| file.map(|p| directory.join(p)));
    if let Some(At { value, span }) = &secrets
        && let Err(error) = read_secrets(value)
    {
        let hint = "the first line signs, the second is what signed before; \
                    `openssl rand -hex 16` makes one";
        r.report(r.mistake(Code::BadKeyFile, *span, error.to_string()).hint(hint));
    }
    Dns {
        listen: plain(listen),
        encrypted: encrypted(r, s, directory, (plain(tls), plain(https))),
        threads: threads.map_or(defaults.threads, |t| t.value),
        rate_limit: rate.map_or(defaults.rate_limit, |r| r.value),
        nsid: s
            .optional("nsid")
            .and_then(|v| r.parse_text(v, nsid))
            .map_or(Nsid::Node, |n| n.value),
        version: words("version").map(|w| w.value),
        hostname: words("hostname").map(|w| w.value),
        cookies: cookies.map_or(defaults.cookies, |c| c.value),
        cookie_secrets: secrets.map(|s| s.value),
        tsig_keys: at("tsig_keys"),
        key_dir: at("key_dir"),
    }
}

fn plain(addresses: Vec<At<SocketAddr>>) -> Vec<SocketAddr> {
    addresses.into_iter().map(|address| address.value).collect()
}

/// Certificate and key come together, and are there where something is served with them.
fn encrypted(
    r: &Reader<'_>,
    s: &Section<'_, '_>,
    directory: &Path,
    (tls, https): (Vec<SocketAddr>, Vec<SocketAddr>),
) -> Option<EncryptedDns> {
    let any = ["tls", "https", "cert", "key"].into_iter().any(|key| s.optional(key).is_some());
    let file = |key| {
        let found = if any { s.required(key) } else { None };
        found.and_then(|v| r.parse_text(v, path)).map(|file| file.map(|p| directory.join(p)))
    };
    let (cert, key) = (file("cert"), file("key"));
    let (cert, key) = (cert?, key?);
    if let Err(error) = read_certificate(&cert.value, &key.value) {
        let hint = "PEM files: the server's certificate with those above it, and its private key";
        r.report(r.mistake(Code::BadKeyFile, cert.span, error.to_string()).hint(hint));
    }
    Some(EncryptedDns { tls, https, cert: cert.value, key: key.value })
}

/// Answers from a wildcard socket leave with the routed source address, which clients drop.
fn service_address(text: &str) -> Result<SocketAddr, Flaw> {
    let address = socket_address(text)?;
    if address.ip().is_unspecified() {
        let message = format!("`{text}` listens on every address");
        return Err(Flaw::new(Code::BadAddress, message)
            .hint("list each service address: answers must leave from the address asked"));
    }
    Ok(address)
}

fn once_each(r: &Reader<'_>, listen: &[At<SocketAddr>]) {
    for (at, address) in listen.iter().enumerate() {
        let first = listen[..at].iter().find(|l| l.value == address.value);
        if let Some(first) = first.filter(|_| address.value.port() != 0) {
            let message = format!("`{}` stands twice", address.value);
            r.report(
                r.mistake(Code::DuplicateAddress, address.span, message)
                    .related(r.place(first.span), "first here"),
            );
        }
    }
}

fn nsid(text: &str) -> Result<Nsid, Flaw> {
    if text == "off" {
        return Ok(Nsid::Off);
    }
    let text = form::words(text)?;
    if text.len() > LONGEST_NSID {
        let message = format!("the identifier has more than {LONGEST_NSID} bytes");
        return Err(Flaw::new(Code::BadValue, message));
    }
    Ok(Nsid::Text(text))
}
