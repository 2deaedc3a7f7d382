//! Logins with keys of the lab, as a program of somebody else uses the bus.

use std::time::Duration;

use anyhow::Result;
use async_nats::{Client, ConnectOptions};
use nett_netns_tests::files;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::signed::Message;
use nett_netns_tests::topology::Site;
use serde_json::Value;

pub(crate) fn options(lab: &Lab, name: &str) -> Result<ConnectOptions> {
    let seed = std::fs::read_to_string(lab.keys().seed(name))?;
    let tls = |file: &str| lab.layout().tls().join(file);
    Ok(ConnectOptions::with_nkey(seed.trim().to_owned())
        .add_root_certificates(tls("ca.crt"))
        .add_client_certificate(tls(&format!("{name}.crt")), tls(&format!("{name}.key")))
        .require_tls(true)
        .custom_inbox_prefix("_INBOX.op"))
}

/// Does something asynchronous inside a site's client host.
pub(crate) fn at_client<T: Send>(
    lab: &Lab,
    site: Site,
    job: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    lab.ns(&format!("{}-c1", site.id))?.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(job())
    })
}

/// Asks as somebody at a site's server; gives the answer.
pub(crate) fn ask(lab: &Lab, site: Site, name: &str, message: &Message) -> Result<Value> {
    let options = options(lab, name)?;
    at_client(lab, site, async || {
        let client: Client = options.connect(files::nats_url(site)).await?;
        let Message { subject, bytes } = message.clone();
        let asked = client.request(subject, bytes.into());
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await??;
        Ok(serde_json::from_slice(&answer.payload)?)
    })
}

/// Asks several things one after the other over one connection, each when it is wanted; gives the
/// answers.
pub(crate) fn ask_all(
    lab: &Lab,
    site: Site,
    name: &str,
    messages: impl Iterator<Item = Result<Message>> + Send,
) -> Result<Vec<Value>> {
    let options = options(lab, name)?;
    at_client(lab, site, async || {
        let client: Client = options.connect(files::nats_url(site)).await?;
        let mut answers = Vec::new();
        for message in messages {
            let Message { subject, bytes } = message?;
            let asked = client.request(subject, bytes.into());
            let answer = tokio::time::timeout(Duration::from_secs(10), asked).await??;
            answers.push(serde_json::from_slice(&answer.payload)?);
        }
        Ok(answers)
    })
}

/// Says something as somebody at a site's server; nobody answers.
pub(crate) fn say(lab: &Lab, site: Site, name: &str, message: &Message) -> Result<()> {
    let options = options(lab, name)?;
    at_client(lab, site, async || {
        let client: Client = options.connect(files::nats_url(site)).await?;
        let Message { subject, bytes } = message.clone();
        client.publish(subject, bytes.into()).await?;
        Ok(client.flush().await?)
    })
}
