//! What stands between the reconciler and its simulated kernel: it makes things go wrong as the
//! seed has it, and holds every write against the laws. `shared.rs` is how both get at it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use fastrand::Rng;
use nett_agent::controller::event::Applied;
use nett_agent::kernel::{
    Foreign, Kernel, KernelError, KernelEvent, Origin, Parts, Readback, SimulatedKernel,
};
use nett_policy::lower::object::{NexthopId, NodeState};
use nett_policy::plan::{Object, Op};
use nix::errno::Errno;
use tokio::time::Instant;

use crate::fates::{Fate, Packet, fates, ways_of_all};
use crate::laws::{self, Pace, Part};
use crate::mutants::{Memory, Mutant};

/// The last things that happened, for a report about a failing seed.
const TRACE: usize = 600;
/// Enough of what was wrong.
const WRONG: usize = 20_000;

/// A desired state with the ways that packets may go in it.
pub(crate) struct Wish {
    pub(crate) state: Arc<NodeState>,
    pub(crate) ways: Vec<BTreeSet<NexthopId>>,
}

/// Which writes a kernel refuses.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    All,
    Nexthops,
    Routes,
    Rules,
    Guard,
    One(Object),
    /// One of so many.
    Some(u8),
}

#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) which: Which,
    pub(crate) errno: Errno,
    pub(crate) until: Instant,
}

/// A write whose answer is lost, or comes too late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    pub(crate) done: bool,
    pub(crate) after: Duration,
}

/// When the process dies: at the so manieth write from now, before or behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    pub(crate) at: u32,
    pub(crate) behind: bool,
}

/// What goes wrong at the next calls.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) lost: VecDeque<Lost>,
    pub(crate) torn: u32,
    pub(crate) unread: u32,
    pub(crate) death: Option<Death>,
    /// Each call takes up to so many milliseconds.
    pub(crate) slow: u64,
}

/// What the monitor has not yet told.
#[derive(Debug, Default)]
struct Pending {
    overrun: bool,
    interfaces: bool,
    other: bool,
    kernel: bool,
    own: bool,
}

/// The process.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) over: bool,
    pub(crate) stopped: bool,
    pub(crate) waker: Option<Waker>,
}

/// How much was done, so that a sweep shows that its seeds do something.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) writes: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) torn: u64,
    pub(crate) looks: u64,
    pub(crate) lives: u64,
    pub(crate) deaths: u64,
    pub(crate) contested: u64,
    pub(crate) held: u64,
}

pub(crate) struct Stage {
    pub(crate) kernel: SimulatedKernel,
    pub(crate) rng: Rng,
    pub(crate) packets: Vec<Packet>,
    /// Since the last one that was in place, and that one.
    pub(crate) asked: Vec<Wish>,
    /// What the present plan may be for: the wish at the last look, and those since.
    pub(crate) plans: Vec<Arc<NodeState>>,
    pub(crate) faults: Faults,
    /// What others changed since it was looked at.
    pub(crate) unseen: BTreeSet<Object>,
    /// Of ours, with another value by somebody else's hand.
    pub(crate) bent: BTreeSet<Object>,
    /// With our marks, and not put there in this life.
    pub(crate) strangers: BTreeSet<Object>,
    /// Of former lives: the next may have taken them over.
    pub(crate) former: BTreeSet<Object>,
    /// Objects of others in our place.
    pub(crate) foreign: Vec<Foreign>,
    /// What was not read whole.
    pub(crate) torn: BTreeSet<Part>,
    pub(crate) pace: Pace,
    pub(crate) report: Option<Applied>,
    pub(crate) generation: u64,
    /// Something was wanted, and the kernel read whole.
    taken_over: bool,
    /// When a write last failed.
    pub(crate) failed: Option<Instant>,
    /// One line each.
    pub(crate) wrong: Option<String>,
    pub(crate) trace: VecDeque<String>,
    pub(crate) tally: Tally,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) memory: Memory,
    /// What becomes of packets now, unless that has to be found out.
    now: Option<Vec<Fate>>,
    pending: Pending,
    pub(crate) process: Process,
    begun: Instant,
}

/// The answer to a write.
pub(crate) enum Answer {
    After(Duration, Result<(), KernelError>),
    /// The process is gone.
    Never,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn and(self, other: Self) -> Self {
        let Self { writes, refused, lost, torn, looks, lives, deaths, contested, held } = other;
        Self {
            writes: self.writes + writes,
            refused: self.refused + refused,
            lost: self.lost + lost,
            torn: self.torn + torn,
            looks: self.looks + looks,
            lives: self.lives + lives,
            deaths: self.deaths + deaths,
            contested: self.contested + contested,
            held: self.held + held,
        }
    }

    pub(crate) fn is_of_everything(self) -> bool {
        let Self { writes, refused, lost, torn, looks, lives, deaths, contested, held } = self;
        ![writes, refused, lost, torn, looks, lives, deaths, contested, held].contains(&0)
    }
}

// === impl Stage ===

impl Stage {
    pub(crate) fn new(kernel: SimulatedKernel, packets: Vec<Packet>, rng: Rng) -> Self {
        Self {
            kernel,
            rng,
            packets,
            asked: Vec::new(),
            plans: Vec::new(),
            faults: Faults::default(),
            unseen: BTreeSet::new(),
            bent: BTreeSet::new(),
            strangers: BTreeSet::new(),
            former: BTreeSet::new(),
            foreign: Vec::new(),
            torn: BTreeSet::new(),
            pace: Pace::default(),
            report: None,
            generation: 0,
            taken_over: false,
            failed: None,
            wrong: None,
            trace: VecDeque::new(),
            tally: Tally::default(),
            mutant: None,
            memory: Memory::default(),
            now: None,
            pending: Pending::default(),
            process: Process::default(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let at = self.begun.elapsed().as_secs_f64();
        self.trace.push_back(format!("{at:>9.3} {}", what()));
    }

    pub(crate) fn complain(&mut self, what: String) {
        self.note(|| format!("WRONG: {what}"));
        match &mut self.wrong {
            Some(all) if all.len() < WRONG => all.extend(["\n", &what]),
            Some(_) => {}
            None => self.wrong = Some(what),
        }
    }

    // --- what happens behind the reconciler's back

    /// Somebody else changes the kernel. With `bends`, values of ours.
    pub(crate) fn disturb(&mut self, bends: bool, change: impl FnOnce(&mut SimulatedKernel)) {
        let before = self.kernel.state().clone();
        change(&mut self.kernel);
        let after = self.kernel.state();
        let changed = laws::difference(&before, after);
        if bends {
            self.bent.extend(changed.iter().cloned());
        }
        self.strangers.retain(|object| laws::is_there(object, after));
        self.former.retain(|object| laws::is_there(object, after));
        self.unseen.extend(changed);
        self.now = None;
        self.pace.disturbed(Instant::now());
    }

    /// Objects of others are there now.
    pub(crate) fn set_foreign(&mut self, foreign: Vec<Foreign>) {
        for one in foreign.iter().chain(&self.foreign) {
            self.unseen.extend(laws::place_of(one));
        }
        self.foreign.clone_from(&foreign);
        self.kernel.set_foreign(foreign);
        self.pace.disturbed(Instant::now());
    }

    /// The monitor hears of something.
    pub(crate) fn tell(&mut self, event: KernelEvent) {
        if self.mutant == Some(Mutant::DeafMonitor) {
            return;
        }
        match event {
            KernelEvent::Overrun => self.pending.overrun = true,
            KernelEvent::Interfaces => self.pending.interfaces = true,
            KernelEvent::Objects(Origin::Other) => self.pending.other = true,
            KernelEvent::Objects(Origin::Kernel) => self.pending.kernel = true,
            KernelEvent::Objects(Origin::Own) => self.pending.own = true,
        }
        self.pace.disturbed(Instant::now());
    }

    /// In the order of the real monitor.
    pub(crate) fn take_news(&mut self) -> Option<KernelEvent> {
        let Pending { overrun, interfaces, other, kernel, own } = &mut self.pending;
        if std::mem::take(overrun) {
            return Some(KernelEvent::Overrun);
        }
        if std::mem::take(interfaces) {
            return Some(KernelEvent::Interfaces);
        }
        let all = [(other, Origin::Other), (kernel, Origin::Kernel), (own, Origin::Own)];
        let mut told = None;
        for (flag, origin) in all {
            if std::mem::take(flag) {
                told = told.or(Some(KernelEvent::Objects(origin)));
            }
        }
        told
    }

    // --- the process

    pub(crate) fn begin(&mut self) {
        self.note(|| "the process begins".to_owned());
        self.tally.lives += 1;
        self.process = Process::default();
        self.pending = Pending::default();
        self.plans.clear();
        self.torn.clear();
        self.former.append(&mut self.strangers);
        self.faults.death = None;
        self.report = None;
        self.taken_over = false;
        self.generation = 0;
        self.pace.disturbed(Instant::now());
    }

    pub(crate) fn kill(&mut self) {
        if !self.process.over {
            self.note(|| "SIGKILL".to_owned());
            self.tally.deaths += 1;
            self.process.over = true;
            self.wake();
        }
    }

    pub(crate) fn stop(&mut self, stopped: bool) {
        self.note(|| if stopped { "SIGSTOP" } else { "SIGCONT" }.to_owned());
        self.process.stopped = stopped;
        self.pace.disturbed(Instant::now());
        self.wake();
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.process.over
    }

    /// What is there may yet be taken over: nothing is wanted, or nothing was read whole.
    pub(crate) fn is_beginning(&self) -> bool {
        !self.taken_over
    }

    fn wake(&mut self) {
        if let Some(waker) = self.process.waker.take() {
            waker.wake();
        }
    }

    // --- what is wanted, and told of it

    pub(crate) fn wished(&mut self, generation: u64, state: Arc<NodeState>) {
        self.note(|| format!("generation {generation} is wanted"));
        let ways = ways_of_all(&self.packets, &state);
        self.asked.push(Wish { state: state.clone(), ways });
        self.plans.push(state);
        self.generation = generation;
        self.report = None;
        self.pace.disturbed(Instant::now());
    }

    pub(crate) fn reported(&mut self, applied: Applied) {
        let Applied { generation, operations, .. } = &applied;
        let (failures, standing) = (applied.failures.len(), applied.standing.len());
        self.note(|| {
            let first = applied.failures.first().or(applied.standing.first());
            let first = first.map(|line| line.chars().take(150).collect::<String>());
            format!(
                "generation {generation}: {operations} operations, {failures} failures, \
                 {standing} standing {}",
                first.unwrap_or_default()
            )
        });
        let in_part = |line: &String| line.contains("the kernel could not be read");
        self.taken_over |= !applied.failures.iter().any(in_part);
        let is_contested = |line: &&String| line.contains("left alone for");
        let contested = applied.failures.iter().chain(&applied.standing).any(|l| is_contested(&l));
        self.tally.contested += u64::from(contested);
        self.tally.held += u64::from(!applied.held.is_empty());
        let in_place = failures + standing == 0 && *generation == self.generation;
        if in_place && let Some(last) = self.asked.pop() {
            if *last.state == *self.kernel.state() {
                self.asked.clear();
                self.bent.clear();
            }
            self.asked.push(last);
        }
        if *generation == self.generation {
            self.report = Some(applied);
        }
    }

    // --- what the reconciler asks of its kernel

    pub(crate) fn pause(&mut self) -> Duration {
        let most = self.faults.slow;
        Duration::from_millis(if most == 0 { 0 } else { self.rng.u64(0..=most) })
    }

    fn looked(&mut self, parts: Option<&Parts>) {
        self.tally.looks += 1;
        if let Some(last) = self.plans.pop() {
            self.plans = vec![last];
        }
        if parts.is_none() {
            self.unseen.clear();
        } else if let Some(parts) = parts {
            self.unseen.retain(|object| !laws::covers(parts, object));
        }
    }

    fn refused_look(&mut self) -> Option<KernelError> {
        if self.faults.unread == 0 {
            return None;
        }
        self.faults.unread -= 1;
        self.note(|| "a dump is refused".to_owned());
        let object = "nft table inet nett".to_owned();
        Some(match self.rng.bool() {
            true => KernelError::Privilege { object, errno: Errno::EPERM, text: None },
            false => KernelError::Unanswered { object },
        })
    }

    /// Whether the dumps of this look are torn.
    fn tears(&mut self) -> bool {
        let torn = self.faults.torn > 0;
        self.faults.torn = self.faults.torn.saturating_sub(1);
        self.tally.torn += u64::from(torn);
        torn
    }

    pub(crate) fn read(&mut self) -> Result<Readback, KernelError> {
        if let Some(error) = self.refused_look() {
            return Err(error);
        }
        let mut readback = now(self.kernel.read())?;
        self.torn.clear();
        if self.tears() {
            self.note(|| "a look is torn".to_owned());
            self.tear(&mut readback, None);
            self.torn.extend(Part::ALL);
        } else {
            self.looked(None);
        }
        self.lie(&mut readback);
        Ok(readback)
    }

    pub(crate) fn refresh(
        &mut self,
        readback: &mut Readback,
        parts: &Parts,
    ) -> Result<(), KernelError> {
        if let Some(error) = self.refused_look() {
            return Err(error);
        }
        now(self.kernel.refresh(readback, parts))?;
        if self.tears() {
            self.note(|| "a look is torn".to_owned());
            self.tear(readback, Some(parts));
            self.torn.extend(Part::of(parts));
        } else {
            for part in Part::of(parts) {
                self.torn.remove(&part);
            }
            self.looked(Some(parts));
        }
        self.lie(readback);
        Ok(())
    }

    /// Loses some of what was looked at, and says so.
    fn tear(&mut self, readback: &mut Readback, parts: Option<&Parts>) {
        let looked = |object: &Object| parts.is_none_or(|parts| laws::covers(parts, object));
        let share = self.rng.u8(1..100);
        let rng = &mut self.rng;
        let mut kept = |object: Object| !looked(&object) || rng.u8(0..100) >= share;
        let state = &mut readback.state;
        state.nexthops.retain(|id, _| kept(Object::Nexthop(*id)));
        state.routes.retain(|key, _| kept(Object::Route(*key)));
        state.rules.retain(|rule| kept(Object::Rule(rule.clone())));
        if state.guard.is_some() && !kept(Object::Guard) {
            state.guard = None;
        }
        readback.complete = false;
    }

    fn refuses(&mut self, op: &Op) -> Option<KernelError> {
        let at = Instant::now();
        self.faults.refusals.retain(|refusal| refusal.until > at);
        let object = op.object()?;
        let rng = &mut self.rng;
        let meets = |refusal: &&Refusal| match (&refusal.which, &object) {
            (Which::All, _)
            | (Which::Nexthops, Object::Nexthop(_))
            | (Which::Routes, Object::Route(_))
            | (Which::Rules, Object::Rule(_))
            | (Which::Guard, Object::Guard) => true,
            (Which::One(one), object) => one == object,
            (Which::Some(many), _) => rng.u8(0..*many) == 0,
            _ => false,
        };
        let errno = self.faults.refusals.iter().find(meets)?.errno;
        let (object, text) = (op.to_string(), Some("a fault".to_owned()));
        Some(match errno {
            Errno::EPERM => KernelError::Privilege { object, errno, text },
            Errno::ENOMEM => KernelError::System { object, errno },
            errno => KernelError::Refused { object, errno, text },
        })
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Answer {
        if self.process.over {
            return Answer::Never;
        }
        let at = Instant::now();
        self.tally.writes += 1;
        let dies = self.faults.death.filter(|death| death.at == 0).map(|death| death.behind);
        if let Some(death) = &mut self.faults.death {
            death.at = death.at.saturating_sub(1);
        }
        if dies == Some(false) {
            self.kill();
            return Answer::Never;
        }
        if let Some(text) = self.pace.wrote(op, at) {
            self.complain(text);
        }
        if let Some(error) = self.refuses(op) {
            self.note(|| format!("{op}: {error}"));
            self.tally.refused += 1;
            self.failed = Some(at);
            return Answer::After(self.pause(), Err(error));
        }
        let lost = self.faults.lost.pop_front();
        if let Some(Lost { done: false, after }) = lost {
            self.note(|| format!("{op}: not done, no answer"));
            return self.unanswered(op, after);
        }
        if laws::meets_unseen(op, &self.foreign, &self.unseen) {
            // Whoever wrote last holds the place; nobody can know that before it is read.
            let (object, reason) = (op.to_string(), "somebody was faster".to_owned());
            self.failed = Some(at);
            return Answer::After(self.pause(), Err(KernelError::Stale { object, reason }));
        }
        let result = self.carry_out(op);
        if dies == Some(true) {
            self.kill();
            return Answer::Never;
        }
        match lost {
            Some(Lost { after, .. }) => self.unanswered(op, after),
            None => Answer::After(self.pause(), result),
        }
    }

    fn unanswered(&mut self, op: &Op, after: Duration) -> Answer {
        self.tally.lost += 1;
        self.failed = Some(Instant::now());
        Answer::After(after, Err(KernelError::Unanswered { object: op.to_string() }))
    }

    fn carry_out(&mut self, op: &Op) -> Result<(), KernelError> {
        if let Err(wrong) = laws::before(self, op) {
            self.complain(format!("{op}: {wrong}"));
        }
        let before = self.now.take().unwrap_or_else(|| fates(&self.packets, self.kernel.state()));
        let result = now(self.kernel.apply(op));
        self.note(|| match &result {
            Ok(()) => op.to_string(),
            Err(error) => format!("{op}: {error}"),
        });
        if result.is_err() {
            self.failed = Some(Instant::now());
            self.now = Some(before);
            return result;
        }
        self.kernel.take_applied();
        self.pending.own = true;
        let after = fates(&self.packets, self.kernel.state());
        if let Some(object) = op.object() {
            self.unseen.remove(&object);
            let wanted = self.plans.last();
            if wanted.is_some_and(|w| laws::is_same(&object, w, self.kernel.state())) {
                self.bent.remove(&object);
            }
        }
        if let Err(wrong) = laws::after(self, &before, &after) {
            self.complain(format!("{op}: {wrong}"));
        }
        self.now = Some(after);
        result
    }
}

/// What a simulated kernel is asked it answers at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(future).expect("nothing to wait for")
}
