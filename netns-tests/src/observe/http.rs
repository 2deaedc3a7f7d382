//! The smallest HTTP client: one GET to the loopback address of a node's agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::files::HTTP_PORT;
use crate::netns::Netns;

/// Status code and body of `path` from the agent in `ns`.
pub fn get(ns: &Netns, path: &str) -> Result<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT));
    let wait = Duration::from_secs(2);
    let text = ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, wait)?;
        stream.set_read_timeout(Some(wait))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok());
    Ok((code.context("an HTTP answer has a status")?, body.to_owned()))
}

/// Fails with the body unless `/readyz` answers 200.
pub fn ready(ns: &Netns) -> Result<()> {
    match get(ns, "/readyz")? {
        (200, _) => Ok(()),
        (code, body) => bail!("/readyz says {code}: {}", body.trim()),
    }
}

/// The value of a metric line such as `nett_conflicts`, labels included in the name.
pub fn metric(ns: &Netns, name: &str) -> Result<Option<f64>> {
    let (_, body) = get(ns, "/metrics")?;
    let value = body.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
    Ok(value)
}
