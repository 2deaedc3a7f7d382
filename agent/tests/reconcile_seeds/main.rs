//! The reconciler over a simulated kernel through simulated time: what it is to bring about, what
//! others do to its kernel, what the kernel refuses and loses, and when the process dies are all
//! drawn from one seed. Every write is held against the laws. A seed that fails prints itself and
//! what happened last; put it into `REGRESSIONS` with the reason.
//!
//! `NETT_RECONCILE_SEEDS=N` runs so many seeds, `NETT_RECONCILE_SEED=N` that one, with everything
//! that happened.
#![allow(clippy::print_stderr, reason = "a failing seed tells what happened")]

mod arena;
#[path = "../../../policy/tests/laws/desk.rs"]
#[expect(dead_code, reason = "the laws use more of it")]
mod desk;
mod fates;
mod faults;
#[path = "../../../policy/tests/laws/ground.rs"]
#[expect(dead_code, reason = "the laws use more of it")]
mod ground;
mod laws;
mod mutants;
mod shared;
mod stage;
mod world;

use std::time::Duration;

use nett_agent::reconcile::LEFT_ALONE;
use nett_policy::lower::object::NodeState;
use nett_policy::plan::Object;

use faults::Happening;
use mutants::Mutant;
use stage::Tally;
use world::World;

/// As the agent has it: states are many small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of `make test`.
const SEEDS: u64 = 300;
/// Seeds that failed once: rules came before a missing one that ends the search (8, 16, 39), and
/// what a former life left was never taken over after a torn first look (21).
const REGRESSIONS: [u64; 4] = [8, 16, 39, 21];
/// Within so many seeds a broken rule is seen.
const MUTANT_SEEDS: u64 = 100;
/// How long things go wrong.
const ROUGH: Duration = Duration::from_secs(40);
/// The longest time until the kernel is as it should be.
const WITHIN: Duration = Duration::from_secs(3);
/// And where writes failed: the longest pause before a try.
const RETRY: Duration = Duration::from_secs(11);
/// For how long nothing may be written then.
const IDLE: Duration = Duration::from_secs(120);
/// And the most that the kernel is looked at meanwhile.
const LOOKS: u64 = 10;

/// What became of a run: what was wrong, with the last things that happened.
type Ended = Result<(Tally, Vec<String>), Box<(String, Vec<String>)>>;

/// One run.
fn run(seed: u64, mutant: Option<Mutant>) -> Ended {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed, mutant);
        let end = live(&mut world).await;
        world.stage.with(|stage| {
            let trace = stage.trace.iter().cloned().collect();
            match stage.wrong.take().map_or(end, Err) {
                Ok(()) => Ok((stage.tally, trace)),
                Err(wrong) => Err(Box::new((wrong, trace))),
            }
        })
    })
}

async fn live(world: &mut World) -> Result<(), String> {
    world.start();
    world.at(Duration::ZERO, Happening::Fault);
    world.pass(ROUGH).await;
    let foreign = world.rng.bool();
    world.put_right(foreign);
    // A process that is dead begins again, and one that begins may have to hear the log first.
    while !world.stage.with(|stage| stage.is_alive() && stage.generation > 0) {
        world.pass(Duration::from_millis(100)).await;
    }
    let failed = world.stage.with(|stage| stage.failed.is_some());
    world.pass(if failed { RETRY } else { WITHIN }).await;
    if world.is_contested() {
        world.pass(LEFT_ALONE).await;
    }
    world.is_in_place()?;
    // What has come and gone too often is used again in the end.
    let held = world.held();
    if let Some(link) = held.keys().find(|link| !world.may_hold(link)) {
        return Err(format!("{link} is held down and has not flapped"));
    }
    if let Some(left) = held.values().max() {
        world.pass(*left + WITHIN).await;
        if !world.held().is_empty() {
            return Err(format!("{:?} is still held down", world.held()));
        }
        world.is_in_place()?;
    }
    let before = world.stage.with(|stage| stage.tally);
    world.pass(IDLE).await;
    let after = world.stage.with(|stage| stage.tally);
    let (writes, looks) = (after.writes - before.writes, after.looks - before.looks);
    // What stands in somebody else's place is tried now and then.
    if writes > 0 && world.blocked().is_empty() {
        return Err(format!("{writes} writes while nothing happens"));
    }
    if looks > LOOKS && world.blocked().is_empty() {
        return Err(format!("{looks} looks while nothing happens"));
    }
    world.is_in_place()
}

impl World {
    fn is_contested(&self) -> bool {
        self.stage.with(|stage| {
            let report = stage.report.as_ref();
            let mut lines = report.into_iter().flat_map(|r| r.failures.iter().chain(&r.standing));
            lines.any(|line| line.contains("left alone for"))
        })
    }

    /// Routes of ours in whose place somebody else's are.
    fn blocked(&self) -> Vec<Object> {
        let wanted = self.wanted();
        let places = self.foreign();
        let places = places.iter().filter_map(laws::place_of);
        places.filter(|place| laws::is_there(place, &wanted)).collect()
    }

    fn wanted(&self) -> NodeState {
        let step = *self.step.borrow();
        self.arena.state(&self.node, step, &self.wanted_links())
    }

    /// The kernel has what is wanted and what is not ours, and the controller was told what is
    /// missing.
    fn is_in_place(&self) -> Result<(), String> {
        let (wanted, blocked) = (self.wanted(), self.blocked());
        self.stage.with(|stage| {
            let state = stage.kernel.state();
            let mut missing = Vec::new();
            for object in laws::difference(&wanted, state) {
                let strange = !laws::is_there(&object, &wanted)
                    && (stage.strangers.contains(&object) || stage.former.contains(&object));
                if !strange && !blocked.contains(&object) {
                    missing.push(object.to_string());
                }
            }
            if !missing.is_empty() {
                return Err(format!("not in place: {}", missing.join("; ")));
            }
            if let Some(gone) = stage.strangers.iter().find(|o| !laws::is_there(o, state)) {
                return Err(format!("{gone} of a stranger is gone"));
            }
            let Some(report) = &stage.report else { return Err("nothing was told".to_owned()) };
            let told = report.failures.iter().chain(&report.standing);
            let told: Vec<&String> = told.collect();
            if blocked.is_empty() != told.is_empty() {
                return Err(format!("{blocked:?} is blocked, and told is {told:?}"));
            }
            let more = report.foreign.iter().any(|line| line.starts_with("and "));
            for object in blocked.iter().chain(&stage.strangers) {
                let line = object.to_string();
                if !more && !report.foreign.iter().any(|told| told.contains(&line)) {
                    return Err(format!("{line} is not told: {:?}", report.foreign));
                }
            }
            Ok(())
        })
    }
}

fn tell(seed: u64, wrong: &str, trace: &[String]) {
    for line in trace {
        eprintln!("{line}");
    }
    eprintln!("seed {seed}: {wrong}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// What a sweep came to.
#[derive(Default)]
struct Swept {
    failed: Vec<(u64, String)>,
    tallies: Vec<Tally>,
}

/// Runs seeds on all cores.
fn sweep(seeds: std::ops::Range<u64>) -> Swept {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let work = || {
        let mut swept = Swept::default();
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= seeds.end {
                return swept;
            }
            match run(seed, None) {
                Ok((tally, _)) => swept.tallies.push(tally),
                Err(wrong) => swept.failed.push((seed, wrong.0)),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Swept::default();
        for thread in threads {
            let swept = thread.join().expect("a run does not panic");
            all.failed.extend(swept.failed);
            all.tallies.extend(swept.tallies);
        }
        all.failed.sort();
        all
    })
}

#[test]
fn no_seed_breaks_a_law() {
    if let Some(seed) = number("NETT_RECONCILE_SEED") {
        match run(seed, None) {
            Ok((tally, trace)) => tell(seed, &format!("nothing is wrong: {tally:?}"), &trace),
            Err(failed) => {
                tell(seed, &failed.0, &failed.1);
                panic!("seed {seed}: {}", failed.0);
            }
        }
        return;
    }
    let count = number("NETT_RECONCILE_SEEDS").unwrap_or(SEEDS);
    let swept = sweep(0..count);
    for (seed, wrong) in swept.failed.iter().take(20) {
        let first = wrong.lines().next().unwrap_or_default();
        eprintln!("seed {seed}: {}", first.chars().take(300).collect::<String>());
    }
    assert!(
        swept.failed.is_empty(),
        "{} of {count} seeds failed; NETT_RECONCILE_SEED={} cargo test -p nett-agent --test \
         reconcile_seeds no_seed tells what happened in the first",
        swept.failed.len(),
        swept.failed[0].0
    );
    let all = swept.tallies.into_iter().fold(Tally::default(), Tally::and);
    eprintln!("{count} seeds: {all:?}");
    assert!(count < SEEDS || all.is_of_everything(), "something never happened: {all:?}");
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for seed in REGRESSIONS {
        if let Err(failed) = run(seed, None) {
            tell(seed, &failed.0, &failed.1);
            panic!("seed {seed}: {}", failed.0);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |_| run(1, None).map_or_else(|failed| failed.1, |(_, trace)| trace);
    assert_eq!(trace(()), trace(()));
}

/// The laws are worth something only if they notice what they are to notice.
#[test]
fn every_broken_rule_is_seen() {
    for mutant in Mutant::ALL {
        let seen = |seed| {
            let wrong = run(seed, Some(mutant)).err()?.0;
            let line = wrong.lines().find(|line| line.contains(mutant.law()))?;
            Some((seed, line.chars().take(200).collect::<String>()))
        };
        let Some((seed, line)) = (0..MUTANT_SEEDS).find_map(seen) else {
            panic!("{mutant:?} goes unseen")
        };
        assert!(run(seed, None).is_ok(), "seed {seed} fails without {mutant:?} too");
        eprintln!("{mutant:?} is seen by seed {seed}: {line}");
    }
}
