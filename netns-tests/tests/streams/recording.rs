//! Everything that is said on the bus, written down by the admin's key and said again.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use async_nats::Message;
use futures::StreamExt;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::topology::Site;
use tokio::sync::oneshot;

/// What Nett says, and what is answered. The servers' own talk is not Nett's.
const SUBJECTS: [&str; 2] = ["nett.>", "_INBOX.>"];

/// What was said at one site's server, in order.
pub(crate) struct Recording {
    site: Site,
    messages: Vec<Message>,
}

/// Runs `story` while the servers of `sites` are listened to.
pub(crate) fn while_recorded<T: Send>(
    lab: &Lab,
    sites: &[Site],
    story: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Recording>)> {
    std::thread::scope(|scope| {
        let mut listening = Vec::new();
        for site in sites.iter().copied() {
            let (begun, begins) = std::sync::mpsc::channel();
            let (end, ended) = oneshot::channel();
            let listener = scope.spawn(move || {
                super::at(lab, site, async move |client, _| listen(client, begun, ended).await)
            });
            begins.recv().context("the recording did not begin")?;
            listening.push((site, end, listener));
        }
        let told = story()?;
        let mut recordings = Vec::new();
        for (site, end, listener) in listening {
            end.send(()).ok().context("the recording ended by itself")?;
            let messages = listener.join().expect("no panic")?;
            recordings.push(Recording { site, messages });
        }
        Ok((told, recordings))
    })
}

async fn listen(
    client: async_nats::Client,
    begun: std::sync::mpsc::Sender<()>,
    mut ended: oneshot::Receiver<()>,
) -> Result<Vec<Message>> {
    let [said, answered] = SUBJECTS;
    let said = client.subscribe(said).await?;
    let mut all = futures::stream::select(said, client.subscribe(answered).await?);
    client.flush().await?;
    begun.send(())?;
    let mut messages = Vec::new();
    loop {
        tokio::select! {
            message = all.next() => messages.push(message.context("the bus ended")?),
            _ = &mut ended => return Ok(messages),
        }
    }
}

// === impl Recording ===

impl Recording {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// How many messages have a subject that begins so.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.messages.iter().filter(|m| m.subject.starts_with(prefix)).count()
    }

    /// Says all of it twice again, each time in another order.
    pub(crate) fn say_again(&self, lab: &Lab) -> Result<()> {
        super::at(lab, self.site, async move |client, _| {
            for _ in 0..2 {
                for message in shuffled(&self.messages) {
                    let Message { subject, reply, payload, headers, .. } = message.clone();
                    let headers = headers.unwrap_or_default();
                    match reply {
                        Some(reply) => {
                            client
                                .publish_with_reply_and_headers(subject, reply, headers, payload)
                                .await?;
                        }
                        None => client.publish_with_headers(subject, headers, payload).await?,
                    }
                }
                client.flush().await?;
            }
            Ok(())
        })
    }
}

/// By a generator that begins with the time: which order it is must not matter.
fn shuffled(messages: &[Message]) -> Vec<&Message> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let mut state = u64::from(now.subsec_nanos()) | 1;
    let mut keyed: Vec<(u64, &Message)> = Vec::new();
    for message in messages {
        // Marsaglia, Xorshift RNGs (2003): period 2^64 - 1.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        keyed.push((state, message));
    }
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, message)| message).collect()
}
