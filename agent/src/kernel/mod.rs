//! Everything that touches the Linux kernel: routes, rules, nexthops, the nft table, sysctls.
//!
//! The seam is [`Kernel`]: read what is there, carry one operation out. It speaks the types of
//! `nett_policy`; netlink stays inside. One task owns the kernel and is its only writer.
//!
//! What this module never does: change or delete an object that is not Nett's. An object is ours
//! when protocol, table and id or priority range agree; the nft table when it carries our
//! userdata. Everything else that stands in our place is reported as [`Foreign`].
//!
//! Crash story: the kernel is the only state. Every operation is one message (or one nft
//! transaction), so a crash leaves a prefix of a plan, which is safe by the plan's order; after a
//! restart the readback finds it and the next plan completes it. Carrying out an operation that is
//! already done is no error.
//!
//! ```text
//! driver ─ Op ─> LinuxKernel ─> netlink (command sockets: rtnetlink, nf_tables)
//!        <─ Readback ─┘
//!        <─ KernelEvent ─ Monitor (own sockets, own tasks, bounded channel)
//! ```

mod error;
mod foreign;
mod linux;
mod lookup;
mod monitor;
mod moved;
mod neighbours;
mod netlink;
mod nft;
pub mod preflight;
pub mod purge;
mod read;
pub mod simulated;
pub mod sysctl;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::lower::object::{GuardElement, NexthopId, NodeState, Table};
use nett_policy::plan::Op;

pub use error::KernelError;
pub use foreign::Foreign;
pub use linux::LinuxKernel;
pub use lookup::{Asked, Found, Lookup, Taken};
pub use monitor::{KernelEvent, Monitor, Origin};
pub use moved::{InterfaceCounters, Moved};
pub use neighbours::NeighbourTable;
pub use netlink::socket::OwnPorts;
pub use netlink::wire::{KernelWires, Wire, Wires};
pub use nft::NftGate;
pub use simulated::SimulatedKernel;
pub use writers::Writers;

/// Of resilient groups, how many buckets lead to each member.
pub type Filled = BTreeMap<NexthopId, BTreeMap<NexthopId, u32>>;

/// The kernel of one node, real or simulated.
pub trait Kernel: Send {
    /// What is there now.
    ///
    /// # Errors
    /// When a dump is refused or unanswered. A dump that is answered in part is no error but
    /// [`Readback::complete`] false.
    fn read(&mut self) -> impl Future<Output = Result<Readback, KernelError>> + Send;

    /// Looks again at some parts and puts what is there now in their place in `readback`; the
    /// others stay as they were. `complete` becomes false when one of the dumps was not whole, and
    /// never becomes true.
    ///
    /// # Errors
    /// When a dump is refused or unanswered; `readback` is then of two times and worth nothing.
    fn refresh(
        &mut self,
        readback: &mut Readback,
        parts: &Parts,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// The named counters of the nft table; empty without the table.
    ///
    /// # Errors
    /// When the dump is refused or unanswered.
    fn counters(
        &mut self,
    ) -> impl Future<Output = Result<BTreeMap<String, Count>, KernelError>> + Send;

    /// What the counting sets of the nft table have counted, for all of these elements: packets
    /// since the element is.
    ///
    /// # Errors
    /// When a dump is refused or unanswered, or was not whole: what was counted in part looks like
    /// silence, and nobody may take it for that.
    fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> impl Future<Output = Result<BTreeMap<GuardElement, u64>, KernelError>> + Send;

    /// How many buckets of each of these resilient groups lead to which of its members: those that
    /// are in use stay with a member that none is meant for. A group that is not there, or is of
    /// another type, has none.
    ///
    /// # Errors
    /// When a dump is refused or unanswered, or was not whole.
    fn buckets(
        &mut self,
        groups: &BTreeSet<NexthopId>,
    ) -> impl Future<Output = Result<Filled, KernelError>> + Send;

    /// Whether the kernel knows the link-layer address of a neighbour on an interface, so that
    /// packets to it are sent at once; if not, the kernel is made to ask for it.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn knows(
        &mut self,
        neighbour: IpAddr,
        interface: &str,
    ) -> impl Future<Output = Result<bool, KernelError>> + Send;

    /// Carries one operation out; done before it returns, and no error when it was done already.
    ///
    /// # Errors
    /// [`KernelError`] says who must act. [`Op::Answers`] is not the kernel's and a bug.
    fn apply(&mut self, op: &Op) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Carries all of them out in order, each with its own result: an error does not stop the
    /// rest. Runs of routes, and of groups, go in few writes, so this is the way for many. Give it
    /// only what may go on after an error, for instance the additions of a plan and then its
    /// deletions.
    fn apply_all(
        &mut self,
        ops: &[Op],
    ) -> impl Future<Output = Vec<Result<(), KernelError>>> + Send {
        async move {
            let mut results = Vec::with_capacity(ops.len());
            for op in ops {
                results.push(self.apply(op).await);
            }
            results
        }
    }
}

/// Parts of the kernel that a readback can look at alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    pub interfaces: bool,
    pub nexthops: bool,
    pub rules: bool,
    pub guard: bool,
    /// Routes, by family and table.
    pub tables: BTreeSet<(Family, Table)>,
}

impl Parts {
    /// Everything but tables that hold nothing of ours and that no rule of ours looks into.
    pub fn in_use(tables: BTreeSet<(Family, Table)>) -> Self {
        Self { interfaces: true, nexthops: true, rules: true, guard: true, tables }
    }
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readback {
    /// Own objects only; `answers` is empty. A damaged nft table (a rule, chain, set or element
    /// more or less than it should have) is a `guard` with mask 0, which no node ever wants.
    pub state: NodeState,
    /// False when a dump could not be read whole: delete nothing because of it.
    pub complete: bool,
    /// By name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Objects of others in our place; left as they are.
    pub foreign: Vec<Foreign>,
    /// What is wrong with our nft table, if it is damaged.
    pub guard_damage: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    /// Administratively up, and with carrier.
    pub up: bool,
    /// Administratively down: somebody wants it so.
    pub shut: bool,
    /// Own addresses with their prefix length; the tentative ones too.
    pub addresses: BTreeSet<IpNet>,
    /// Those whose duplicate address detection has not ended well (yet).
    pub tentative: BTreeSet<IpNet>,
}

/// A named counter of the nft table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}
