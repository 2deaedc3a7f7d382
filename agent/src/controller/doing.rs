//! What this node should have, and its word about the steps that ask something of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Family, LinkView, Role};
use nett_policy::id::{LinkId, SiteId};
use nett_policy::log::entry::Slot;
use nett_policy::lower::answers::{Answers, share};
use nett_policy::lower::object::NodeState;
use nett_policy::lower::{LinksUp, Place, answers, lower};
use nett_policy::task::acks::{ProbeTarget, probes};
use nett_policy::task::next::Ack;
use nett_policy::task::steps::StepKind;
use nett_policy::task::view::{last_effect, read, start_slot};

use super::effect::{AuditEvent, Effect};
use super::event::{Applied, HeldDown, News, Now};
use super::lease::Duty;
use super::{Controller, REPORT_INTERVAL, Wanted};
use crate::bus::wire::Report;
use crate::probe::bfd::Views;

#[derive(Debug, Default)]
pub(super) struct Doing {
    wanted: Wanted,
    /// The last generation that the kernel was read back to equal.
    applied: u64,
    failures: Vec<String>,
    /// Failed attempts at the present wish.
    attempts: usize,
    foreign: Vec<String>,
    /// What is wrong in the kernel apart from the present wish.
    standing: Vec<String>,
    link_troubles: Vec<String>,
    /// Links whose interfaces come and go, and when that was told.
    held: BTreeMap<LinkId, HeldDown>,
    held_at: Duration,
    links_up: LinksUp,
    links_seen: bool,
    /// What the others hear of the links: bad news at once, good when the kernel uses the link.
    links_told: LinksUp,
    /// The BFD sessions of this node's links.
    paths: Views,
    served: Answers,
    /// Handed to the zone, which has not said yet that it answers so.
    serving: Option<Answers>,
    /// Why the zone did not take the last answers, and when they are handed in again.
    zone_trouble: Option<(String, Duration)>,
    serial: Option<u32>,
    /// Why the name server does not listen.
    dns_trouble: Option<String>,
    /// Steps that ask something of this node, by the slot of their start.
    parts: BTreeMap<Slot, Part>,
    reported: Option<Report>,
    reported_at: Option<Duration>,
}

/// What this node owes to one step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The desired state that has to be in the kernel.
    generation: u64,
    probe: Probe,
    ack: Option<Ack>,
    duty: Duty,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Probe {
    NotAsked,
    Running,
    /// What still comes is counted.
    Counting,
    Finished {
        ok: bool,
        evidence: Vec<String>,
    },
}

/// How long the probes of a `verify` step may take in all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many objects of each kind a report names; the count is in the drift.
const LINES_SHOWN: usize = 3;
/// How long until answers are handed in again that the zone did not take.
const ZONE_RETRY: Duration = Duration::from_secs(1);
/// How many failed attempts at one desired state make a node say that it cannot.
const PATIENCE: usize = 3;

// === impl Doing ===

impl Doing {
    pub(super) fn links_up(&self) -> &LinksUp {
        &self.links_up
    }

    /// False until the interfaces were looked at.
    pub(super) fn links_seen(&self) -> bool {
        self.links_seen
    }

    pub(super) fn paths(&self) -> &Views {
        &self.paths
    }

    /// Why a link is held down, with what is left of it now.
    pub(super) fn held(&self, link: &LinkId, now: Now) -> Option<HeldDown> {
        let held = *self.held.get(link)?;
        let since = now.mono.saturating_sub(self.held_at);
        Some(HeldDown { left: held.left.map(|left| left.saturating_sub(since)), ..held })
    }

    pub(super) fn serial(&self) -> Option<u32> {
        self.serial
    }

    /// The zone has another serial for the same answers.
    pub(super) fn renumbered(&mut self, serial: u32) {
        if self.serial.is_some() {
            self.serial = Some(serial);
        }
    }

    pub(super) fn own_ack(&self, slot: &Slot) -> Option<Ack> {
        self.parts.get(slot)?.ack.clone()
    }

    /// Everything that is not as it should be, one line each.
    fn drift(&self) -> Vec<String> {
        let all = self.failures.iter().chain(&self.standing).chain(&self.foreign);
        all.cloned().collect()
    }

    /// The steps that wait until what still comes is measured to be gone.
    pub(super) fn counting(&self) -> impl Iterator<Item = &Slot> {
        let counting = |part: &Part| part.probe == Probe::Counting && part.ack.is_none();
        self.parts.iter().filter(move |(_, part)| counting(part)).map(|(slot, _)| slot)
    }

    /// What was counted is gone.
    pub(super) fn quiet(&mut self, slot: Slot, evidence: Vec<String>) {
        if let Some(part) = self.parts.get_mut(&slot) {
            part.ack = Some(Ack { slot, ok: true, evidence });
        }
    }

    /// What this node should have, and the number of it.
    pub(super) fn wanted(&self) -> (u64, &NodeState) {
        (self.wanted.generation, &self.wanted.state)
    }

    /// True once something was wanted of the kernel.
    pub(super) fn has_wish(&self) -> bool {
        self.wanted.generation > 0
    }

    /// What open steps ask of this node beside its kernel.
    pub(super) fn duties(&self) -> impl Iterator<Item = &Duty> {
        self.parts.values().filter(|part| part.ack.is_none()).map(|part| &part.duty)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.applied == self.wanted.generation
            && self.serving.is_none()
            && self.zone_trouble.is_none()
    }

    pub(super) fn serve_due(&self) -> Option<Duration> {
        self.zone_trouble.as_ref().map(|(_, at)| *at)
    }

    pub(super) fn report_due(&self) -> Option<Duration> {
        self.reported_at.map(|at| at + REPORT_INTERVAL)
    }
}

// === impl Controller ===

impl Controller {
    /// Lowers the placement for this node; a change is a new generation.
    pub(super) fn lower(&mut self, _now: Now) {
        let border = self.setting.node.role == Role::Border;
        let ready = (self.doing.links_seen || !border) && self.has_pulses();
        if !self.started || !self.trusted || !self.lease_is_ready() {
            return;
        }
        if self.doing.wanted.generation == 0 {
            // Answers wait neither for links nor for the kernel when nothing was answered before.
            self.serve(answers(self.world(), &self.placement));
        }
        if !ready {
            return;
        }
        let links_up = &self.doing.links_up;
        let neighbours = &self.neighbours_of(&self.setting.node);
        let Setting { layout, node } = Setting::of(&self.setting);
        let place = Place { world: self.world(), layout, node, links_up, neighbours };
        let mut state = lower(place, &self.placement);
        share(&mut state.answers, &self.doing.served);
        if state != self.doing.wanted.state || self.doing.wanted.generation == 0 {
            let generation = self.doing.wanted.generation + 1;
            self.doing.failures.clear();
            self.doing.attempts = 0;
            self.doing.wanted = Wanted { generation, state: state.clone() };
            self.effects.push(Effect::Kernel { generation, desired: Box::new(state) });
        }
        self.take_parts();
    }

    fn serve(&mut self, answers: Answers) {
        if self.doing.served != answers {
            self.doing.zone_trouble = None;
            self.doing.serving = Some(answers.clone());
            self.effects.push(Effect::Zone(answers));
        }
    }

    pub(super) fn served(&mut self, result: Result<u32, String>, now: Now) {
        let Some(answers) = self.doing.serving.take() else { return };
        match result {
            Ok(serial) => {
                self.doing.served = answers;
                self.doing.serial = Some(serial);
            }
            Err(why) => self.doing.zone_trouble = Some((why, now.mono + ZONE_RETRY)),
        }
        if self.doing.is_settled() {
            self.settle_parts(Ok(0));
        }
    }

    pub(super) fn name_server(&mut self, trouble: Option<String>) {
        let text = trouble.clone().unwrap_or_else(|| "the name server listens".to_owned());
        self.record(vec![News { kind: "dns", text }]);
        self.doing.dns_trouble = trouble;
    }

    pub(super) fn serve_again(&mut self, now: Now) {
        if self.doing.serve_due().is_some_and(|at| now.mono >= at) {
            self.doing.zone_trouble = None;
            self.serve(self.doing.wanted.state.answers.clone());
        }
    }

    pub(super) fn links(&mut self, up: LinksUp, now: Now) {
        if self.doing.links_up != up || !self.doing.links_seen {
            let first = !self.doing.links_seen;
            self.doing.links_up = up;
            self.doing.links_seen = true;
            self.links_changed = true;
            self.lower(now);
            if first || self.doing.applied == self.doing.wanted.generation {
                self.tell_links();
            } else {
                self.doing.links_told = self.doing.links_told.meet(&self.doing.links_up);
            }
        }
    }

    /// A route node that hears of a link sends packets for it at once.
    fn tell_links(&mut self) {
        self.doing.links_told.clone_from(&self.doing.links_up);
    }

    pub(super) fn paths(&mut self, views: Views, news: Vec<News>) {
        let full = self.doubted_when_full(&views);
        self.doing.paths = views;
        self.record(news);
        self.record(full);
    }

    pub(super) fn record(&mut self, news: Vec<News>) {
        let audited = |News { kind, text }| Effect::Audit(AuditEvent::Kernel { kind, text });
        self.effects.extend(news.into_iter().map(audited));
    }

    pub(super) fn applied(&mut self, applied: Applied, now: Now) {
        let Applied {
            generation,
            operations,
            failures,
            unread,
            standing,
            foreign,
            links,
            held,
            news,
        } = applied;
        self.doing.foreign = foreign;
        (self.doing.held, self.doing.held_at) = (held, now.mono);
        if !(unread && standing.is_empty()) {
            // A look that gave nothing has mended nothing.
            self.doing.standing = standing;
        }
        self.doing.link_troubles = links;
        self.record(news);
        if generation != self.doing.wanted.generation {
            return;
        }
        if failures.is_empty() {
            self.doing.failures.clear();
            self.doing.applied = generation;
            self.tell_links();
            self.serve(self.doing.wanted.state.answers.clone());
            if self.doing.is_settled() {
                self.settle_parts(Ok(operations));
            }
            return;
        }
        self.doing.failures.clone_from(&failures);
        if unread {
            return;
        }
        self.doing.attempts += 1;
        if self.doing.attempts >= PATIENCE {
            // What cannot be done may be of another service than those that use the link.
            self.tell_links();
            self.settle_parts(Err(failures));
        }
    }

    pub(super) fn probed(&mut self, slot: &Slot, ok: bool, evidence: Vec<String>) {
        if let Some(part) = self.doing.parts.get_mut(slot) {
            part.probe = Probe::Finished { ok, evidence };
        }
        if self.doing.is_settled() {
            self.settle_parts(Ok(0));
        }
    }

    /// Finds the steps that ask something of this node, and forgets those that are over.
    fn take_parts(&mut self) {
        let mut open: BTreeMap<Slot, (Part, Vec<ProbeTarget>)> = BTreeMap::new();
        let mut asked = Vec::new();
        for task in &self.open {
            let reading = read(&self.fold, task);
            let Some(number) = reading.open_step() else { continue };
            let Some(slot) = start_slot(&self.fold, task, number) else { continue };
            if let Some(part) = self.doing.parts.get(&slot) {
                open.insert(slot, (part.clone(), Vec::new()));
                continue;
            }
            let Some(effect) = last_effect(&self.fold, task) else { continue };
            let Some(step) = effect.steps.iter().find(|s| s.number == number) else { continue };
            if !step.required.contains(&self.setting.node.id) {
                continue;
            }
            let targets = match step.kind {
                StepKind::Verify => probes(self.world(), &effect.moves, step, &self.setting.node),
                StepKind::LowerTtl
                | StepKind::Activate
                | StepKind::Shift
                | StepKind::Withdraw
                | StepKind::Drained
                | StepKind::Reroute
                | StepKind::External => Vec::new(),
            };
            let probe = match step.kind {
                StepKind::Drained => Probe::Counting,
                _ if targets.is_empty() => Probe::NotAsked,
                _ => Probe::Running,
            };
            let generation = self.doing.wanted.generation;
            asked.push((slot.clone(), Arc::clone(effect), number));
            let duty = Duty::default();
            open.insert(slot, (Part { generation, probe, ack: None, duty }, targets));
        }
        for (slot, effect, number) in asked {
            let Some(step) = effect.steps.iter().find(|s| s.number == number) else { continue };
            let duty = self.duty(&effect, step);
            if let Some((part, _)) = open.get_mut(&slot) {
                part.duty = duty;
            }
        }
        for (slot, (part, targets)) in &mut open {
            // Probes over links that are down would only repeat what the links say; but a site that
            // no link reaches is no verified site.
            let asked: BTreeSet<SiteId> = targets.iter().map(|t| t.site.clone()).collect();
            let certain: Vec<ProbeTarget> =
                targets.iter().filter(|t| self.link_is_up(t.link)).cloned().collect();
            let sure = |site: &SiteId| certain.iter().any(|t| t.site == *site);
            targets.retain(|t| match sure(&t.site) {
                true => self.link_is_up(t.link),
                // What has only doubted ways is asked over those: they are what traffic would take.
                false => self.link_sends(t.link, t.vip),
            });
            let unreached = |site: &&SiteId| targets.iter().all(|t| t.site != **site);
            if let Some(site) = asked.iter().find(unreached) {
                let evidence = vec![format!("no link to {site} is up")];
                part.probe = Probe::Finished { ok: false, evidence };
            } else if !targets.is_empty() {
                let (slot, targets) = (slot.clone(), std::mem::take(targets));
                let timeout = PROBE_TIMEOUT;
                self.effects.push(Effect::Probe { slot, targets, timeout });
            }
        }
        self.doing.parts = open.into_iter().map(|(slot, (part, _))| (slot, part)).collect();
        self.measure_parts();
        if self.doing.is_settled() {
            self.settle_parts(Ok(0));
        }
    }

    fn link_is_up(&self, index: u8) -> bool {
        self.own_link(index).is_some_and(|link| self.doing.links_up.contains(link))
    }

    fn link_sends(&self, index: u8, to: IpAddr) -> bool {
        let sends = |link| self.doing.links_up.sends(link, Family::of(to));
        self.own_link(index).is_some_and(sends)
    }

    fn own_link(&self, index: u8) -> Option<&LinkId> {
        let mut views = self.setting.fabric.links_of(&self.setting.node.id);
        views.find(|view| view.index == index).map(|view| &view.link.id)
    }

    /// Acknowledges what is owed and done, after the kernel was read back.
    pub(super) fn settle_parts(&mut self, outcome: Result<usize, Vec<String>>) {
        let (applied, lease) = (self.doing.applied, self.lease.as_ref());
        for (slot, part) in &mut self.doing.parts {
            if part.ack.is_some() {
                continue;
            }
            part.ack = match (&outcome, &part.probe) {
                // Only what is counted ends it: see `draining`.
                (_, Probe::Counting) => None,
                (Err(failures), _) => {
                    Some(Ack { slot: slot.clone(), ok: false, evidence: failures.clone() })
                }
                (Ok(_), Probe::Running) => None,
                (Ok(_), _) if part.generation > applied => None,
                (Ok(_), _) if !Self::is_done(lease, &part.duty, &slot.task) => None,
                (Ok(_), Probe::NotAsked) => {
                    Some(Ack { slot: slot.clone(), ok: true, evidence: Vec::new() })
                }
                (Ok(_), Probe::Finished { ok, evidence }) => {
                    Some(Ack { slot: slot.clone(), ok: *ok, evidence: evidence.clone() })
                }
            };
        }
    }

    /// Reports when something changed, and at least every [`REPORT_INTERVAL`].
    pub(super) fn report(&mut self, now: Now) {
        if self.setting.node.role == Role::Border && !self.doing.links_seen {
            // Links that nobody has looked at yet would read as links that are down.
            return;
        }
        let mut degraded: Vec<String> = Vec::new();
        if !self.doing.failures.is_empty() || !self.doing.standing.is_empty() {
            degraded.push("kernel".to_owned());
        }
        let wrong = self.doing.failures.iter().chain(&self.doing.standing);
        degraded.extend(wrong.take(LINES_SHOWN).map(|line| format!("kernel: {line}")));
        degraded.extend(self.doing.link_troubles.iter().cloned());
        degraded.extend(self.saturation_troubles());
        degraded.extend(self.silent_neighbours());
        degraded.extend(self.separation_troubles());
        if let Some((why, _)) = &self.doing.zone_trouble {
            degraded.push(format!("zone: {why}"));
        }
        if let Some(why) = &self.doing.dns_trouble {
            degraded.push(format!("dns: no name is answered here: {why}"));
        }
        if let Some(why) = self.deciding.journal_trouble.as_ref() {
            degraded.push(format!("durability: {why}"));
        }
        degraded
            .extend(self.doing.foreign.iter().take(LINES_SHOWN).map(|f| format!("foreign: {f}")));
        if let Some(Err(why)) = &self.peers.hearing {
            degraded.push(format!("bus: commands and questions are not heard: {why}"));
        }
        if !self.trusted {
            degraded.push("journal: entries are missing; waiting for the logs".to_owned());
        }
        degraded.extend(self.lease_trouble());
        degraded.extend(self.reading.trouble().map(|(site, what)| format!("log {site}: {what}")));
        let own = || self.setting.fabric.links_of(&self.setting.node.id);
        let told = &self.doing.links_told;
        let link = |id: &LinkId| (id.clone(), told.contains(id));
        // A link that one family waits for is not as good as one that carries both.
        let waits = |view: &LinkView<'_>| {
            let lacks = |family: &Family| {
                view.gateway(*family).is_some() && !told.carries(&view.link.id, *family)
            };
            told.may_carry(&view.link.id) && Family::BOTH.iter().any(lacks)
        };
        let report = Report {
            site: self.setting.node.site.clone(),
            node: self.setting.node.id.clone(),
            at: now.wall,
            fabric: self.fabric_ref(),
            heads: self.reading.heads(),
            acks: self.doing.parts.values().filter_map(|p| p.ack.clone()).collect(),
            measuring: self.draining.told(now.mono),
            links: own().map(|view| link(&view.link.id)).collect(),
            doubted: own().filter(waits).map(|view| view.link.id.clone()).collect(),
            rtts: self.near.own_told().clone(),
            dns_serial: self.doing.serial,
            drift: self.doing.drift(),
            degraded,
            counters: self.own_counts(),
            bytes: self.own_bytes(),
        };
        // How far the logs are read and what was counted go along with the next report: they change
        // all the time.
        let same = |old: &Report| {
            let (heads, counters) = (report.heads.clone(), report.counters.clone());
            let bytes = report.bytes.clone();
            Report { at: now.wall, heads, counters, bytes, ..old.clone() } == report
        };
        let unchanged = self.doing.reported.as_ref().is_some_and(same);
        let fresh = self.doing.reported_at.is_some_and(|at| now.mono < at + REPORT_INTERVAL);
        if unchanged && fresh {
            return;
        }
        self.doing.reported = Some(report.clone());
        self.doing.reported_at = Some(now.mono);
        self.effects.push(Effect::Report(Box::new(report)));
    }

    /// This node's own report, as it last went out.
    pub(super) fn own_report(&self) -> Option<&Report> {
        self.doing.reported.as_ref()
    }
}

/// The part of the setting that lowering borrows.
struct Setting<'a> {
    layout: &'a nett_policy::lower::object::Layout,
    node: &'a nett_policy::fabric::Node,
}

impl<'a> Setting<'a> {
    fn of(setting: &'a super::Setting) -> Self {
        Self { layout: &setting.layout, node: &setting.node }
    }
}
