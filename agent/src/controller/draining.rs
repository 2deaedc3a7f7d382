//! Whether the sites that services leave still get or send anything for them: this node's part of
//! the steps `drained`.
//!
//! The kernel counts by VIP, or by class where whole classes move (adr/0043). Here two looks become
//! a rate, and a time of rates below the limit the acknowledgement. Nothing else ends such a step:
//! it never acknowledges because time has passed, and never without having looked. What drained
//! clusters are left with is in `leaving`.
//!
//! Crash story: nothing is kept. After a restart the first look is the baseline and the quiet time
//! begins anew; what the kernel had counted by then still shows that its counters move.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use nett_policy::id::{EntryId, NodeId, ServiceId, SiteId};
use nett_policy::log::entry::Slot;
use nett_policy::lower::object::{Guard, GuardElement, GuardSet, Subject};
use nett_policy::service::Drain;
use nett_policy::task::drained::{MEASURED, UNMEASURED, rates, told};
use nett_policy::task::reroutes::is_of_clusters;
use nett_policy::task::steps::{Step, StepKind};
use nett_policy::task::view::{last_effect, read, start_slot};

use super::Controller;
use super::event::Now;
use super::leaving::Leaving;
use crate::api::types::DrainedRow;

/// From how many seconds on it is told that the last look was so long ago.
const LATE: u64 = 10;

/// What is counted, and for which steps.
#[derive(Debug, Default)]
pub(super) struct Draining {
    /// The last look.
    last: BTreeMap<GuardElement, u64>,
    /// What was counted since each element is there, over counters that began again.
    sums: BTreeMap<GuardElement, u64>,
    open: BTreeMap<Slot, Measuring>,
    /// Steps that wait for buckets instead.
    pub(super) leaving: BTreeMap<Slot, Leaving>,
    /// Whether buckets are looked at.
    pub(super) looks: bool,
}

/// One step that waits for quiet.
#[derive(Debug)]
struct Measuring {
    vips: Vec<IpAddr>,
    /// As whom the VIPs are counted, in this generation of what is wanted.
    subjects: (u64, BTreeSet<Subject>),
    /// Packets per second that are too many.
    pps: u64,
    dwell: Duration,
    /// When it was looked the last time, and what was counted by then.
    last: Option<(Duration, Packets)>,
    /// What was counted as whom the VIPs were counted before.
    earlier: Packets,
    quiet_since: Duration,
    rate: Packets,
}

/// Packets, or packets per second, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Packets {
    to: u64,
    from: u64,
}

// === impl Packets ===

impl Packets {
    fn and(self, other: Self) -> Self {
        let add = u64::saturating_add;
        Self { to: add(self.to, other.to), from: add(self.from, other.from) }
    }

    fn but(self, other: Self) -> Self {
        let less = u64::saturating_sub;
        Self { to: less(self.to, other.to), from: less(self.from, other.from) }
    }
}

// === impl Draining ===

impl Draining {
    /// What is measured for each step, in words; nothing before the second look.
    pub(super) fn told(&self, now: Duration) -> BTreeMap<Slot, Vec<String>> {
        let looked = self.open.iter().filter_map(|(slot, one)| {
            let looked = one.last?.0;
            // In steps, so that it makes no report of its own every second.
            let age = now.saturating_sub(looked).as_secs() / LATE * LATE;
            let late = if age == 0 { String::new() } else { format!(", {age} s ago or more") };
            Some((slot.clone(), vec![format!("{}{late}", one.told())]))
        });
        let leaving = self.leaving.iter();
        let leaving = leaving.filter_map(|(slot, one)| Some((slot.clone(), vec![one.told()?])));
        looked.chain(leaving).collect()
    }

    fn take(&mut self, packets: BTreeMap<GuardElement, u64>) {
        self.sums.retain(|element, _| packets.contains_key(element));
        for (element, now) in &packets {
            let before = self.last.get(element).copied().unwrap_or(0);
            // A counter that is lower than before has begun again from zero.
            let grown = now.checked_sub(before).unwrap_or(*now);
            let sum = self.sums.entry(*element).or_default();
            *sum = sum.saturating_add(grown);
        }
        self.last = packets;
    }
}

// === impl Measuring ===

impl Measuring {
    fn told(&self) -> String {
        let Packets { to, from } = self.rate;
        let quiet = self.last.map_or(Duration::ZERO, |(at, _)| at.saturating_sub(self.quiet_since));
        let (quiet, dwell) = (quiet.as_secs(), self.dwell.as_secs());
        told(to, from, &format!("quiet for {quiet} s of {dwell} s"))
    }

    /// What was counted for the step so far.
    fn counted(&mut self, guard: (u64, &Guard), sums: &BTreeMap<GuardElement, u64>) -> Packets {
        let (generation, guard) = guard;
        let known = std::mem::take(&mut self.subjects);
        let subjects = match known.0 == generation {
            true => known.1.clone(),
            false => self.vips.iter().filter_map(|vip| guard.subject(*vip)).collect(),
        };
        let own = sums.iter().filter(|(element, _)| subjects.contains(&element.subject));
        let mut summed = Packets::default();
        for (element, packets) in own {
            match element.set {
                GuardSet::CountTo | GuardSet::CountIn => summed.to += packets,
                GuardSet::CountFrom => summed.from += packets,
                _ => {}
            }
        }
        if subjects != known.1
            && let Some((_, before)) = self.last.take()
        {
            // What is counted in another way now, for instance apart from its class, is no rate
            // together with what was counted before: one begins anew.
            self.earlier = before.but(summed);
        }
        self.subjects = (generation, subjects);
        self.earlier.and(summed)
    }

    /// Takes one look; the words of the acknowledgement once it was quiet for long enough.
    fn look(&mut self, counted: Packets, now: Duration) -> Option<String> {
        let Some((before, last)) = self.last else {
            (self.last, self.quiet_since) = (Some((now, counted)), now);
            return None;
        };
        let millis = u64::try_from(now.saturating_sub(before).as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return None;
        }
        let rate = |now: u64, before: u64| {
            now.saturating_sub(before).saturating_mul(1000).div_ceil(millis)
        };
        self.rate = Packets { to: rate(counted.to, last.to), from: rate(counted.from, last.from) };
        if self.rate.to.max(self.rate.from) >= self.pps {
            self.quiet_since = now;
        }
        self.last = Some((now, counted));
        (now.saturating_sub(self.quiet_since) >= self.dwell).then(|| self.verdict(counted))
    }

    fn verdict(&self, counted: Packets) -> String {
        let Packets { to, from } = counted;
        let (pps, dwell) = (self.pps, self.dwell.as_secs());
        if to == 0 && from == 0 {
            return format!("{UNMEASURED} no packet to it or from it was ever counted here");
        }
        let never = match (to, from) {
            (0, _) => "; to it none ever was",
            (_, 0) => "; from it none ever was",
            _ => "",
        };
        format!(
            "{MEASURED} below {pps}/s for {dwell} s; before that {to} packets to it and {from} \
             from it were counted{never}"
        )
    }
}

// === impl Controller ===

impl Controller {
    /// The counters were looked at.
    pub(super) fn watched(&mut self, packets: BTreeMap<GuardElement, u64>, now: Now) {
        self.draining.take(packets);
        let (generation, state) = self.doing.wanted();
        let Some(guard) = &state.guard else { return };
        let Draining { sums, open, last: _, leaving: _, looks: _ } = &mut self.draining;
        let mut quiet = Vec::new();
        for (slot, one) in open.iter_mut() {
            let counted = one.counted((generation, guard), sums);
            quiet.extend(one.look(counted, now.mono).map(|words| (slot.clone(), words)));
        }
        for (slot, words) in quiet {
            self.draining.open.remove(&slot);
            self.doing.quiet(slot, vec![words]);
        }
    }

    /// Begins to measure for the steps that ask for it, and ends where a step is over.
    pub(super) fn measure_parts(&mut self) {
        let slots: BTreeSet<Slot> = self.doing.counting().cloned().collect();
        self.draining.open.retain(|slot, _| slots.contains(slot));
        self.draining.leaving.retain(|slot, _| slots.contains(slot));
        for slot in slots {
            let Draining { open, leaving, .. } = &self.draining;
            if open.contains_key(&slot) || leaving.contains_key(&slot) {
                continue;
            }
            let number = read(&self.fold, &slot.task).open_step();
            let Some(effect) = last_effect(&self.fold, &slot.task) else { continue };
            let step = effect.steps.iter().find(|step| Some(step.number) == number);
            match step {
                Some(step) if is_of_clusters(step) => {
                    let leaving = self.leaving(effect);
                    self.draining.leaving.insert(slot, leaving);
                }
                Some(step) => {
                    let measuring = self.measuring(step);
                    self.draining.open.insert(slot, measuring);
                }
                None => {}
            }
        }
        self.leave_what_is_not_there();
    }

    /// Of several services the strictest limit counts, for all of them together.
    fn measuring(&self, step: &Step) -> Measuring {
        let catalog = &self.setting.catalog;
        let services = || step.states.keys().filter_map(|id| catalog.get(id));
        let drains = || services().map(|service| service.drain.unwrap_or(Drain::USUAL));
        Measuring {
            vips: services().flat_map(|service| &service.vips).copied().collect(),
            subjects: (0, BTreeSet::new()),
            pps: drains().map(|drain| u64::from(drain.pps)).min().unwrap_or(1),
            dwell: drains().map(|drain| drain.dwell).max().unwrap_or_default(),
            last: None,
            earlier: Packets::default(),
            quiet_since: Duration::ZERO,
            rate: Packets::default(),
        }
    }
}

/// Connections that stay at a site: for which task they are counted, and whose they are.
type Kept<'a> = BTreeMap<(Option<&'a EntryId>, &'a BTreeSet<SiteId>), Vec<&'a ServiceId>>;

impl Controller {
    /// What `prove drained` says of soft drains: the established connections that they leave.
    pub(super) fn kept_rows(&self) -> Vec<DrainedRow> {
        let mut kept = Kept::new();
        for (service, placed) in &self.placement.services {
            if !placed.kept.is_empty() {
                let whose = (placed.counted_for.as_ref(), &placed.kept);
                kept.entry(whose).or_default().push(service);
            }
        }
        kept.into_iter().map(|(whose, services)| self.kept_row(whose, &services)).collect()
    }

    fn kept_row(
        &self,
        (task, sites): (Option<&EntryId>, &BTreeSet<SiteId>),
        services: &[&ServiceId],
    ) -> DrainedRow {
        let sites = sites.iter().map(SiteId::as_str).collect::<Vec<_>>().join(", ");
        let more = match services.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let object = format!("connections of {}{more} at {sites}", services[0]);
        let (mut pps, mut quiet, mut words) = (0u64, true, Vec::new());
        for (node, says) in task.map(|task| self.counted_by(task)).unwrap_or_default() {
            let rates = says.iter().find_map(|line| rates(line));
            quiet &= rates.is_some() || says.iter().any(|line| line.starts_with(MEASURED));
            pps = pps.saturating_add(rates.map_or(0, |(to, from)| to.saturating_add(from)));
            words.push(format!("{node}: {}", says.join("; ")));
        }
        let state = match (pps, quiet && !words.is_empty()) {
            (1.., _) => "keeping",
            (0, true) => "drained",
            (0, false) => "unmeasured",
        };
        let measured = match (task, words.is_empty()) {
            (Some(task), true) => format!("not yet: task {task} has not come to it"),
            (Some(_), false) => words.join(", "),
            (None, _) => {
                "by nobody: the task that left them there is over; the next one about the \
                          service ends it"
                    .to_owned()
            }
        };
        DrainedRow { object, state: state.to_owned(), pps, measured }
    }

    /// What each node says that counts for the open step of a task.
    fn counted_by(&self, task: &EntryId) -> Vec<(NodeId, Vec<String>)> {
        let reading = read(&self.fold, task);
        let steps = last_effect(&self.fold, task).map(|e| e.steps.as_slice()).unwrap_or_default();
        let open = steps.iter().find(|step| Some(step.number) == reading.open_step());
        let Some(step) = open.filter(|step| step.kind == StepKind::Drained) else {
            return Vec::new();
        };
        let Some(slot) = start_slot(&self.fold, task, step.number) else { return Vec::new() };
        let says = |node: &NodeId| match self.ack_of(node, &slot) {
            Some(ack) => ack.evidence,
            None => match self.silence_of(node, task) {
                Some(silence) => vec![silence.to_string()],
                None => self.told_of(node, &slot).unwrap_or_else(|| vec!["nothing yet".to_owned()]),
            },
        };
        reading.required(step).map(|node| (node.clone(), says(node))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measuring() -> Measuring {
        Measuring {
            vips: Vec::new(),
            subjects: (0, BTreeSet::new()),
            pps: 1,
            dwell: Duration::from_secs(3),
            last: None,
            earlier: Packets::default(),
            quiet_since: Duration::ZERO,
            rate: Packets::default(),
        }
    }

    fn look(one: &mut Measuring, second: u64, to: u64, from: u64) -> Option<String> {
        one.look(Packets { to, from }, Duration::from_secs(second))
    }

    #[test]
    fn quiet_in_both_directions_for_one_dwell_is_drained() {
        let mut one = measuring();
        assert_eq!(look(&mut one, 10, 100, 90), None, "the baseline");
        assert_eq!(look(&mut one, 11, 112, 90), None);
        assert_eq!(one.told(), "12/s to it, 0/s from it, quiet for 0 s of 3 s");
        assert_eq!(look(&mut one, 12, 112, 91), None, "it still answers");
        assert_eq!(look(&mut one, 13, 112, 91), None);
        assert_eq!(look(&mut one, 14, 112, 91), None);
        let said = look(&mut one, 15, 112, 91).expect("quiet since second 12");
        assert!(said.starts_with("measured: below 1/s for 3 s; before that 112 packets"), "{said}");
    }

    #[test]
    fn a_counter_that_never_moved_measures_nothing() {
        let mut one = measuring();
        for second in 1..4 {
            assert_eq!(look(&mut one, second, 0, 0), None);
        }
        let said = look(&mut one, 4, 0, 0).expect("three seconds");
        assert!(said.starts_with(UNMEASURED), "{said}");
    }

    #[test]
    fn counters_that_begin_again_are_added_up() {
        let element = GuardElement::COUNTING;
        let mut draining = Draining::default();
        for (now, sum) in [(7, 7), (9, 9), (2, 11), (3, 12)] {
            draining.take([(element, now)].into());
            assert_eq!(draining.sums[&element], sum);
        }
        draining.take(BTreeMap::new());
        assert!(draining.sums.is_empty());
    }
}
