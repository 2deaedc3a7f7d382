//! The name server over the zone. It starts with the first snapshot that is served: an agent that
//! does not know its answers yet must be silent, since an empty zone would say that names do not
//! exist, and resolvers remember that. Where an address cannot be had, nothing is served until all
//! of them can, and that is tried again and again: the rest of the agent does not depend on it.
//!
//! Secrets of cookies live as long as the process, over any reload, unless they come from a file.
//! After a crash they are new, and clients get new cookies with their next answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nett_dns::Zone;
use nett_dns::{Cookies, Encrypted, Limits, Profile, Secret, Server, ServerHandle, Setup, Stats};
use nett_policy::id::{NodeId, WallMs};
use tokio::time::Instant;

use crate::api::types::RateLimitedDoc;
use crate::config::{
    CertificateFileError, CookiePolicy, Dns, EncryptedDns, Nsid, SecretsError, read_certificate,
    read_secrets,
};

/// How often a secret of the agent's own is replaced. The one before it stays good until then,
/// which is longer than a cookie lives (RFC 9018 section 5).
const ROTATION: Duration = Duration::from_secs(24 * 3600);

/// From one try to listen to the next: at first, doubled each time, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Not yet started, or running until it is dropped.
pub struct NameServer {
    listen: Vec<SocketAddr>,
    encrypted: Option<Encrypted>,
    limits: Limits,
    profile: Arc<Profile>,
    stats: Arc<Stats>,
    handle: Option<ServerHandle>,
    /// Why it does not listen.
    trouble: Option<String>,
    /// How often it has not, in a row, and when it is tried again.
    tries: u32,
    again: Option<Instant>,
}

/// Why the profile of the name server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("no random numbers for the secret of cookies: {0}")]
    Random(getrandom::Error),
}

// === impl NameServer ===

impl NameServer {
    /// Serves nothing, ever, when `dns.listen` is empty.
    ///
    /// # Errors
    /// Certificate or key cannot be used any more.
    pub fn new(
        dns: &Dns,
        profile: Arc<Profile>,
        stats: Arc<Stats>,
    ) -> Result<Self, CertificateFileError> {
        let (listen, limits) = (dns.listen.clone(), limits(dns));
        let encrypted = match &dns.encrypted {
            Some(EncryptedDns { tls, https, cert, key }) => Some(Encrypted {
                tls: tls.clone(),
                https: https.clone(),
                certificate: read_certificate(cert, key)?,
            }),
            None => None,
        };
        Ok(Self {
            listen,
            encrypted,
            limits,
            profile,
            stats,
            handle: None,
            trouble: None,
            tries: 0,
            again: None,
        })
    }

    /// While the site is cut off, its answers say so, in text and to who asks with EDNS.
    ///
    /// `since` is when another site was heard last.
    pub fn set_isolated(&self, since: Option<WallMs>) {
        self.profile.set_isolated(since.map(|at| at.0 / 1000));
    }

    /// Networks that got fewer answers than they asked for in the last minute.
    pub fn rate_limited(&self) -> Vec<RateLimitedDoc> {
        let doc = |limited: nett_dns::Limited| RateLimitedDoc {
            network: limited.network.to_string(),
            withheld: limited.withheld,
            age_ms: u64::try_from(limited.last.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.stats.limited().into_iter().map(doc).collect()
    }

    /// Starts serving the zone, unless it does so already, or could not a moment ago. Gives why it
    /// does not listen, where that is news; and, once it does after that, that nothing is wrong.
    pub fn start(&mut self, zone: &Arc<ArcSwap<Zone>>) -> Option<Option<String>> {
        let waits = self.again.is_some_and(|at| Instant::now() < at);
        if self.handle.is_some() || self.listen.is_empty() || waits {
            return None;
        }
        let started = Server::start(Setup {
            listen: self.listen.clone(),
            encrypted: self.encrypted.clone(),
            zone: zone.clone(),
            limits: self.limits.clone(),
            profile: self.profile.clone(),
            stats: self.stats.clone(),
        });
        let before = self.trouble.take();
        match started {
            Ok(handle) => {
                self.handle = Some(handle);
                (self.tries, self.again) = (0, None);
                before.map(|_| {
                    tracing::info!("The name server listens.");
                    None
                })
            }
            Err(error) => {
                self.again = Some(Instant::now() + pause(self.tries));
                self.tries = self.tries.saturating_add(1);
                self.trouble = Some(error.to_string());
                (self.trouble != before).then(|| {
                    tracing::error!(%error, "The name server does not listen; tried again.");
                    self.trouble.clone()
                })
            }
        }
    }

    /// When it is to be started again, while it cannot listen.
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Whether it has all its addresses; none where it is not to have any.
    pub fn is_listening(&self) -> Option<bool> {
        (!self.listen.is_empty()).then_some(self.handle.is_some())
    }

    /// It listens, or is not to.
    pub fn is_well(&self) -> bool {
        self.is_listening() != Some(false)
    }

    /// The addresses that it serves over UDP and TCP, with the ports really bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.handle.as_ref().map(ServerHandle::addresses).unwrap_or_default()
    }
}

/// How long after so many tries the next one is made.
fn pause(tries: u32) -> Duration {
    (FIRST_PAUSE * (1 << tries.min(8))).min(LONGEST_PAUSE)
}

fn limits(dns: &Dns) -> Limits {
    Limits {
        udp_threads: usize::from(dns.threads),
        equal_answers_per_second: dns.rate_limit,
        ..Limits::default()
    }
}

// === profile ===

/// Cookies with a secret that nobody else knows.
///
/// # Errors
/// The system gives no random numbers.
pub fn own_cookies() -> Result<Arc<Cookies>, ProfileError> {
    Ok(Arc::new(Cookies::new(random_secret()?, None)))
}

/// Replaces the secret once a day, for ever.
pub async fn rotate(cookies: Arc<Cookies>) {
    loop {
        tokio::time::sleep(ROTATION).await;
        match random_secret() {
            Ok(secret) => cookies.rotate(secret),
            Err(error) => tracing::error!(%error, "The secret of DNS cookies stays the same."),
        }
    }
}

fn random_secret() -> Result<Secret, ProfileError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(ProfileError::Random)?;
    Ok(Secret::new(bytes))
}

/// What this node's name server says about itself. `own` is used where no file has secrets.
///
/// # Errors
/// The file of secrets cannot be used any more.
pub fn profile(dns: &Dns, node: &NodeId, own: &Arc<Cookies>) -> Result<Profile, ProfileError> {
    let cookies = match (&dns.cookie_secrets, dns.cookies) {
        (_, CookiePolicy::Off) => None,
        (None, _) => Some(own.clone()),
        (Some(path), _) => {
            let (current, previous) = read_secrets(path)?;
            Some(Arc::new(Cookies::new(current, previous)))
        }
    };
    let nsid = match &dns.nsid {
        Nsid::Node => Some(node.as_str()),
        Nsid::Text(text) => Some(text.as_str()),
        Nsid::Off => None,
    };
    Ok(Profile {
        nsid: nsid.map(|text| text.as_bytes().into()),
        version: dns.version.clone(),
        hostname: dns.hostname.clone(),
        cookies,
        cookies_required: dns.cookies == CookiePolicy::Required,
        tcp_idle: Limits::default().tcp_idle,
        ..Profile::default()
    })
}
