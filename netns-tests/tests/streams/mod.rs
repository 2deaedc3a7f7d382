//! The streams of a lab's servers, as their own client library reads and writes them.

#[allow(dead_code, reason = "not every story logs in")]
pub(crate) mod login;
#[allow(dead_code, reason = "not every story listens")]
pub(crate) mod recording;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, Context};
use futures::TryStreamExt;
use nett_netns_tests::files;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::topology::Site;
use serde_json::Value;

/// Does something at a site's server with the admin's key.
pub(crate) fn at<T: Send, W: Future<Output = Result<T>> + Send>(
    lab: &Lab,
    site: Site,
    work: impl FnOnce(async_nats::Client, Context) -> W + Send,
) -> Result<T> {
    let seed = std::fs::read_to_string(lab.keys().seed("admin"))?;
    let tls = |file: &str| lab.layout().tls().join(file);
    let options = async_nats::ConnectOptions::with_nkey(seed)
        .add_root_certificates(tls("ca.crt"))
        .add_client_certificate(tls("mira.crt"), tls("mira.key"))
        .require_tls(true);
    let connected = async move {
        let client = options.connect(files::nats_url(site)).await?;
        work(client.clone(), jetstream::new(client)).await
    };
    lab.ns(&site.bus_host())?.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(connected)
    })
}

/// The name of the log of `author` in the server of any site.
pub(crate) fn log(author: Site) -> String {
    format!("NETT_LOG_{}", author.id.to_uppercase())
}

/// Every entry that the server of `reader` has of the log of `author`, in order.
#[allow(dead_code, reason = "not every story reads logs")]
pub(crate) fn entries(lab: &Lab, reader: Site, author: Site) -> Result<Vec<Value>> {
    at(lab, reader, async move |_, context| {
        let stream = context.get_stream(log(author)).await?;
        let state = stream.cached_info().state.clone();
        let mut entries = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await?;
            let entry = serde_json::from_slice(&message.payload);
            entries.push(entry.with_context(|| format!("entry {sequence} is no JSON"))?);
        }
        Ok(entries)
    })
}

/// How many messages each stream of logs and votes of a site's server has.
#[allow(dead_code, reason = "not every story counts")]
pub(crate) fn lengths(lab: &Lab, site: Site) -> Result<BTreeMap<String, u64>> {
    at(lab, site, async move |_, context| {
        let mut streams = context.streams();
        let mut lengths = BTreeMap::new();
        while let Some(stream) = streams.try_next().await? {
            let name = stream.config.name;
            if name.starts_with("NETT_LOG") || name.starts_with("NETT_VOTE") {
                lengths.insert(name, stream.state.last_sequence);
            }
        }
        Ok(lengths)
    })
}
