//! What a person signs: a command that opens a task, or a wish about one.
//!
//! Values only. Whether a request is allowed is judged in [`crate::task`]; that it is signed was
//! checked at the agent's edge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::conflict::Contested;
use crate::fabric::Fabric;
use crate::id::{ClusterId, EntryId, LinkId, NodeId, Selector, ServiceId, SiteId, WallMs, Weight};

/// Who asked, as proven by the signature on the request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Person {
    pub name: String,
    /// Public nkey.
    pub key: String,
}

/// What an operator signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: EntryId,
    /// The only site that may accept it.
    pub site: SiteId,
    pub person: Person,
    pub reason: String,
    pub issued_at: WallMs,
    pub expires_at: WallMs,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are as many as people gave commands")]
pub enum Ask {
    /// Opens a task.
    Command {
        verb: Verb,
        /// The task is refused (exit 7) when its plan has another hash.
        plan_hash: Option<String>,
        /// Safety rules to pass over, by name.
        overrides: BTreeSet<String>,
        terms: Terms,
    },
    /// A wish about a task.
    Wish { task: EntryId, kind: WishKind },
}

/// How a command is to be carried out, beside what it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Ends the open tasks that stand in the way, instead of being refused because of them.
    pub supersede: bool,
    /// Nodes that the operator says are off: nobody waits for them, and what they owe is shown.
    pub asserted: BTreeSet<NodeId>,
    /// Sites that the operator says are off, so that a failover of what is leased needs no majority
    /// of the voters: all the others are enough (adr/0061). Empty for every other command.
    pub without: BTreeSet<SiteId>,
    /// The task undoes itself unless somebody confirms it within this time of its last step.
    pub confirm_within: Option<Duration>,
    /// By which shares a steer goes to where it is sent, instead of those of the service.
    pub ramp: Option<Ramp>,
    /// Until when a drain is meant to last: from then on people are asked to end it.
    pub until: Option<WallMs>,
    /// Established connections of what is drained stay where they are until they end.
    pub soft: bool,
}

/// Shares of a move, each held for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ramp {
    /// In percent, ascending to 100.
    pub steps: Vec<u8>,
    pub dwell: Duration,
    /// A comparison with a fact that must hold before every share but the first.
    pub only_while: Option<String>,
}

/// What a command wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Failover {
        services: Selector,
        to: SiteId,
    },
    Failback {
        services: Selector,
    },
    Steer {
        services: Selector,
        to: BTreeMap<SiteId, Weight>,
    },
    Drain {
        object: Object,
    },
    Undrain {
        object: Object,
    },
    /// Every service leaves a site that is dead, in waves: category C, then B, then A.
    Evacuate {
        site: SiteId,
        /// Where they go; each to the next of its own order when absent.
        to: Option<SiteId>,
    },
    /// No task and no ramp touches these services until they are released.
    Hold {
        services: Selector,
    },
    Release {
        services: Selector,
    },
    Revert {
        task: EntryId,
    },
    /// Ends a split decision: what was decided about `subject` since is known and settled.
    Resolve {
        subject: Contested,
        /// For a service: where it is to be; as the winner has it when absent.
        to: Option<SiteId>,
    },
    /// Nobody hears any more what is signed with the key that this person has now.
    Revoke {
        person: String,
    },
}

/// What can be drained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Site(SiteId),
    ServiceAt(ServiceId, SiteId),
    /// A border or route node.
    Node(NodeId),
    /// An inter-site link.
    Link(LinkId),
    /// A cluster of backends inside a site.
    Cluster(ClusterId),
}

impl Object {
    /// True when it carries services, and none of them moves to another site because of it.
    pub fn is_way(&self) -> bool {
        match self {
            Self::Node(_) | Self::Link(_) | Self::Cluster(_) => true,
            Self::Site(_) | Self::ServiceAt(..) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WishKind {
    /// Bound to the hash of the plan that was approved.
    Approve {
        plan_hash: String,
    },
    Reject,
    /// The task ends where it is.
    Cancel,
    /// No further step starts.
    Pause,
    Resume,
    /// A fact from outside, such as `data-ready`; valid until the request expires.
    Gate {
        name: String,
    },
    /// The task is as wanted: it does not undo itself.
    Confirm,
    /// Another site goes on with a task whose home site is dead.
    Adopt {
        /// Nodes that the operator says are off.
        asserted: BTreeSet<NodeId>,
    },
}

// === impl Terms ===

impl Terms {
    /// The nodes that are said to be off, alone or with all of their site.
    pub fn off(&self, fabric: &Fabric) -> BTreeSet<NodeId> {
        let of_site = fabric.nodes.iter().filter(|node| self.without.contains(&node.site));
        self.asserted.iter().chain(of_site.map(|node| &node.id)).cloned().collect()
    }
}

// === impl Ask ===

impl Ask {
    /// A command without terms.
    pub fn command(verb: Verb) -> Self {
        let (overrides, terms) = (BTreeSet::new(), Terms::default());
        Self::Command { verb, plan_hash: None, overrides, terms }
    }

    /// Within which time of its last step a task must be confirmed.
    pub fn confirm_within(&self) -> Option<Duration> {
        match self {
            Self::Command { terms, .. } => terms.confirm_within,
            Self::Wish { .. } => None,
        }
    }

    /// True for a command whose author says that sites are off with their voters.
    pub fn is_without_quorum(&self) -> bool {
        matches!(self, Self::Command { terms, .. } if !terms.without.is_empty())
    }

    /// The verb or wish in one word, as in subjects and messages.
    pub fn verb_name(&self) -> &'static str {
        match self {
            Self::Command { verb, .. } => verb.name(),
            Self::Wish { kind, .. } => kind.name(),
        }
    }
}

// === impl Verb ===

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failover { .. } => "failover",
            Self::Failback { .. } => "failback",
            Self::Steer { .. } => "steer",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::Evacuate { .. } => "evacuate",
            Self::Hold { .. } => "hold",
            Self::Release { .. } => "release",
            Self::Revert { .. } => "revert",
            Self::Resolve { .. } => "resolve",
            Self::Revoke { .. } => "revoke",
        }
    }
}

// === impl WishKind ===

impl WishKind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Reject => "reject",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Gate { .. } => "gate",
            Self::Confirm => "confirm",
            Self::Adopt { .. } => "adopt",
        }
    }
}
