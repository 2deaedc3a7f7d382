//! The fabric as the answering agent sees it: sites, nodes and links.

use serde::{Deserialize, Serialize};

use super::{ConflictDoc, LeasesDoc, Stamp, TaskLine};

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusDoc {
    pub fabric: String,
    pub generation: u64,
    pub fabric_hash: String,
    pub sites: Vec<SiteDoc>,
    /// How many services are defined.
    pub services: u64,
    /// Tasks that have not ended.
    pub open_tasks: Vec<TaskLine>,
    /// Split decisions that nobody has resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictDoc>,
    /// What people are asked to do: drains that were to be over by now, leased services that are
    /// stopped until somebody claims them, and those that are unprotected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<String>,
    /// Requests refused since this agent started.
    pub refused: u64,
    /// Networks whose questions this agent's name server did not all answer, in the last minute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limited: Vec<RateLimitedDoc>,
    /// Who sent the answering agent more over NATS than it took in, in the last minute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floods: Vec<FloodDoc>,
    /// Keys that the log has revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedDoc>,
    /// Absent where nothing is leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<LeasesDoc>,
    /// Commands that the answering node has taken for itself alone, and the last of those that are
    /// over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<LocalDoc>,
}

/// A command that one node has taken while NATS was away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDoc {
    pub task: String,
    /// Empty once it is over.
    pub verb: String,
    /// Where it sends which service; empty once it is over.
    pub subject: String,
    pub person: String,
    /// When it was taken, or was over.
    pub at: Stamp,
    /// What it waits for, or what became of it.
    pub state: String,
}

/// A key that counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedDoc {
    /// Whose it is; empty where the fabric does not have it any more.
    pub person: String,
    pub key: String,
    pub task: String,
    /// Who had the key revoked; absent where that command is not known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Since when it counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Stamp>,
}

// === impl RevokedDoc ===

impl RevokedDoc {
    /// Whose key it was, since when it counts no more, and who had it revoked.
    pub fn sentence(&self) -> String {
        let Self { person, key, task, by, since } = self;
        let whose = if person.is_empty() { key } else { person };
        let since = since.map(|at| format!(" at {at}")).unwrap_or_default();
        let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        format!("the key of {whose} was revoked{since}{by}, with task {task}")
    }
}

/// Somebody whose messages over NATS were turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodDoc {
    /// `command`, `question`, `fact` or `ask`.
    pub kind: String,
    /// In whose name they come: an operator, a site, or nobody known. Only a good signature proves
    /// a name.
    pub from: String,
    /// Where the last one wanted its answer; names the connection at the nats-server. May be empty.
    pub reply_to: String,
    /// Looked at and found bad.
    pub refused: u64,
    /// Not looked at, or too many.
    pub dropped: u64,
    /// One word about the last one: `signature`, `form`, `too-many` ...
    pub why: String,
    /// Milliseconds since the last one.
    pub age_ms: u64,
}

/// A network that asks for the same answer too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitedDoc {
    /// An IPv4 /24 or an IPv6 /56.
    pub network: String,
    /// Answers it did not get since it began; at least so many.
    pub withheld: u64,
    /// Milliseconds since the last one.
    pub age_ms: u64,
}

/// One site, with its nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteDoc {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// 1 is highest.
    pub rank: u32,
    /// True when its agents report that they reach no other site, or this agent has had no report
    /// from it for longer than a site may be silent.
    pub isolated: bool,
    pub drained: bool,
    pub links_up: u32,
    pub links_down: u32,
    /// Objects that differ from what they should be, over all nodes.
    pub drift: u64,
    /// The lowest zone serial among its name servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_serial: Option<u32>,
    /// Nodes whose fabric differs from the answering agent's, by generation or hash.
    pub fabric_mismatch: u32,
    /// Reasons, as words: `durability`, `kernel`, `bus` ...
    pub degraded: Vec<String>,
    pub nodes: Vec<NodeDoc>,
}

/// One node by its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDoc {
    pub id: String,
    pub site: String,
    /// `border`, `route` or `witness`.
    pub role: String,
    /// Milliseconds since the last report; absent when none was ever seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    pub bus_connected: bool,
    /// Why nothing that people, reporters and other sites send over NATS is heard; only of the
    /// answering node, and only while it is so. Other nodes say it in `degraded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<String>,
    /// How far the node has read each site's log.
    pub heads: Vec<HeadDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric_hash: Option<String>,
    /// True when generation and hash equal the answering agent's.
    pub fabric_matches: bool,
    pub links_up: u32,
    pub links_down: u32,
    pub drift: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_serial: Option<u32>,
    pub degraded: Vec<String>,
    /// Traffic keeps off it as far as there are others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadDoc {
    /// Whose log.
    pub site: String,
    pub seq: u64,
    pub hash: String,
}

/// One inter-site link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkDoc {
    pub id: String,
    pub cost: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bps: Option<u64>,
    pub risk: Vec<String>,
    /// Traffic keeps off it as far as there are others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
    pub a: LinkEndDoc,
    pub b: LinkEndDoc,
}

/// A link as the node at one end reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkEndDoc {
    pub site: String,
    pub node: String,
    pub interface: String,
    pub state: LinkState,
    /// Milliseconds since the report; absent when none was ever seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Round trip in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Present while it is held down; where this end is the answering agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldDoc>,
    /// Present while it is full; where this end is the answering agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<SaturatedDoc>,
    /// Its BFD sessions, one for each family, where this end is the answering agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bfd: Vec<BfdDoc>,
}

/// A link whose interface comes and goes: it is used only where there is no other way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldDoc {
    /// How often the interface was lost.
    pub losses: u32,
    /// Milliseconds that it has to stay up.
    pub time_ms: u64,
    /// What is left of them; absent while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// A link that is full, as it was when that was noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaturatedDoc {
    /// Bits a second.
    pub sent_bps: u64,
    pub received_bps: u64,
    /// Microseconds that an ordinary packet took there and back; absent where most were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// What it took before; absent where it was never seen otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_us: Option<u64>,
    /// Of those packets.
    pub lost_percent: u8,
}

/// A BFD session as one end has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdDoc {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `admin-down`, `down`, `init` or `up`.
    pub state: String,
    /// `unproven`: used and not watched, because the session was not up yet or an end has stopped
    /// it. `proven`: up and used. `doubted`: not used where there is another way. `probation`: as
    /// doubted, and up again.
    pub belief: String,
    /// Why the session last went down.
    pub diagnostic: String,
    /// The far end's state; absent while it is not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_diagnostic: Option<String>,
    /// Microseconds between two packets of this end.
    pub interval_us: u64,
    /// Microseconds of silence of the far end until the session is down.
    pub detection_us: u64,
    /// Why packets cannot be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    Up,
    Down,
    Unknown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl LinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}
