//! The site's own routing in a lab in pairs: BIRD on borders and route nodes keeps the ways between
//! them in the main table, with BFD on each, as a real site would. Nett has no part in it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::eventually::{eventually, patience};
use crate::files::{Node, Role};
use crate::lab::Lab;
use crate::process::Spec;
use crate::topology::Shape;

/// Starts BIRD on every border and route node, and waits for its routes.
pub fn start(lab: &mut Lab) -> Result<()> {
    let shape = lab.shape();
    if shape.nodes == 1 {
        return Ok(());
    }
    for node in lab.nodes() {
        let dir = lab.layout().host(&node.name).join("bird");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let at = |name: &str| dir.join(name).display().to_string();
        fs::write(dir.join("conf"), config(shape, &node))?;
        let name = process_name(&node.name);
        let spec = Spec {
            name: name.clone(),
            program: PathBuf::from("bird"),
            args: ["-f", "-c", &at("conf"), "-s", &at("ctl"), "-P", &at("pid")]
                .map(str::to_owned)
                .to_vec(),
            env: Vec::new(),
            log: lab.layout().log(&name),
        };
        lab.start_process(&node.name, spec)?;
    }
    for node in lab.nodes() {
        wait(lab, &node)?;
    }
    Ok(())
}

/// The name of a node's BIRD.
pub fn process_name(node: &str) -> String {
    format!("bird-{node}")
}

fn wait(lab: &Lab, node: &Node) -> Result<()> {
    let ns = lab.ns(&node.name)?;
    let what = format!("BIRD on {} knows both ways", node.name);
    let [to4, _, to6, _] = destinations(node);
    eventually(patience() * 2, &what, || {
        for (family, to) in [("", to4.as_str()), ("-6 ", to6.as_str())] {
            let shown = ns.ip(&format!("{family}route show {to} proto bird"))?;
            let ways = shown.matches("nexthop").count();
            ensure!(ways == usize::from(lab.shape().nodes), "{shown}");
        }
        Ok(())
    })
    .map(drop)
}

/// What a node reaches over the others, private IPv4, public IPv4, then IPv6. A route node has its
/// own networks; what else there is, the borders know.
fn destinations(node: &Node) -> [String; 4] {
    match node.role {
        Role::Border => {
            let [private4, private6, public4, public6] = node.site.prefixes();
            [private4, public4, private6, public6]
        }
        Role::Route => ["0.0.0.0/0", "0.0.0.0/0", "::/0", "::/0"].map(str::to_owned),
    }
}

fn config(shape: Shape, node: &Node) -> String {
    let [id, _] = node.addresses();
    let interface = match node.role {
        Role::Border => "core",
        Role::Route => "up",
    };
    let mut destinations = destinations(node).to_vec();
    destinations.dedup();
    let mut text = format!(
        "router id {id};\nprotocol device {{ scan time 1; }}\n\
         protocol bfd {{ strict bind; interface \"{interface}\" {{ interval 100 ms; \
         multiplier 3; }}; }}\n"
    );
    for (at, family) in ["ipv4", "ipv6"].iter().enumerate() {
        text += &format!("protocol kernel {{ {family} {{ export all; import none; }}; }}\n");
        text += &format!("protocol static {{ {family};\n");
        let of_family = destinations.iter().filter(|to| to.contains(':') == (at == 1));
        for to in of_family {
            text += &format!("  route {to}");
            for number in shape.numbers() {
                let via = match node.role {
                    Role::Border => node.site.route_core(number),
                    Role::Route => node.site.border_core(number),
                };
                text += &format!(" via {} bfd", via[at]);
            }
            text += ";\n";
        }
        text += "}\n";
    }
    text
}
