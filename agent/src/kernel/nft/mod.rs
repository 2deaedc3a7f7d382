//! The nft table `inet nett`: loaded, changed, read back and counted, through netlink alone.
//!
//! The kernel is the only store. Sets hold most inputs of the guard; the table's comment holds
//! kind and mask, the comments of the marking rules hold the marks. A readback builds the program
//! that these inputs mean and compares it with what is there, so a rule that was deleted, moved,
//! added or changed is noticed.
//!
//! The table is taken with OWNER and PERSIST where the kernel has both (6.9): then `nft flush
//! ruleset` and `nft delete` of others leave it alone while the agent runs, and it stays when the
//! agent ends. The owner is the socket, so one connection is kept for life; a replaced or new one
//! takes the ownership again at its next readback. [`Nft::unprotected`] goes without: nft 1.0.6
//! writes broken JSON for a table with exactly one flag, which is what a stopped agent leaves.

mod classes;
mod comment;
mod expr;
mod failover;
mod gate;
mod gate_program;
mod interval;
mod load;
mod message;
mod program;
mod read;
mod transit;

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::lower::object::{ClassNumber, GuardElement};
use nett_policy::plan::Classes;
use nix::errno::Errno;

use super::Count;
use super::error::KernelError;
use super::netlink::attr::{Message, read_be64};
use super::netlink::socket::{Connection, Failure};
use message::{Fields, TABLE_OWNER, TABLE_PERSIST};
use program::{Chain, Element, TABLE, element_key};

pub use gate::NftGate;
use message::{NEWGEN, kind};
pub(super) use read::GuardRead;

const OBJECT: &str = "nft table inet nett";
/// How often a set is read that others change the ruleset under.
const LOOKS: usize = 3;

/// The nf_tables side of the kernel.
pub(super) struct Nft {
    connection: Connection,
    /// The ruleset generation a readback belongs to, and the socket: a new one owns no table, which
    /// makes no new generation.
    cache: Option<(u32, u32, GuardRead)>,
    /// What the maps of classes hold, and the socket that owned the table when they were read:
    /// as long as it does, nobody else can have changed them.
    classes: Option<(u32, Classes)>,
    /// Flags of the table; 0 on kernels without them.
    flags: u32,
    /// Whether it is known that no replacement of the table was interrupted.
    whole: bool,
}

/// What a table `inet nett` says about itself.
#[derive(Debug, Clone)]
struct Header {
    comment: Option<String>,
    flags: u32,
}

impl Header {
    fn is_ours(&self) -> bool {
        self.comment.as_deref().is_some_and(comment::is_ours)
    }
}

// === impl Nft ===

impl Nft {
    pub(super) fn new(connection: Connection) -> Self {
        let flags = TABLE_OWNER | TABLE_PERSIST;
        Self { connection, cache: None, classes: None, flags, whole: false }
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.connection.round_trips()
    }

    /// Without owner, also for tables loaded from now on.
    pub(super) fn unprotected(&mut self) {
        self.flags = 0;
    }

    /// The table as it is now; asks only for the generation when nothing changed since the last
    /// time.
    pub(super) async fn read(&mut self) -> Result<GuardRead, KernelError> {
        let mut last = None;
        for _ in 0..3 {
            let before = self.generation().await?;
            let port = self.connection.port();
            if let Some((generation, reader, read)) = &self.cache
                && (*generation, *reader) == (before, port)
            {
                return Ok(read.clone());
            }
            let mut read = read::read(self).await?;
            if self.is_interrupted().await? {
                read.damage = Some("its replacement was interrupted".to_owned());
                // As any damage: no node wants this mask.
                if let Some(guard) = &mut read.guard {
                    guard.mark_mask = 0;
                }
            }
            if read.adopt && self.adopt(&read).await? {
                last = Some(read);
                continue;
            }
            if self.generation().await? == before && self.connection.port() == port {
                // A dump that was not whole is read anew, whether or not the ruleset changes.
                self.cache = read.complete.then(|| (before, port, read.clone()));
                return Ok(read);
            }
            last = Some(read);
        }
        let mut read = last.unwrap_or_default();
        read.complete = false;
        Ok(read)
    }

    /// Elements of the sets that refuse, in one transaction.
    pub(super) async fn elements(
        &mut self,
        add: &BTreeSet<GuardElement>,
        delete: &BTreeSet<GuardElement>,
    ) -> Result<(), KernelError> {
        let mut sets: BTreeMap<&'static str, [Vec<Element>; 2]> = BTreeMap::new();
        for (place, all) in [add, delete].into_iter().enumerate() {
            for of in all {
                sets.entry(of.set_name()).or_default()[place].push(element(of));
            }
        }
        let change = |twice: bool| {
            let mut messages = Vec::new();
            for (set, [come, gone]) in &sets {
                if twice {
                    messages.extend(message::add_elements(TABLE, set, gone));
                }
                messages.extend(message::delete_elements(set, gone));
                messages.extend(message::add_elements(TABLE, set, come));
            }
            messages
        };
        if sets.is_empty() {
            return Ok(());
        }
        match self.transaction(change(false)).await {
            // One of them had gone already. Adding first makes every deletion find its element.
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) if !delete.is_empty() => {
                self.transaction(change(true)).await.map_err(stale)
            }
            other => other.map_err(stale),
        }
    }

    /// The classes of VIPs, with chains that come and go, in one transaction.
    pub(super) async fn classes(
        &mut self,
        from: &Classes,
        to: &Classes,
    ) -> Result<(), KernelError> {
        let chains = |of: &Classes| of.values().copied().collect::<BTreeSet<ClassNumber>>();
        let (old, new) = (chains(from), chains(to));
        let gone = from.iter().filter(|(vip, class)| to.get(vip) != Some(class));
        let come = to.iter().filter(|(vip, class)| from.get(vip) != Some(class));
        let marks = self.has_set(failover::COUNTERS).await?;
        let through = self.has_set(transit::PAIRS).await?;
        let mut messages = Vec::new();
        let chains = new.difference(&old).flat_map(|class| classes::chains(*class, marks, through));
        for chain in chains {
            messages.push(message::new_chain(TABLE, &chain));
            messages.extend(rules(TABLE, &chain));
        }
        for maps in classes::maps(marks) {
            messages.extend(maps.delete(gone.clone()));
            messages.extend(maps.add(TABLE, come.clone()));
            let unused = old.difference(&new).map(|class| maps.chain(*class));
            messages.extend(unused.map(|chain| message::delete_chain(TABLE, &chain)));
        }
        self.classes = None;
        let result = self.transaction(messages).await.map_err(stale);
        if matches!(result, Err(KernelError::Stale { .. })) {
            let read = self.read().await?;
            let is_done = read.guard.is_some_and(|guard| guard.classes == *to);
            return if is_done { Ok(()) } else { result };
        }
        result
    }

    /// The named counters; empty without the table.
    pub(super) async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        let mut get = message::about_table(message::GETOBJ, 0);
        get.put_be32(3, expr::OBJECT_COUNTER);
        let dump = self.connection.dump(get, |_, payload| {
            let fields = Fields::of_message(payload)?;
            if !fields.is_about_table(payload) {
                return Ok(None);
            }
            let (Some(name), Some(data)) = (fields.text(2), fields.get(4)) else {
                return Ok(None);
            };
            let data = Fields::of(data)?;
            let number = |kind| data.get(kind).map_or(Ok(0), read_be64);
            let (bytes, packets) = (number(1)?, number(2)?);
            Ok(Some((name, Count { packets, bytes })))
        });
        let dump = dump.await;
        let dump = dump.map_err(|e| KernelError::of("the counters of nft table inet nett", e))?;
        Ok(dump.items.into_iter().collect())
    }

    /// What the elements of the counting sets have counted: of all of them, or it is an error. What
    /// was counted in part looks like silence.
    pub(super) async fn watched(
        &mut self,
        wanted: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        let sets: BTreeSet<&'static str> = wanted.iter().map(GuardElement::set_name).collect();
        let mut found = BTreeMap::new();
        for set in sets {
            found.extend(self.counts(set).await?.into_iter().filter(|(e, _)| wanted.contains(e)));
        }
        // The table is gone, or not yet as it is to be.
        match wanted.len() - found.len() {
            0 => Ok(found),
            missing => Err(torn(format!("{missing} elements that count are not there"))),
        }
    }

    /// What the elements of one set have counted, in one generation of the ruleset.
    async fn counts(&mut self, set: &str) -> Result<Vec<(GuardElement, u64)>, KernelError> {
        for _ in 0..LOOKS {
            let get = message::get_elements(set);
            let dump = self.connection.dump(get, |_, payload| {
                let counts = read::counts(set, payload)?;
                Ok(counts.map(|counts| (message::generation(payload), counts)))
            });
            let dump = match dump.await {
                Err(Failure::Refused { errno: Errno::ENOENT, .. }) => return Ok(Vec::new()),
                other => other.map_err(|e| KernelError::of(OBJECT, e))?,
            };
            let mut generations = dump.items.iter().map(|(generation, _)| generation);
            let first = generations.next();
            if dump.complete && generations.all(|other| Some(other) == first) {
                return Ok(dump.items.into_iter().flat_map(|(_, counts)| counts).collect());
            }
        }
        Err(torn(format!("set {set} changed while it was read")))
    }

    /// Whether the table has a set of this name.
    async fn has_set(&mut self, name: &str) -> Result<bool, KernelError> {
        let mut get = message::about_table(message::GETSET, 0);
        get.put_text(2, name);
        let found = self.connection.get(get, |_, _| Ok(Some(())));
        match found.await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(false),
            found => Ok(found.map_err(|e| KernelError::of(OBJECT, e))?.is_some()),
        }
    }

    async fn generation(&mut self) -> Result<u32, KernelError> {
        let get = message::message(message::GETGEN, 0);
        let found = self.connection.get(get, |got, payload| {
            let fields = Fields::of_message(payload)?;
            Ok((got == kind(NEWGEN)).then(|| fields.be32(1)).flatten())
        });
        let found = found.await.map_err(|e| KernelError::of("the nft generation", e))?;
        Ok(found.unwrap_or(0))
    }

    /// The table's own attributes, or `None` when there is no table.
    async fn header(&mut self) -> Result<Option<Header>, KernelError> {
        self.header_of(TABLE).await
    }

    async fn header_of(&mut self, table: &str) -> Result<Option<Header>, KernelError> {
        let get = message::about(table, message::GETTABLE, 0);
        let found = self.connection.get(get, |_, payload| {
            let fields = Fields::of_message(payload)?;
            Ok(Some(Header {
                comment: fields.get(6).and_then(message::read_comment),
                flags: fields.be32(2).unwrap_or(0),
            }))
        });
        match found.await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            found => found.map_err(|e| KernelError::of(OBJECT, e)),
        }
    }

    /// Takes the ownership of a table that a former agent or connection left; false when the
    /// kernel does not give it. Without it the table works the same, unprotected.
    async fn adopt(&mut self, read: &GuardRead) -> Result<bool, KernelError> {
        let (Some(comment), true) = (&read.comment, self.flags != 0) else {
            return Ok(false);
        };
        let take = message::named_table(TABLE, comment, self.flags, false);
        match self.transaction(vec![take]).await {
            Ok(()) => Ok(true),
            Err(Failure::Refused { .. }) => {
                self.flags = 0;
                Ok(false)
            }
            // Looked at again: a lost answer is no refusal.
            Err(Failure::Unanswered) => Ok(true),
            Err(failure @ Failure::Socket(_)) => Err(KernelError::of(OBJECT, failure)),
        }
    }

    async fn transaction(&mut self, inner: Vec<Message>) -> Result<(), Failure> {
        self.cache = None;
        let mut batch = message::batch(inner);
        self.connection.transaction(&mut batch).await
    }
}

fn rules<'a>(table: &'a str, chain: &'a Chain) -> impl Iterator<Item = Message> + use<'a> {
    chain.rules.iter().map(move |rule| message::new_rule(table, &chain.name, rule))
}

fn element(of: &GuardElement) -> Element {
    Element { key: element_key(of), end: false, counter: None, comment: None }
}

/// What was read is not whole, and says nothing.
fn torn(reason: String) -> KernelError {
    KernelError::Stale { object: OBJECT.to_owned(), reason }
}

fn foreign() -> KernelError {
    KernelError::Foreign {
        object: OBJECT.to_owned(),
        owner: "a table of this name without Nett's comment".to_owned(),
    }
}

/// The table came or went since it was looked at: plan again.
fn stale(failure: Failure) -> KernelError {
    match failure {
        Failure::Refused { errno: errno @ (Errno::EEXIST | Errno::ENOENT), .. } => {
            KernelError::Stale { object: OBJECT.to_owned(), reason: format!("{errno:?}") }
        }
        other => KernelError::of(OBJECT, other),
    }
}

/// The program whose transaction made a new generation of the ruleset (NFTA_GEN_PROC_NAME).
pub(super) fn generation_by(got: u16, payload: &[u8]) -> Option<String> {
    if got != kind(NEWGEN) {
        return None;
    }
    Fields::of_message(payload).ok()?.text(3)
}

/// True for notifications about our table. A new generation says nothing about whose it is.
pub(super) fn is_about_table(got: u16, payload: &[u8]) -> bool {
    if got == kind(NEWGEN) {
        return false;
    }
    Fields::of_message(payload).is_ok_and(|fields| fields.is_about_table(payload))
}
