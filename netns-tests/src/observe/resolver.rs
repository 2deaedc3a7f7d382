//! A resolver of somebody else, as `unbound`: what clients are told that know no name server.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::dig::{Answer, recurse};
use crate::eventually::{eventually, patience};
use crate::files::ZONE;
use crate::lab::Lab;
use crate::process::Spec;

/// Where it listens, in the namespace of its host.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A resolver on a host of a lab, for the programs there.
#[derive(Debug, Clone)]
pub struct Resolver {
    host: String,
}

impl Resolver {
    /// Starts it; it asks `servers` for the zone, whichever of them it likes best. It trusts
    /// answers for as long as they say, and never longer.
    pub fn start(lab: &mut Lab, host: &str, servers: &[String]) -> Result<Self> {
        let dir = lab.layout().host(host);
        fs::create_dir_all(&dir)?;
        let stubs: String = servers.iter().map(|s| format!("  stub-addr: {s}\n")).collect();
        let config = format!(
            "server:\n  directory: {dir:?}\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  \
             interface: {ADDRESS}\n  use-syslog: no\n  logfile: \"\"\n  num-threads: 1\n  \
             module-config: \"iterator\"\n  do-not-query-localhost: no\n\
             stub-zone:\n  name: {ZONE}\n{stubs}\
             remote-control:\n  control-enable: no\n"
        );
        let file = dir.join("unbound.conf");
        fs::write(&file, config)?;
        let name = format!("resolver-{host}");
        let log = lab.layout().log(&name);
        let args = vec!["-d".into(), "-p".into(), "-c".into(), file.display().to_string()];
        let (program, env) = ("unbound".into(), Vec::new());
        lab.start_process(host, Spec { name, program, args, env, log })?;
        let resolver = Self { host: host.to_owned() };
        eventually(patience(), "the resolver answers", || resolver.ask(lab, ZONE, "SOA"))?;
        Ok(resolver)
    }

    pub fn ask(&self, lab: &Lab, name: &str, kind: &str) -> Result<Answer> {
        recurse(&lab.ns(&self.host)?, ADDRESS, name, kind)
    }
}
