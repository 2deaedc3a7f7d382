//! An agent whose way to the kernel goes wrong on demand: `faulty.c`, preloaded into it.
//!
//! What the agent meets is the real kernel: it refuses a thread that has no CAP_NET_ADMIN, or a
//! request with a bad header, in its own words. Only answers that are garbled, or that say that a
//! dump was interrupted, are made on the way.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::eventually::patience;
use crate::lab::{Lab, agent_name};
use crate::process::Spec;

const SOURCE: &str = include_str!("faulty.c");

/// Message types of linux/rtnetlink.h.
pub const GET_ROUTE: u16 = 26;
pub const GET_NEXTHOP: u16 = 106;
pub const NEW_ROUTE: u16 = 24;
pub const NEW_NEXTHOP: u16 = 104;

/// What is wrong between an agent and its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has no CAP_NET_ADMIN.
    Powerless,
    /// Dumps that are asked for by this message are refused.
    Refused(u16),
    /// Dumps with objects of this kind hold some that nobody can read.
    Torn(u16),
    /// Dumps with objects of this kind say that they were interrupted.
    Cut(u16),
}

/// The agent of one node, restarted so that its faults can be chosen.
#[derive(Debug)]
pub struct Faulty {
    control: PathBuf,
}

// === impl Faulty ===

impl Faulty {
    /// Stops the agent of a node and starts it again with the faults before it, none of them yet.
    pub fn agent(lab: &mut Lab, node: &str) -> Result<Self> {
        let dir = lab.layout().host(node);
        let (source, library) = (dir.join("faulty.c"), dir.join("faulty.so"));
        fs::write(&source, SOURCE)?;
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .context("cannot run cc: `make deps` installs it")?;
        ensure!(made.status.success(), "cc: {}", String::from_utf8_lossy(&made.stderr));
        let faulty = Self { control: dir.join("faults") };
        faulty.none()?;

        lab.take_process(&agent_name(node))?.stop(patience() * 2)?;
        let config = lab.layout().agent_config(node).display().to_string();
        let env = [("LD_PRELOAD", &library), ("NETT_FAULTS", &faulty.control)];
        let env = env.map(|(name, path)| (name.to_owned(), path.display().to_string()));
        let spec = Spec {
            name: agent_name(node),
            program: lab.programs().agent.clone(),
            args: ["run", "--config", &config].map(str::to_owned).to_vec(),
            env: env.to_vec(),
            log: lab.layout().log(&agent_name(node)),
        };
        lab.start_process(node, spec)?;
        lab.wait_for_agent(node)?;
        Ok(faulty)
    }

    /// From the next message on this is wrong, and nothing else.
    pub fn set(&self, fault: Fault) -> Result<()> {
        self.write(&match fault {
            Fault::Powerless => "powerless".to_owned(),
            Fault::Refused(kind) => format!("refuse={kind}"),
            Fault::Torn(kind) => format!("torn={kind}"),
            Fault::Cut(kind) => format!("cut={kind}"),
        })
    }

    /// From the next message on nothing is wrong.
    pub fn none(&self) -> Result<()> {
        self.write("")
    }

    /// In one step: a message never meets half a word.
    fn write(&self, words: &str) -> Result<()> {
        let next = self.control.with_extension("next");
        fs::write(&next, words)?;
        Ok(fs::rename(&next, &self.control)?)
    }
}
