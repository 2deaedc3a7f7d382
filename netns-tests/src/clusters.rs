//! Two clusters of backends at osl, by the files of a lab that has not started Nett yet.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::Netns;
use crate::topology::{NET_SERVICE, SITES};

/// The addresses of the backends of each cluster, IPv4 first: those that every service has anyway,
/// and the next ones on the same host.
pub fn addresses() -> [[String; 2]; 2] {
    let [osl, _] = SITES;
    [2, 3].map(|host| osl.addresses(NET_SERVICE, host))
}

/// Puts the backends of all services at osl into the cluster `osl/k1`, and gives each service one
/// more of each family, in `osl/k2`.
pub fn two(lab: &Lab) -> Result<()> {
    let [first, second] = addresses();
    let path = lab.layout().services();
    let text = std::fs::read_to_string(&path)?;
    let plain = format!("backends.osl = {first:?}\n");
    ensure!(text.contains(&plain), "{text}");
    let backend = |address: &String, cluster: &str| {
        format!("{{ address = \"{address}\", cluster = \"osl/{cluster}\" }}")
    };
    let all: Vec<String> = first
        .iter()
        .map(|address| backend(address, "k1"))
        .chain(second.iter().map(|address| backend(address, "k2")))
        .collect();
    std::fs::write(&path, text.replace(&plain, &format!("backends.osl = [{}]\n", all.join(", "))))?;
    let path = lab.layout().fabric();
    let mut text = std::fs::read_to_string(&path)?;
    for cluster in ["k1", "k2"] {
        text += &format!("\n[[cluster]]\nid = \"osl/{cluster}\"\nsite = \"osl\"\n");
    }
    Ok(std::fs::write(&path, text)?)
}

/// The interface of osl's service host, and the host.
pub fn interface(lab: &Lab) -> Result<(Netns, String)> {
    let [first, _] = addresses();
    let [osl, _] = SITES;
    let host = lab.ns(&osl.service_host())?;
    let links: Value = serde_json::from_str(&host.output("ip", &["-j", "addr"])?)?;
    let has = |link: &&Value| {
        let all = link["addr_info"].as_array().into_iter().flatten();
        all.into_iter().any(|one| one["local"] == first[0].as_str())
    };
    let link = links.as_array().into_iter().flatten().find(has).context("its link")?;
    let name = link["ifname"].as_str().context("a name")?.to_owned();
    Ok((host, name))
}

/// Gives an interface of that host the addresses of the second cluster.
pub fn second_on(host: &Netns, interface: &str) -> Result<()> {
    let [_, second] = addresses();
    for (address, length) in second.iter().zip(["24", "64 nodad"]) {
        host.ip(&format!("address add {address}/{length} dev {interface}"))?;
    }
    Ok(())
}
