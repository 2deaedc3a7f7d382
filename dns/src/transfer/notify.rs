//! Tells the secondaries that there is a new snapshot (RFC 1996).
//!
//! ```text
//! publish ── watch (newest serial) ──> one task per secondary: send, wait, send again
//! ```
//!
//! One thread of its own. Publishing puts a number into a watch and goes on. A secondary is told
//! at most every [`PAUSE`]; what is published in between is told together, since only the newest
//! serial counts. Who does not answer is asked again, ever more slowly, and given up after some
//! minutes: a secondary looks by itself every refresh interval. Messages are not signed: they say
//! only "ask", and what is asked then is signed.
//!
//! After a crash every secondary is told once at the start.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::access::Transfers;
use super::stats::Count;
use crate::message::HEADER_LEN;
use crate::own_runtime::OwnRuntime;
use crate::records::{Record, soa};
use crate::serial::Serial;
use crate::stats::Stats;
use crate::zone::Zone;

/// The least time between two messages to one secondary, but for the first repetition.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the first message may be unanswered; twice as long each time after.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Messages about one snapshot (RFC 1996 section 3.6 leaves the number to the server).
const TRIES: u32 = 10;

/// The thread; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Notifier {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Notifier {
    /// Messages leave from the first of `own` of the secondary's family, because a secondary knows
    /// its primary by address.
    pub(crate) fn start(
        zone: &Zone,
        transfers: &Arc<Transfers>,
        own: &[SocketAddr],
        stats: &Arc<Stats>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = OwnRuntime::build()?;
        let about = Arc::new(About {
            apex: zone.apex().name.wire().to_vec(),
            soa: soa(zone.apex(), zone.serial()),
        });
        transfers.publish(zone.serial());
        let mut tasks = Vec::new();
        for to in transfers.notified() {
            let from = own.iter().map(SocketAddr::ip).find(|ip| ip.is_ipv4() == to.is_ipv4());
            let from = from.unwrap_or(match to {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            });
            let (about, stats) = (Arc::clone(&about), Arc::clone(stats));
            tasks.push(tell(Line { from, to, about, stats }, transfers.watch(), stopped.clone()));
        }
        let body = move || {
            runtime.block_on(async move {
                let mut all = tokio::task::JoinSet::new();
                tasks.into_iter().for_each(|task| drop(all.spawn(task)));
                while all.join_next().await.is_some() {}
            });
        };
        let thread = std::thread::Builder::new().name("nett-dns-notify".to_owned()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("The thread that notifies secondaries panicked.");
        }
    }
}

/// What the messages are about.
struct About {
    apex: Vec<u8>,
    soa: Record,
}

/// One secondary.
struct Line {
    from: IpAddr,
    to: SocketAddr,
    about: Arc<About>,
    stats: Arc<Stats>,
}

/// Tells one secondary of every newest snapshot until the server stops.
async fn tell(
    line: Line,
    mut published: watch::Receiver<Option<Serial>>,
    mut stopped: watch::Receiver<bool>,
) {
    published.mark_changed();
    let work = async {
        while published.changed().await.is_ok() {
            let Some(serial) = *published.borrow_and_update() else { continue };
            line.until_heard(serial, &mut published).await;
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = work => {}
    }
}

impl Line {
    /// Repeats the message until it is answered, given up, or there is something newer to tell.
    async fn until_heard(&self, serial: Serial, newer: &mut watch::Receiver<Option<Serial>>) {
        let mut wait = FIRST_WAIT;
        for _ in 0..TRIES {
            let begun = Instant::now();
            let heard = tokio::select! {
                heard = self.once(serial, wait) => heard,
                _ = newer.changed() => {
                    newer.mark_changed();
                    return;
                }
            };
            match heard {
                Ok(true) => {
                    self.stats.transfers.count(Count::NotifyHeard);
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, to = %self.to, "Cannot notify a secondary.");
                }
            }
            // An error may come at once; it is no reason to hurry.
            let rest = timeout_at(begun + wait, newer.changed()).await;
            if rest.is_ok() {
                newer.mark_changed();
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        self.stats.transfers.count(Count::NotifyGivenUp);
        tracing::warn!(to = %self.to, serial = serial.0, "A secondary does not answer NOTIFY.");
    }

    /// Sends one message and waits for its answer. Each has a port and an id of its own, so that
    /// an answer can hardly be forged; a forged one would cost no more than a delay.
    async fn once(&self, serial: Serial, wait: Duration) -> io::Result<bool> {
        let socket = UdpSocket::bind(SocketAddr::new(self.from, 0)).await?;
        socket.connect(self.to).await?;
        let mut id = [0; 2];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut id)
            .map_err(|_| io::Error::other("no random numbers"))?;
        socket.send(&self.message(id, serial)).await?;
        self.stats.transfers.count(Count::NotifySent);
        let mut answer = [0; 512];
        let deadline = Instant::now() + wait;
        while let Ok(received) = timeout_at(deadline, socket.recv(&mut answer)).await {
            let length = received?;
            if is_answer(&answer[..length], id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The question for the SOA record with opcode NOTIFY, and the new SOA record as a hint
    /// (RFC 1996 section 3.7).
    fn message(&self, id: [u8; 2], serial: Serial) -> Vec<u8> {
        const NOTIFY_AA: u8 = (4 << 3) | 0x04;
        const SOA: u16 = 6;
        let About { apex, soa } = &*self.about;
        let mut message = vec![id[0], id[1], NOTIFY_AA, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        message.extend_from_slice(apex);
        message.extend_from_slice(&SOA.to_be_bytes());
        message.extend_from_slice(&1u16.to_be_bytes());
        message.extend_from_slice(&[0xc0, HEADER_LEN as u8]);
        message.extend_from_slice(&SOA.to_be_bytes());
        message.extend_from_slice(&1u16.to_be_bytes());
        message.extend_from_slice(&soa.ttl.to_be_bytes());
        let length = u16::try_from(soa.data.len()).expect("two names and five numbers");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&soa.data);
        let at = message.len() - 20;
        message[at..at + 4].copy_from_slice(&serial.0.to_be_bytes());
        message
    }
}

/// A response to NOTIFY with this id. Any response code will do: the secondary was reached, and
/// saying it again would not change its mind.
fn is_answer(message: &[u8], id: [u8; 2]) -> bool {
    const QR_OPCODE: u8 = 0xf8;
    const NOTIFY_ANSWER: u8 = 0x80 | (4 << 3);
    message.get(..2) == Some(&id) && message.get(2).is_some_and(|f| f & QR_OPCODE == NOTIFY_ANSWER)
}
