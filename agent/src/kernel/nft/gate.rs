//! The table `inet nett_lease`: the kernel's gate of leased services, see [`crate::lease::gate`].
//!
//! ```text
//! pre, out   to a VIP with a group -> g_N: accept while N is open in a slot that lives
//!            to any other guarded VIP -> refuse
//! post       the same for what comes from a VIP, and what backends send under one -> late
//! ```
//! One element lives in each of `live_0` and `live_1`, with a timeout that nobody has to be alive
//! for; `open_0` and `open_1` hold the groups that a majority was heard for while it lives. A plain
//! addition does not extend a living element, and a deletion of an expired one fails: so a slot is
//! flushed and filled in one transaction.
//!
//! The table is owned by this process where the kernel knows PERSIST beside OWNER; OWNER alone
//! would take the table away with the agent and open everything. What is there belongs to the
//! kernel: a crash leaves it, and its slots end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nett_policy::fabric::Family;
use nix::errno::Errno;

use super::super::error::KernelError;
use super::super::netlink::attr::{Message, read_address};
use super::super::netlink::socket::{Connection, Failure, OwnPorts};
use super::super::netlink::wire::{KernelWires, Wires};
use super::gate_program::{self as program, SETS, TABLE, group_chain};
use super::message::{self, Fields, TABLE_OWNER, TABLE_PERSIST};
use super::read::element_keys;
use crate::lease::gate::{FoundGate, Gate, GateShape, Slot};

const OBJECT: &str = "nft table inet nett_lease";

/// The gate of the network namespace in which it was opened.
pub struct NftGate {
    connection: Connection,
    inner: String,
    flags: u32,
    /// What this process has put there; `None` before that, and when it may be gone.
    have: Option<Have>,
    /// The port of the socket that owns the table.
    owner: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Have {
    all: BTreeSet<IpAddr>,
    guarded: BTreeSet<IpAddr>,
    members: BTreeMap<IpAddr, u32>,
}

/// What there is under the table's name.
enum There {
    Nothing,
    /// Ours, of this version.
    Ours,
    /// Ours, and of another version.
    Old,
}

// === impl NftGate ===

impl NftGate {
    /// `inner` is the interface towards the site's backends. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the process may not open netlink sockets.
    pub fn open(inner: String) -> Result<Self, KernelError> {
        Self::over(Arc::new(KernelWires), inner)
    }

    /// As [`Self::open`], over sockets of another make.
    ///
    /// # Errors
    /// When there are no sockets.
    pub fn over(wires: Arc<dyn Wires>, inner: String) -> Result<Self, KernelError> {
        let connection = Connection::over(wires, NETLINK_NETFILTER, OwnPorts::default());
        let connection = connection.map_err(|e| KernelError::of("the nf_tables socket", e))?;
        Ok(Self { connection, inner, flags: TABLE_OWNER | TABLE_PERSIST, have: None, owner: None })
    }

    /// Without owner: anybody may change or flush the table, which opens it.
    #[must_use]
    pub fn unprotected(self) -> Self {
        Self { flags: 0, ..self }
    }

    /// True when the kernel lets nobody else change the table.
    pub fn is_protected(&self) -> bool {
        self.flags != 0
    }

    /// Takes the table away: what it guarded passes.
    ///
    /// # Errors
    /// When it is somebody else's, or the kernel refuses.
    pub async fn delete(&mut self) -> Result<bool, KernelError> {
        match self.there().await? {
            There::Nothing => Ok(false),
            There::Ours | There::Old => {
                let delete = message::delete(TABLE);
                self.transaction(vec![delete]).await.map(|()| true)
            }
        }
    }

    async fn there(&mut self) -> Result<There, KernelError> {
        let get = message::about(TABLE, message::GETTABLE, 0);
        let found = self.connection.get(get, |_, payload| {
            let fields = Fields::of_message(payload)?;
            Ok(Some(fields.get(6).and_then(message::read_comment)))
        });
        match found.await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) | Ok(None) => Ok(There::Nothing),
            Ok(Some(Some(comment))) if comment == program::COMMENT => Ok(There::Ours),
            Ok(Some(Some(comment))) if comment.starts_with("Nett") => Ok(There::Old),
            Ok(Some(_)) => Err(KernelError::Foreign {
                object: OBJECT.to_owned(),
                owner: "a table of this name without Nett's comment".to_owned(),
            }),
            Err(error) => Err(KernelError::of(OBJECT, error)),
        }
    }

    async fn transaction(&mut self, inner: Vec<Message>) -> Result<(), KernelError> {
        let mut batch = message::batch(inner);
        let result = self.connection.transaction(&mut batch).await;
        if result.is_err() {
            // Nothing of a refused transaction is there; of another one nobody knows.
            self.have = None;
        }
        result.map_err(|e| KernelError::of(OBJECT, e))
    }

    /// Everything, in the place of whatever there is.
    async fn load(&mut self, wanted: &GateShape) -> Result<(), KernelError> {
        let there = self.there().await?;
        if matches!(there, There::Ours) {
            self.take().await?;
            return self.refill(wanted).await;
        }
        let replace = !matches!(there, There::Nothing);
        match self.create(wanted, replace).await {
            Err(KernelError::Refused { errno, .. })
                if self.flags != 0 && matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL) =>
            {
                tracing::warn!("This kernel protects no table: a flush by others opens the gate.");
                self.flags = 0;
                self.create(wanted, replace).await
            }
            result => result,
        }
    }

    /// Takes the ownership of the table that a former agent left.
    async fn take(&mut self) -> Result<(), KernelError> {
        if self.flags == 0 {
            return Ok(());
        }
        let take = message::named_table(TABLE, program::COMMENT, self.flags, false);
        match self.transaction(vec![take]).await {
            // Whoever lost the answer asks again, and is not without an owner because of it.
            Err(error) if error.is_retryable() => Err(error),
            Ok(()) => {
                self.owner = Some(self.connection.port());
                Ok(())
            }
            // A table that was made without an owner stays without one.
            Err(_) => {
                self.flags = 0;
                Ok(())
            }
        }
    }

    /// With an answer that is lost goes the socket, and with it the ownership.
    async fn stay_owner(&mut self) -> Result<(), KernelError> {
        if self.owner == Some(self.connection.port()) { Ok(()) } else { self.take().await }
    }

    async fn create(&mut self, wanted: &GateShape, replace: bool) -> Result<(), KernelError> {
        let mut messages = Vec::new();
        if replace {
            messages.push(message::delete(TABLE));
        }
        messages.push(message::named_table(TABLE, program::COMMENT, self.flags, true));
        messages.extend(program::sets());
        messages.extend(program::counters());
        messages.extend(program::chains(&self.inner));
        messages.extend(filling(&Have::default(), wanted));
        self.transaction(messages).await?;
        self.owner = Some(self.connection.port());
        Ok(())
    }

    /// The table of a former process: emptied and filled in one step.
    async fn refill(&mut self, wanted: &GateShape) -> Result<(), KernelError> {
        let old = self.groups().await?;
        let mut messages: Vec<Message> =
            SETS.iter().filter(|set| !set.is_live()).map(|set| program::flush(set.name)).collect();
        messages.extend(old.iter().map(|group| message::delete_chain(TABLE, &group_chain(*group))));
        messages.extend(filling(&Have::default(), wanted));
        self.transaction(messages).await
    }

    /// The groups that have a chain.
    async fn groups(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        let get = message::about(TABLE, message::GETCHAIN, 0);
        let dump = self.connection.dump(get, |_, payload| {
            let fields = Fields::of_message(payload)?;
            let ours = fields.text(1).as_deref() == Some(TABLE);
            let name = fields.text(3).filter(|_| ours);
            Ok(name.and_then(|name| name.strip_prefix("g_")?.parse().ok()))
        });
        let dump = dump.await.map_err(|e| KernelError::of(OBJECT, e))?;
        Ok(dump.items.into_iter().collect())
    }

    /// Whether a slot's set has any element; the kernel leaves out those whose time is over.
    async fn has_elements(&mut self, stem: &str, slot: Slot) -> Result<bool, KernelError> {
        let get = message::elements_of(TABLE, &program::slot_set(stem, slot));
        let dump = self.connection.dump(get, |_, payload| element_keys(payload, TABLE));
        let dump = dump.await.map_err(|e| KernelError::of(OBJECT, e))?;
        Ok(dump.items.into_iter().flatten().next().is_some())
    }

    async fn addresses(&mut self, stem: &str) -> Result<BTreeSet<IpAddr>, KernelError> {
        let mut all = BTreeSet::new();
        for family in Family::BOTH {
            let get = message::elements_of(TABLE, &program::of_family(stem, family));
            let dump = self.connection.dump(get, |_, payload| element_keys(payload, TABLE));
            let dump = dump.await.map_err(|e| KernelError::of(OBJECT, e))?;
            let keys = dump.items.into_iter().flatten();
            all.extend(keys.filter_map(|key| read_address(&key).ok()));
        }
        Ok(all)
    }
}

/// What makes one filling of the table into another; shut first, opened last.
fn filling(have: &Have, wanted: &GateShape) -> Vec<Message> {
    let GateShape { number: _, all, guarded, members, open, reset: _ } = wanted;
    let mut messages = Vec::new();
    let set = |stem: &str, add: &BTreeSet<IpAddr>, gone: &BTreeSet<IpAddr>| {
        let mut messages = program::delete_addresses(stem, gone);
        messages.extend(program::add_addresses(stem, add));
        messages
    };
    let (old, new): (BTreeSet<u32>, BTreeSet<u32>) =
        (have.members.values().copied().collect(), members.values().copied().collect());
    // A guarded VIP is shut before it has a way, and loses its way before it is let be.
    let more =
        |new: &BTreeSet<IpAddr>, old: &BTreeSet<IpAddr>| new.difference(old).copied().collect();
    messages.extend(set("all", &more(all, &have.all), &more(&have.all, all)));
    messages.extend(set("vip", &more(guarded, &have.guarded), &BTreeSet::new()));
    for group in new.difference(&old) {
        messages.extend(program::group(*group));
    }
    let differs = |(vip, group): &(&IpAddr, &u32)| members.get(*vip) != Some(*group);
    let gone: BTreeMap<IpAddr, u32> =
        have.members.iter().filter(differs).map(|(v, g)| (*v, *g)).collect();
    let differs = |(vip, group): &(&IpAddr, &u32)| have.members.get(*vip) != Some(*group);
    let come: BTreeMap<IpAddr, u32> =
        members.iter().filter(differs).map(|(v, g)| (*v, *g)).collect();
    messages.extend(program::delete_members(&gone));
    messages.extend(program::add_members(&come));
    messages.extend(set("vip", &BTreeSet::new(), &more(&have.guarded, guarded)));
    for group in old.difference(&new) {
        messages.push(message::delete_chain(TABLE, &group_chain(*group)));
    }
    if let Some((slot, groups)) = open {
        messages.extend(program::open(*slot, groups));
    }
    messages
}

impl Gate for NftGate {
    async fn found(&mut self) -> Result<Option<FoundGate>, KernelError> {
        match self.there().await? {
            There::Ours => {
                let guarded = self.addresses("vip").await?;
                let mut open = false;
                for slot in [Slot::Even, Slot::Odd] {
                    open |= self.has_elements("live", slot).await?
                        && self.has_elements("open", slot).await?;
                }
                Ok(Some(FoundGate { guarded, open }))
            }
            There::Nothing | There::Old => Ok(None),
        }
    }

    async fn shape(&mut self, wanted: &GateShape) -> Result<(), KernelError> {
        let have = self.have.take().filter(|_| !wanted.reset);
        match &have {
            Some(have) => {
                self.stay_owner().await?;
                let messages = filling(have, wanted);
                if !messages.is_empty() {
                    self.transaction(messages).await?;
                }
            }
            None => self.load(wanted).await?,
        }
        let there = self.addresses("grp").await?;
        let should: BTreeSet<IpAddr> = wanted.members.keys().copied().collect();
        if there != should {
            let reason = "what was read back of its groups is something else".to_owned();
            return Err(KernelError::Stale { object: OBJECT.to_owned(), reason });
        }
        self.stay_owner().await?;
        let GateShape { number: _, all, guarded, members, open: _, reset: _ } = wanted.clone();
        self.have = Some(Have { all, guarded, members });
        Ok(())
    }

    async fn arm(&mut self, slot: Slot, lease: Duration) -> Result<(), KernelError> {
        if self.have.is_none() {
            // Nobody is asked behind a gate that may not be there.
            let reason = "it was not made yet".to_owned();
            return match self.there().await? {
                There::Ours => self.transaction(program::arm(slot, lease)).await,
                There::Nothing | There::Old => {
                    Err(KernelError::Stale { object: OBJECT.to_owned(), reason })
                }
            };
        }
        self.stay_owner().await?;
        self.transaction(program::arm(slot, lease)).await
    }

    async fn open(&mut self, slot: Slot, groups: &BTreeSet<u32>) -> Result<(), KernelError> {
        self.transaction(program::open(slot, groups)).await
    }
}
