//! The whole table `inet nett`: put there, replaced and taken away.
//!
//! A transaction is not all at once for packets. Chains at hooks count from the moment it is
//! committed (`nf_tables_commit`, net/netfilter/nf_tables_api.c), but what a set of intervals holds
//! only at its end (`nft_set_commit_update`); and a chain that goes is met until its hook is taken
//! away, while the maps that go with it are empty at once (`nft_map_deactivate`). Both last some
//! hundred microseconds, in which the guard refuses what it is to let through. So sets and maps
//! come one transaction before the chains that ask them, and go one transaction after.
//!
//! A table that is there goes on meanwhile. As the new one has its name, a twin of the new one
//! stands in between: the twin comes, the old one goes, the new one comes, the twin goes. While two
//! are there a packet meets both, which does no more than one.
//!
//! Crash story: at each point a table that refuses is there. A twin that is left makes a readback
//! find the table damaged, and the next load takes it away: first, where the table itself has its
//! chains at the hooks, else in one transaction with all the rest.

use std::collections::BTreeMap;

use nett_policy::lower::object::Guard;
use nix::errno::Errno;

use super::message::Fields;
use super::program::{self, TABLE};
use super::{Nft, OBJECT, classes, comment, failover, foreign, message, rules, stale};
use crate::kernel::Count;
use crate::kernel::error::KernelError;
use crate::kernel::netlink::attr::Message;
use crate::kernel::netlink::socket::Failure;

/// The twin, with the same comment.
const TWIN: &str = "nett_next";

type Counts = BTreeMap<String, Count>;

/// What a table is made of.
struct Parts<'a> {
    guard: &'a Guard,
    program: program::Program,
    comment: String,
}

// === impl Nft ===

impl Nft {
    /// Puts the whole table there, or in the place of the one that is there. Counters go on from
    /// where they are.
    pub(in crate::kernel) async fn load(&mut self, guard: &Guard) -> Result<(), KernelError> {
        let program = program::program(guard).map_err(|set| KernelError::Form {
            object: OBJECT.to_owned(),
            reason: format!(
                "set {set} has a prefix with too many others inside it; name the outermost only"
            ),
        })?;
        let there = self.header().await?;
        if there.as_ref().is_some_and(|header| !header.is_ours()) {
            return Err(foreign());
        }
        let comment = comment::table_comment(guard.kind, guard.mark_mask);
        let parts = Parts { guard, program, comment };
        self.classes = None;
        let mut interrupted = self.is_interrupted().await?;
        self.whole = false;
        if interrupted && there.is_some() && !self.hooked(TABLE).await?.is_empty() {
            // The table refuses by itself, and the twin may refuse what it does not.
            self.drop_twin().await?;
            interrupted = false;
        }
        if there.is_some() && !interrupted && self.stand_in(&parts).await? {
            self.replace(&parts).await?;
        } else {
            let counts = self.counts_so_far(guard, there.is_some()).await?;
            let before = [(there.is_some(), TABLE), (interrupted, TWIN)];
            let all = |flags| {
                let gone = before.iter().filter(|(is, _)| *is).map(|(_, name)| *name);
                let mut messages: Vec<Message> = gone.map(message::delete).collect();
                messages.extend(parts.sets(TABLE, flags, &counts));
                messages.extend(parts.hooks(TABLE));
                messages
            };
            self.with_flags(all).await.map_err(stale)?;
        }
        self.whole = true;
        Ok(())
    }

    /// Makes the twin. False where that is not possible, and nothing of it is there.
    async fn stand_in(&mut self, parts: &Parts<'_>) -> Result<bool, KernelError> {
        for messages in [parts.sets(TWIN, 0, &Counts::new()), parts.hooks(TWIN)] {
            match self.transaction(messages).await {
                Ok(()) => {}
                Err(Failure::Refused { errno, .. }) => {
                    tracing::debug!(%errno, "The table is replaced at once.");
                    self.drop_twin().await?;
                    return Ok(false);
                }
                Err(failure) => return Err(stale(failure)),
            }
        }
        Ok(true)
    }

    /// Puts the new table in the place of the old one while the twin stands.
    async fn replace(&mut self, parts: &Parts<'_>) -> Result<(), KernelError> {
        self.unhook(TABLE).await?;
        let counts = self.counts_so_far(parts.guard, true).await?;
        // By itself: a table that goes with what comes holds its memory until all of that is there.
        self.transaction(vec![message::delete(TABLE)]).await.map_err(stale)?;
        self.with_flags(|flags| parts.sets(TABLE, flags, &counts)).await.map_err(stale)?;
        self.transaction(parts.hooks(TABLE)).await.map_err(stale)?;
        self.drop_twin().await
    }

    pub(in crate::kernel) async fn delete(&mut self) -> Result<(), KernelError> {
        if self.is_interrupted().await? {
            self.drop_twin().await?;
        }
        match self.header().await? {
            None => return Ok(()),
            Some(header) if !header.is_ours() => return Err(foreign()),
            Some(_) => self.unhook(TABLE).await?,
        }
        match self.transaction(vec![message::delete(TABLE)]).await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
            other => other.map_err(stale),
        }
    }

    /// Whether a replacement of the table, by this agent or one before it, was not finished.
    pub(super) async fn is_interrupted(&mut self) -> Result<bool, KernelError> {
        if self.whole {
            return Ok(false);
        }
        let twin = self.header_of(TWIN).await?;
        self.whole = twin.is_none();
        Ok(twin.is_some_and(|header| header.is_ours()))
    }

    async fn drop_twin(&mut self) -> Result<(), KernelError> {
        if self.header_of(TWIN).await?.is_none_or(|header| !header.is_ours()) {
            return Ok(());
        }
        self.unhook(TWIN).await?;
        match self.transaction(vec![message::delete(TWIN)]).await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
            other => other.map_err(stale),
        }
    }

    /// The names of the chains at hooks. One that is missing in an answer in pieces goes with its
    /// table, which costs a packet.
    async fn hooked(&mut self, table: &str) -> Result<Vec<String>, KernelError> {
        let get = message::message(message::GETCHAIN, 0);
        let chains = self.connection.dump(get, |_, payload| {
            let fields = Fields::of_message(payload)?;
            let is_hooked = fields.is_about(table, payload) && fields.get(4).is_some();
            Ok(fields.text(3).filter(|_| is_hooked))
        });
        Ok(chains.await.map_err(|e| KernelError::of(OBJECT, e))?.items)
    }

    /// Takes the chains at the hooks away, with their rules: no packet meets the table any more.
    async fn unhook(&mut self, table: &str) -> Result<(), KernelError> {
        let chains = self.hooked(table).await?;
        if chains.is_empty() {
            return Ok(());
        }
        let gone = chains.iter().map(|chain| message::delete_chain(table, chain));
        self.transaction(gone.collect()).await.map_err(stale)
    }

    /// What each counter begins with: what was counted goes on, one of a new interface begins.
    async fn counts_so_far(&mut self, guard: &Guard, there: bool) -> Result<Counts, KernelError> {
        let mut counts = if there { self.counters().await? } else { Counts::new() };
        let names = program::counters(guard).into_iter();
        Ok(names.map(|name| (name.clone(), counts.remove(&name).unwrap_or_default())).collect())
    }

    /// A transaction that makes the table, with the owner's flags where the kernel has them.
    async fn with_flags(&mut self, messages: impl Fn(u32) -> Vec<Message>) -> Result<(), Failure> {
        let result = self.transaction(messages(self.flags)).await;
        if let Err(Failure::Refused { errno, .. }) = &result
            && matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL)
            && self.flags != 0
        {
            let result = self.transaction(messages(0)).await;
            if result.is_ok() {
                self.flags = 0;
            }
            return result;
        }
        result
    }
}

// === impl Parts ===

impl Parts<'_> {
    /// The table with all that no packet meets by itself. Counters without a start begin with 0.
    fn sets(&self, table: &str, flags: u32, counts: &Counts) -> Vec<Message> {
        let mut messages = vec![message::named_table(table, &self.comment, flags, true)];
        messages.extend(program::counters(self.guard).into_iter().map(|name| {
            let start = counts.get(&name).copied().unwrap_or_default();
            message::counter_of(table, &name, start)
        }));
        for (set, id) in self.program.sets.iter().zip(1..) {
            messages.push(message::new_set(table, set, id));
            messages.extend(message::add_elements(table, set.name, &set.elements));
        }
        let inner = || self.program.chains.iter().filter(|chain| chain.base.is_none());
        messages.extend(inner().map(|chain| message::new_chain(table, chain)));
        let marks = self.program.sets.iter().any(|set| set.name == failover::COUNTERS);
        for maps in classes::maps(marks) {
            messages.extend(maps.add(table, self.guard.classes.iter()));
        }
        messages.extend(inner().flat_map(|chain| rules(table, chain)));
        messages
    }

    /// The chains at the hooks, with which packets begin to meet the table.
    fn hooks(&self, table: &str) -> Vec<Message> {
        let outer = || self.program.chains.iter().filter(|chain| chain.base.is_some());
        let chains = outer().map(|chain| message::new_chain(table, chain));
        chains.chain(outer().flat_map(|chain| rules(table, chain))).collect()
    }
}
