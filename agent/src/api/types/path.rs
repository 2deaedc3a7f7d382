//! Answers about ways: of one packet, of what would be lost, of what is kept apart.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// The way of a packet through the fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathDoc {
    pub from: String,
    pub to: String,
    pub hops: Vec<HopDoc>,
    /// What becomes of it, in words.
    pub verdict: String,
}

/// What one node does with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopDoc {
    pub node: String,
    pub site: String,
    /// The interface it comes in by, where the fabric names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Nett's bits of its mark.
    pub mark: u32,
    /// The policy rule that decides, in iproute2's words; absent when the main table is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The routing table and the route in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The nexthop or group that the route uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<u32>,
    /// Its members; a flow takes one of them.
    pub ways: Vec<WayDoc>,
    /// The counter of the nft guard that counts it.
    pub guard: String,
    pub passes: bool,
    /// What it is marked with as failover traffic, such as `dscp 10 class 1:20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
    /// `node`, `delivered`, `main`, `unreachable` or `stopped`.
    pub fate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What the kernel of this node says; only the answering node asks its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelWord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayDoc {
    pub nexthop: u32,
    pub gateway: String,
    pub interface: String,
    pub weight: u32,
}

/// The kernel's own lookup of the same packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelWord {
    pub agrees: bool,
    pub said: String,
}

/// What would follow from a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulationDoc {
    pub lose: String,
    pub nodes_lost: Vec<String>,
    pub links_lost: Vec<String>,
    pub pairs: Vec<PairDoc>,
    pub services: Vec<ServiceLossDoc>,
    pub repairs: Vec<RepairDoc>,
    /// What an operator has to know, one sentence each.
    pub findings: Vec<String>,
}

/// Two sites, with the links in use between them and what those carry, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairDoc {
    pub a: String,
    pub b: String,
    pub links_before: u32,
    pub links_after: u32,
    pub bps_before: u64,
    pub bps_after: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLossDoc {
    pub service: String,
    pub stops_at: Vec<String>,
    pub stays_at: Vec<String>,
    /// Where its failover order would take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Sites whose clients would have no way to it.
    pub cut_off: Vec<String>,
}

/// A node that repairs its forwarding by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairDoc {
    pub node: String,
    pub operations: u32,
}

/// What is kept apart, as the nft guards count it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeparationDoc {
    /// True when every counter that is expected to be zero is, on every node.
    pub holds: bool,
    /// From when on: the rows are then growth, and of what is expected to be zero alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Stamp>,
    pub rows: Vec<CountDoc>,
    /// Nodes that have not told what they count, or not since then.
    pub unheard: Vec<String>,
}

/// One counter of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountDoc {
    pub node: String,
    /// `local`, `arrived`, `steered`, `intersite`, `return`, `transit`, `marked`, `hairpin`,
    /// `leak`, `stray`, `spent` or `refused`.
    pub class: String,
    /// The site behind the interface; absent for what is counted for the node as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub packets: u64,
    pub expected_zero: bool,
    /// The rule that counts.
    pub rule: String,
    /// Milliseconds since the node told it.
    pub age_ms: u64,
}

/// Whether what is drained carries nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedDoc {
    pub rows: Vec<DrainedRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedRow {
    /// `site osl`, `node osl-b1`, `connections of shop/prod/api at osl`.
    pub object: String,
    /// `drained`, `carrying`, or `unmeasured` where no counter has ever moved or none was told;
    /// `keeping` where established connections of a soft drain stay, and send.
    pub state: String,
    /// Packets a second over the counters below, in both directions.
    pub pps: u64,
    /// Which counters that is.
    pub measured: String,
}
