//! SIGKILL at every write to disk and every write to the kernel that any node makes for its part of
//! a failover: whoever died begins again, the task comes to its end everywhere, and no kernel is
//! left between the two states.
//!
//! What there is to die at is counted first, in a failover there and back that nobody disturbs.
//! `make kill-sweep` dies at all of it, `make test` at a few places that a seed chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, Told, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::API;
use nett_netns_tests::story::{Operator, TASK, Traffic, tell};
use nett_netns_tests::tripwire::{Calls, Ended, Moment, Tripwire};
use serde_json::Value;

/// Who is told to do it: its site is the home of every task here.
const HOME: &str = "osl-b1";
/// The two states of the service, by the site that serves: each task goes from one to the other.
const TARGETS: [&str; 2] = ["svg", "osl"];
/// So many places without anything said.
const FEW: usize = 3;

/// Every node's kernel.
type Kernels = BTreeMap<String, Kernel>;

/// How often each node writes in a task to a site.
type Counts = BTreeMap<(String, &'static str, &'static str), usize>;

/// Where an agent dies.
#[derive(Debug, Clone)]
struct Place {
    node: String,
    calls: Calls,
    moment: Moment,
    /// Which of the calls since the task was asked for, from 1.
    at: usize,
    target: &'static str,
}

/// How a task ended at whose beginning or in whose midst somebody died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Acknowledged before the death, and done.
    Acknowledged,
    /// Nobody heard an answer; asked for again, and done.
    AskedAgain,
    /// It ended, and all is as before.
    BackedOut,
    /// Done with fewer calls than were counted.
    NotReached,
}

/// A lab whose two states are known.
struct Sweep<'a> {
    lab: &'a mut Lab,
    whole: BTreeMap<&'static str, Kernels>,
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, calls, moment, at, target } = self;
        write!(f, "{node} dies {moment} {calls} {at} of a task to {target}")
    }
}

// === impl Sweep ===

impl<'a> Sweep<'a> {
    /// Moves the service there and back, and remembers both states and every count.
    fn begin(lab: &'a mut Lab) -> Result<(Self, Counts)> {
        let mut counts = Counts::new();
        let mut sweep = Self { whole: BTreeMap::from([("osl", kernels(lab)?)]), lab };
        for calls in [Calls::Disk, Calls::Kernel] {
            for target in TARGETS {
                sweep.count(calls, target, &mut counts)?;
                let now = kernels(sweep.lab)?;
                let before = sweep.whole.entry(target).or_insert_with(|| now.clone());
                let changes = differences(before, &now);
                ensure!(changes.is_empty(), "to {target} twice gives two states: {changes:#?}");
            }
        }
        ensure!(
            sweep.whole["osl"].iter().all(|(node, kernel)| sweep.whole["svg"][node] != *kernel),
            "a node has nothing to do"
        );
        Ok((sweep, counts))
    }

    fn count(&mut self, calls: Calls, target: &'static str, counts: &mut Counts) -> Result<()> {
        let mut wires = Vec::new();
        for node in Node::all() {
            let wire = self.lay(&node.name, calls, None)?;
            wires.push((node.name, wire));
        }
        let task = self.mira(HOME).complete(&["failover", API.id, "--to", target])?;
        self.done_everywhere(&task)?;
        for (node, wire) in wires {
            counts.insert((node, name_of(calls), target), wire.count()?);
            wire.end()?;
        }
        Ok(())
    }

    fn lay(&mut self, node: &str, calls: Calls, moment: Option<Moment>) -> Result<Tripwire> {
        let ns = self.lab.ns(node)?;
        let pid = self.lab.process(&agent_name(node))?.record().pid;
        let trace = self.lab.layout().log(&format!("tripwire-{node}"));
        Tripwire::lay(&ns, pid, calls, moment, trace)
    }

    fn mira<'b>(&'b self, node: &'b str) -> Operator<'b> {
        Operator { lab: self.lab, node, name: "mira" }
    }

    /// The tasks that a node knows, with their states.
    fn tasks(&self, node: &str) -> Result<BTreeMap<String, String>> {
        let told = self.mira(node).run(&["-o", "json", "task", "list"])?.must_be(0)?.json()?;
        let list = told["ok"]["tasks"].as_array().context("a list of tasks")?;
        let text =
            |value: &Value| -> Result<String> { Ok(value.as_str().context("a text")?.to_owned()) };
        list.iter().map(|task| Ok((text(&task["id"])?, text(&task["state"])?))).collect()
    }

    fn done_everywhere(&self, task: &str) -> Result<()> {
        for node in Node::all() {
            eventually(TASK, &format!("{} knows that {task} is done", node.name), || {
                match self.mira(&node.name).state_of(task)?.as_str() {
                    "done" => Ok(()),
                    state => bail!("it is {state}"),
                }
            })?;
        }
        Ok(())
    }

    /// Until every kernel is wholly as it is when `site` serves.
    fn becomes_whole(&self, site: &str) -> Result<()> {
        eventually(patience() * 2, &format!("every kernel is that of {site}"), || {
            let changes = differences(&self.whole[site], &kernels(self.lab)?);
            if changes.is_empty() { Ok(()) } else { bail!("{changes:#?}") }
        })
        .map(drop)
    }

    /// The service goes where the next task finds it.
    fn move_to(&self, target: &str) -> Result<()> {
        let task = self.mira(HOME).complete(&["failover", API.id, "--to", target])?;
        self.done_everywhere(&task)?;
        self.becomes_whole(target)
    }

    /// One death. The service stands at the other site before, and at the target afterwards
    /// unless the task ended otherwise.
    fn die(&mut self, place: &Place) -> Result<(Fate, Ended)> {
        let leaks = self.lab.leaks()?;
        let known = self.tasks(HOME)?;
        let traffic = Traffic::to_vips(self.lab, &["osl-c1", "svg-c1"], API)?;
        let wire = self.lay(&place.node, place.calls, Some(place.moment))?.arm(place.at)?;
        let told = self.order(place.target)?;
        let acknowledged = acknowledged(&told)?;
        // It may be done without the call; what still follows is waited for no longer.
        let _ = eventually_true(TASK, "somebody dies, or the task is done", || {
            let state = acknowledged.as_ref().map(|task| self.mira(HOME).state_of(task));
            Ok(wire.has_fired() || matches!(state, Some(Ok(state)) if state == "done"))
        })?;
        let _ = eventually_true(patience() / 5, "somebody dies", || Ok(wire.has_fired()));
        let ended = wire.finish()?;
        if ended != Ended::Lives {
            self.lab.take_process(&agent_name(&place.node))?.kill();
            self.lab.start_agent(&place.node)?;
            self.lab.wait_for_agent(&place.node)?;
        }
        let fate = match &acknowledged {
            Some(task) => {
                self.done_everywhere(task).context("an acknowledged task")?;
                if ended == Ended::Lives { Fate::NotReached } else { Fate::Acknowledged }
            }
            None => self.ask_again(place.target, &known)?,
        };
        let other = TARGETS.into_iter().find(|site| *site != place.target);
        let site = match fate {
            Fate::BackedOut => other.context("two sites")?,
            Fate::Acknowledged | Fate::AskedAgain | Fate::NotReached => place.target,
        };
        self.becomes_whole(site)?;
        traffic.settles_on(site)?;
        self.holds(&known)?;
        let report = traffic.finish();
        ensure!(report.lost() == 0, "{}", report.summary());
        let leaked = self.lab.leaks()?.since(&leaks);
        ensure!(leaked.total() == 0, "{leaked:?}");
        Ok((fate, ended))
    }

    fn order(&self, target: &str) -> Result<Told> {
        self.mira(HOME).order(&["failover", API.id, "--to", target])
    }

    /// Whoever heard nothing asks again; it is refused where the first one is known.
    fn ask_again(&self, target: &str, known: &BTreeMap<String, String>) -> Result<Fate> {
        if let Some(task) = acknowledged(&self.order(target)?)? {
            self.done_everywhere(&task).context("a task asked for again")?;
            return Ok(Fate::AskedAgain);
        }
        let (states, _) = eventually(TASK, "the task that is known ends", || {
            let mut tasks = self.tasks(HOME)?;
            tasks.retain(|task, _| !known.contains_key(task));
            ensure!(!tasks.is_empty(), "none is known, and another is refused");
            ensure!(tasks.values().all(|state| has_ended(state)), "{tasks:?}");
            Ok(tasks)
        })?;
        let done = states.iter().find(|(_, state)| *state == "done");
        let Some((task, _)) = done else { return Ok(Fate::BackedOut) };
        self.done_everywhere(task).context("a task nobody heard of")?;
        Ok(Fate::AskedAgain)
    }

    /// Every entry that a node has in its journal stands in its audit trail, once.
    fn all_of_it_is_audited(&self, node: &str) -> Result<()> {
        let state = self.lab.layout().state(node);
        let id = |entry: &Value| entry["id"].as_str().map(str::to_owned);
        let journal = std::fs::read_to_string(state.join("journal"))?;
        let entries = journal.lines().filter_map(|line| line.splitn(3, ' ').nth(2));
        let kept: BTreeSet<String> =
            entries.filter_map(|text| id(&serde_json::from_str(text).ok()?)).collect();
        ensure!(!kept.is_empty(), "{node} has an empty journal");
        eventually(patience(), &format!("the trail of {node} has its journal"), || {
            let trail = std::fs::read_to_string(state.join("audit.jsonl"))?;
            let lines = trail.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut told = BTreeMap::<String, usize>::new();
            for entry in lines.filter_map(|line| id(&line["entry"])) {
                *told.entry(entry).or_default() += 1;
            }
            let lacks: Vec<_> = kept.iter().filter(|id| !told.contains_key(*id)).collect();
            ensure!(lacks.is_empty(), "it lacks {lacks:?}");
            let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
            ensure!(twice.is_empty(), "it has {twice:?}");
            Ok(())
        })?;
        Ok(())
    }

    /// Every audit trail is whole, everybody knows the same tasks, the former ones among them, and
    /// all have ended.
    fn holds(&self, known: &BTreeMap<String, String>) -> Result<()> {
        let mut read = BTreeMap::new();
        for node in Node::all() {
            self.mira(&node.name).run(&["audit", "--verify"])?.must_be(0)?;
            self.all_of_it_is_audited(&node.name)?;
            let (tasks, _) = eventually(TASK, "every task has ended", || {
                let tasks = self.tasks(&node.name)?;
                ensure!(tasks.values().all(|state| has_ended(state)), "{tasks:?}");
                Ok(tasks)
            })?;
            let lost: Vec<_> = known.keys().filter(|task| !tasks.contains_key(*task)).collect();
            ensure!(lost.is_empty(), "{} has lost {lost:?}", node.name);
            read.insert(node.name, tasks);
        }
        let readings: BTreeSet<_> = read.values().collect();
        ensure!(readings.len() == 1, "nodes know different tasks: {read:#?}");
        Ok(())
    }
}

fn name_of(calls: Calls) -> &'static str {
    match calls {
        Calls::Disk => "disk",
        Calls::Kernel => "kernel",
    }
}

/// The task of a command that was taken.
fn acknowledged(told: &Told) -> Result<Option<String>> {
    if told.code != Some(0) {
        return Ok(None);
    }
    let json = told.json()?;
    Ok(Some(json["task"].as_str().context("a task")?.to_owned()))
}

fn has_ended(state: &str) -> bool {
    !["waiting-approval", "running", "paused", "confirming"].contains(&state)
}

fn kernels(lab: &Lab) -> Result<Kernels> {
    let nodes = Node::all().into_iter();
    nodes.map(|n| Ok((n.name.clone(), Kernel::of(&lab.ns(&n.name)?)?))).collect()
}

fn differences(before: &Kernels, later: &Kernels) -> Vec<String> {
    let of = |(node, kernel): (&String, &Kernel)| {
        let changes = kernel.changes(&later[node]);
        changes.into_iter().map(|change| format!("{node}: {change}")).collect::<Vec<_>>()
    };
    before.iter().flat_map(of).collect()
}

/// Every place, so that one task goes there and the next one back wherever both have that call.
fn places(counts: &Counts) -> Vec<Place> {
    let mut all = Vec::new();
    for node in Node::all() {
        for calls in [Calls::Disk, Calls::Kernel] {
            let count = |target| counts[&(node.name.clone(), name_of(calls), target)];
            let most = TARGETS.map(count).into_iter().max().unwrap_or_default();
            for (at, moment) in
                (1..=most).flat_map(|at| [(at, Moment::Before), (at, Moment::Behind)])
            {
                let there = TARGETS.into_iter().filter(|target| at <= count(target));
                let node = node.name.clone();
                all.extend(there.map(|target| Place {
                    node: node.clone(),
                    calls,
                    moment,
                    at,
                    target,
                }));
            }
        }
    }
    all
}

/// `NETT_KILLS`: `all`, a number of places all over the list, or words of the places meant.
fn chosen(all: &[Place], seed: usize) -> Vec<Place> {
    let wish = std::env::var("NETT_KILLS").unwrap_or_else(|_| FEW.to_string());
    match wish.parse::<usize>() {
        Ok(few) => {
            let few = few.min(all.len());
            (0..few).map(|n| all[(seed + n * all.len() / few) % all.len()].clone()).collect()
        }
        Err(_) if wish == "all" => all.to_vec(),
        Err(_) => all.iter().filter(|place| place.to_string().contains(&wish)).cloned().collect(),
    }
}

#[test]
fn an_agent_that_dies_at_any_write_of_a_task_leaves_nothing_half_done() -> Result<()> {
    let seed = std::env::var("NETT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| std::process::id() as usize);
    tell("an_agent_that_dies_at_any_write_of_a_task_leaves_nothing_half_done", |lab| {
        let (mut sweep, counts) = Sweep::begin(lab)?;
        for ((node, calls, target), count) in &counts {
            show(&format!("{node} writes {count} times to {calls} in a task to {target}"));
        }
        let all = places(&counts);
        let chosen = chosen(&all, seed);
        ensure!(!chosen.is_empty(), "NETT_KILLS names none of {} places", all.len());
        let (begun, mut fates, mut late) = (Instant::now(), BTreeMap::new(), 0);
        let mut site = "osl";
        for place in &chosen {
            if site == place.target {
                sweep.move_to(if site == "osl" { "svg" } else { "osl" })?;
            }
            let died = sweep.die(place);
            let (fate, ended) = died.with_context(|| format!("{place} (NETT_SEED={seed})"))?;
            show(&format!("{place}: {fate:?}, {ended:?}"));
            if fate != Fate::BackedOut {
                site = place.target;
            } else {
                site = if place.target == "osl" { "svg" } else { "osl" };
            }
            late += usize::from(ended == Ended::Later);
            *fates.entry(fate).or_insert(0) += 1;
        }
        let (few, many, took) = (chosen.len(), all.len(), begun.elapsed());
        show(&format!("{few} of {many} places in {took:?}: {fates:?}, {late} of them late"));
        let missed = fates.get(&Fate::NotReached).copied().unwrap_or(0);
        // Writes that come together are one at times: of three places two may be missed.
        ensure!(missed * 2 <= few + 1, "only {} died", few - missed);
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
