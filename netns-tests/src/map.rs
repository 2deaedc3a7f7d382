//! What `nett-lab up` prints: a line to source, and where things are.

use std::fmt::Write;

use anyhow::Result;

use crate::files::{Node, ZONE};
use crate::lab::Lab;
use crate::services;
use crate::topology::SITES;

/// Shell assignments first (each line of the text is valid shell: the rest are comments), so that
/// the whole output can be sourced.
pub fn describe(lab: &Lab) -> Result<String> {
    let layout = lab.layout();
    let home = SITES[0];
    let programs = lab.programs().nettctl.parent();
    let path = programs.map(|p| p.display().to_string()).unwrap_or_default();
    let node = home.border();
    let [dns, _] = Node::of_site(home)[0].addresses();
    let mut text = format!(
        "export NETT_SOCKET='{}' NETT_KEY='{}' NETT_LAB='{}' \
         NETT_LAB_DNS={dns} PATH='{path}':\"$PATH\"\n",
        layout.socket(&node).display(),
        lab.keys().seed("mira").display(),
        layout.root.display(),
    );
    let prefix = lab.prefix();
    writeln!(text, "# The lab runs in {}. `make lab-down` ends it.", layout.root.display())?;
    writeln!(text, "# nettctl speaks to {node} as mira; jon approves:")?;
    writeln!(text, "#   nettctl --key {} approve TASK", lab.keys().seed("jon").display())?;
    writeln!(
        text,
        "# Sockets of the other nodes: {}/hosts/NODE/agent.sock",
        layout.root.display()
    )?;
    writeln!(text, "# Ask a name server, send packets, look at a node:")?;
    let name = services::API.dns_name();
    writeln!(text, "#   ip netns exec {prefix}-osl-c1 dig @{dns} {name} A")?;
    writeln!(text, "#   ip netns exec {prefix}-osl-c1 ping {}", services::API.vips()[0])?;
    writeln!(text, "#   ip netns exec {prefix}-osl-b1 ip rule")?;
    writeln!(text, "# Cut and restore a link:")?;
    writeln!(text, "#   ip -n {prefix}-svg-b1 link set wan0 down   (up)")?;
    writeln!(text, "# Namespaces, each {prefix}-NAME; zone {ZONE}")?;
    for site in lab.shape().sites {
        let border = site.addresses(crate::topology::NET_CORE, 2);
        writeln!(
            text,
            "#   {}: border {} ({}), route node {}, client {}, services {}, bus {}",
            site.id,
            site.border(),
            border.join(", "),
            site.route_node(),
            site.client(),
            site.service_host(),
            site.bus_host()
        )?;
    }
    writeln!(text, "#   outside all: inet, outside ({})", crate::topology::OUTSIDE_V4)?;
    writeln!(text, "# Logs: {}", layout.logs().display())?;
    Ok(text)
}
