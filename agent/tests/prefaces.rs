//! A checkpoint in a stream is taken over whole or not at all, and only by who needs it.

mod fleet;

use std::collections::BTreeMap;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::bus::wire::{Draft, Head, Preface, Sealed, digest};
use nett_agent::controller::effect::{AuditEvent, Effect};
use nett_agent::controller::event::{Event, Now, Token};
use nett_agent::controller::{Controller, Setting};
use nett_agent::journal::{Saved, SavedHead};
use nett_policy::id::{SiteId, WallMs};
use nett_policy::log::entry::{Ask, Verb};

const NOW: Now = Now { mono: Duration::from_secs(500), wall: WallMs(1_795_253_900_000) };
/// What the checkpoint does not cover.
const BEHIND: usize = 2;

/// A log of some tasks, and the checkpoint of all but its last entries.
struct Told {
    fleet: Fleet,
    covered: Vec<Sealed>,
    behind: Vec<Sealed>,
    preface: Preface,
}

fn told() -> Told {
    let mut fleet = Fleet::start();
    for to in ["svg", "osl"] {
        let verb = Verb::Failover { services: id("shop/prod/api"), to: id(to) };
        assert!(fleet.command("mira", "osl", verb).accepted);
        fleet.pass(Duration::from_secs(3600));
    }
    let mut covered = fleet.log("osl").to_vec();
    let behind = covered.split_off(covered.len() - BEHIND);
    let position = covered.last().expect("a long log").entry.position.clone();
    let hashes = covered.iter().map(|sealed| sealed.entry.position.hash.as_str());
    let preface = Preface {
        site: id("osl"),
        node: id("osl-b1"),
        at: NOW.wall,
        fabric: covered[0].entry.fabric.clone(),
        covered: Head { boot: position.boot, seq: position.seq, hash: position.hash },
        through: position.seq + BEHIND as u64,
        kept: covered.len() as u64,
        digest: digest(hashes),
        floors: BTreeMap::new(),
    };
    Told { fleet, covered, behind, preface }
}

/// An agent without a journal, on a kernel that has the state of a former run.
fn newcomer(fleet: &Fleet) -> Controller {
    let Setting { fabric, catalog, layout, .. } =
        fleet.agents[&id("osl-b1")].controller.setting().clone();
    let node = fabric.node(&id("svg-b1")).expect("known").clone();
    let mut controller = Controller::new(Setting { fabric, catalog, layout, node });
    controller.handle(Event::ReplayDone { trusted: false }, NOW);
    controller
}

fn read(controller: &mut Controller, entries: &[Sealed], first: u64) -> Vec<Effect> {
    let numbered = entries.iter().cloned().zip(first..).collect();
    controller.handle(Event::Entries(numbered), NOW)
}

fn of(preface: &Preface) -> Event {
    Event::Preface { preface: Box::new(preface.clone()), stream_seq: 901 }
}

fn all_caught_up(controller: &mut Controller) -> Vec<Effect> {
    let sites: [SiteId; 2] = [id("osl"), id("svg")];
    let caught_up = |site| controller.handle(Event::CaughtUp { site }, NOW);
    sites.into_iter().flat_map(caught_up).collect()
}

fn changes_nothing(effects: &[Effect]) {
    let changes = |effect: &&Effect| {
        matches!(effect, Effect::Kernel { .. } | Effect::Journal { .. } | Effect::TakeIn(_))
    };
    assert!(!effects.iter().any(|effect| changes(&effect)), "{effects:?}");
}

#[test]
fn a_newcomer_takes_it_whole_and_wants_nothing_before() {
    let Told { fleet, covered, behind, preface } = told();
    let mut newcomer = newcomer(&fleet);
    changes_nothing(&newcomer.handle(of(&preface), NOW));
    let (last, first) = covered.split_last().expect("a long log");
    changes_nothing(&read(&mut newcomer, first, 902));
    changes_nothing(&all_caught_up(&mut newcomer));
    assert!(!newcomer.is_trusted(), "the rest is on its way");
    // Both the mirror and the origin are read: everything may come twice.
    changes_nothing(&newcomer.handle(of(&preface), NOW));
    changes_nothing(&read(&mut newcomer, first, 902));

    let end = 902 + first.len() as u64;
    let effects = read(&mut newcomer, std::slice::from_ref(last), end);
    let taken = effects.iter().find_map(|effect| match effect {
        Effect::TakeIn(taken) => Some(taken),
        _ => None,
    });
    let taken = taken.expect("it is whole");
    let kept: Vec<&Sealed> = taken.kept.iter().map(|(sealed, _)| sealed).collect();
    assert_eq!(kept, covered.iter().collect::<Vec<_>>());
    let head = &taken.saved.heads[&id("osl")];
    assert_eq!((head.head.seq, head.stream_seq), (preface.covered.seq, end));

    // What follows is read again from the journal on.
    changes_nothing(&read(&mut newcomer, &behind, end + 1));
    changes_nothing(&all_caught_up(&mut newcomer));
    assert!(!newcomer.is_trusted());
    let effects = newcomer.handle(Event::TakenIn { site: id("osl"), error: None }, NOW);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::ReadAgain)), "{effects:?}");
}

#[test]
fn what_is_not_as_announced_is_not_taken() {
    let Told { fleet, covered, behind, preface } = told();
    let mut newcomer = newcomer(&fleet);
    newcomer.handle(of(&preface), NOW);
    let mut others = covered;
    others[1] = others[0].clone();
    others.remove(0);
    others.push(behind[0].clone());
    changes_nothing(&read(&mut newcomer, &others, 902));
    let wrong = Preface { digest: digest(["another"].into_iter()), kept: 1, ..preface };
    newcomer.handle(Event::Preface { preface: Box::new(wrong), stream_seq: 989 }, NOW);
    let effects = read(&mut newcomer, &others[..1], 990);
    changes_nothing(&effects);
    let said = effects.iter().any(|effect| {
        matches!(effect, Effect::Audit(AuditEvent::LogTrouble { trouble, .. })
            if trouble.contains("lacks what it kept"))
    });
    assert!(said, "{effects:?}");
}

/// Whoever can write to a site's log cannot make others forget it.
#[test]
fn a_checkpoint_from_the_future_is_not_believed_by_who_misses_nothing() {
    let Told { mut fleet, preface, .. } = told();
    let next = fleet.log("osl").len() as u64 + 1;
    let Head { boot, seq, hash: _ } = preface.covered.clone();
    let covered = Head { boot, seq: seq + 1000, hash: "f".repeat(64) };
    for kept in [0, u64::MAX] {
        let digest = digest(std::iter::empty());
        let forged = Preface { covered: covered.clone(), kept, digest, ..preface.clone() };
        for node in ["osl-b1", "svg-b1"] {
            let agent = fleet.agents.get_mut(&id(node)).expect("known");
            let event = Event::Preface { preface: Box::new(forged.clone()), stream_seq: next };
            let effects = agent.controller.handle(event, NOW);
            changes_nothing(&effects);
            let said = effects.iter().any(|effect| {
                matches!(effect, Effect::Audit(AuditEvent::LogTrouble { trouble, .. })
                    if trouble.contains("none before it is missing"))
            });
            assert!(said || kept > 0, "{effects:?}");
        }
    }
}

#[test]
fn who_has_read_as_far_takes_nothing() {
    let Told { mut fleet, covered, behind, preface } = told();
    for node in ["osl-b1", "svg-b1"] {
        let agent = fleet.agents.get_mut(&id(node)).expect("known");
        changes_nothing(&agent.controller.handle(of(&preface), NOW));
        let all = [covered.clone(), behind.clone()].concat();
        changes_nothing(&read(&mut agent.controller, &all, 902));
        let sure = agent.controller.handle(Event::CaughtUp { site: id("osl") }, NOW);
        changes_nothing(&sure);
    }
}

/// By the mirror and by the origin, one behind the other and both at once.
#[test]
fn the_order_in_which_it_comes_does_not_matter() {
    let Told { fleet, covered, preface, .. } = told();
    let mut newcomer = newcomer(&fleet);
    newcomer.handle(of(&preface), NOW);
    let numbered: Vec<_> = covered.iter().cloned().zip(902u64..).collect();
    let mut effects = Vec::new();
    for (sealed, stream_seq) in numbered.into_iter().rev() {
        effects = newcomer.handle(Event::Entries(vec![(sealed, stream_seq)]), NOW);
        // An older one, of which half is there, comes late.
        let older = Preface { kept: 1, digest: digest(["another"].into_iter()), ..preface.clone() };
        newcomer.handle(Event::Preface { preface: Box::new(older), stream_seq: 801 }, NOW);
    }
    let taken = effects.iter().find_map(|effect| match effect {
        Effect::TakeIn(taken) => Some(taken),
        _ => None,
    });
    let kept: Vec<&Sealed> =
        taken.expect("it is whole").kept.iter().map(|(sealed, _)| sealed).collect();
    assert_eq!(kept, covered.iter().collect::<Vec<_>>());
}

/// The other agent of the site, which has read everything, and began from the checkpoint itself.
struct Other {
    controller: Controller,
    now: Now,
    /// The last number of the stream.
    last: u64,
}

impl Other {
    fn of(told: &Told) -> Self {
        let setting = told.fleet.agents[&id("osl-r1")].controller.setting().clone();
        let (now, mut controller) = (told.fleet.clock(), Controller::new(setting));
        let numbered = told.covered.iter().chain(&told.behind).cloned().zip(1u64..);
        let stream_seq = told.covered.len() as u64;
        let head = SavedHead { head: told.preface.covered.clone(), stream_seq };
        let saved = Saved { heads: [(id("osl"), head)].into(), floors: BTreeMap::new() };
        controller.handle(Event::Checkpoint(saved), now);
        let mut last = 0;
        for (sealed, stream_seq) in numbered {
            controller.handle(Event::Replayed { sealed, stream_seq }, now);
            last = stream_seq;
        }
        controller.handle(Event::ReplayDone { trusted: true }, now);
        controller.handle(Event::BusConnected, now);
        for site in ["osl", "svg"] {
            controller.handle(Event::CaughtUp { site: id(site) }, now);
        }
        Self { controller, now, last }
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.controller.handle(event, self.now)
    }

    fn next(&mut self, sealed: &Sealed) -> Vec<Effect> {
        self.last += 1;
        self.handle(Event::Entries(vec![(sealed.clone(), self.last)]))
    }

    fn preface(&mut self, preface: &Preface) -> Vec<Effect> {
        self.last += 1;
        let (preface, stream_seq) = (Box::new(preface.clone()), self.last);
        self.handle(Event::Preface { preface, stream_seq })
    }

    fn after(&mut self, seconds: u64) -> Vec<Effect> {
        self.now.mono += Duration::from_secs(seconds);
        self.now.wall.0 += seconds * 1000;
        self.handle(Event::Timer)
    }

    fn order(&mut self, fleet: &mut Fleet) -> Vec<Effect> {
        let verb = Verb::Hold { services: id("shop/prod/web") };
        let ask = Ask::Command {
            verb,
            plan_hash: None,
            overrides: Default::default(),
            terms: Default::default(),
        };
        let request = fleet.request("mira", "osl", ask);
        let (subject, bytes) = fleet.seal(&request);
        self.handle(Event::Request { token: Token(7), subject, bytes })
    }
}

/// Behind which number something is appended.
fn appended(effects: &[Effect]) -> Option<u64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Append(append) => Some(append.after_stream_seq),
        _ => None,
    })
}

fn replied(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Reply { .. }))
}

fn condenses(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Condense(_)))
}

#[test]
fn who_reads_that_a_checkpoint_is_being_written_waits_and_refuses_nobody() {
    let mut told = told();
    let mut other = Other::of(&told);
    other.preface(&told.preface);
    let effects = other.order(&mut told.fleet);
    assert!(appended(&effects).is_none() && !replied(&effects), "{effects:?}");
    for sealed in told.covered.iter().chain(&told.behind[..BEHIND - 1]) {
        let effects = other.next(sealed);
        assert!(appended(&effects).is_none() && !replied(&effects), "{effects:?}");
    }
    let effects = other.next(&told.behind[BEHIND - 1]);
    assert_eq!(appended(&effects), Some(other.last), "it is whole: {effects:?}");
    // Whoever writes one may stop half way: then nobody waits for the rest.
    let mut other = Other::of(&told);
    other.preface(&told.preface);
    let effects = other.order(&mut told.fleet);
    assert!(appended(&effects).is_none(), "{effects:?}");
    let effects = other.after(2);
    assert_eq!(appended(&effects), Some(other.last), "{effects:?}");
    // Or somebody stores something else: then there will be no rest.
    let mut other = Other::of(&told);
    other.preface(&told.preface);
    let effects = other.order(&mut told.fleet);
    assert!(appended(&effects).is_none(), "{effects:?}");
    let (site, stream_seq, error) = (id("osl"), other.last + 1, "nobody signed it".to_owned());
    let effects = other.handle(Event::BadEntry { site, stream_seq, error, blocks: None });
    assert_eq!(appended(&effects), Some(stream_seq), "{effects:?}");
}

#[test]
fn half_a_checkpoint_of_another_does_not_stand_for_an_own_one() {
    for whole in [false, true] {
        let told = told();
        let mut other = Other::of(&told);
        let effects = other.handle(Event::Compacted { records: Some(9) });
        assert!(condenses(&effects), "{effects:?}");
        // The other one was faster.
        other.handle(Event::Condensed { stored: false });
        other.preface(&told.preface);
        let all = [told.covered.clone(), told.behind.clone()].concat();
        let read = if whole { all.len() } else { all.len() - 1 };
        for sealed in &all[..read] {
            let effects = other.next(sealed);
            assert!(!condenses(&effects), "{effects:?}");
        }
        let effects = other.after(30);
        assert_eq!(condenses(&effects), !whole, "whole: {whole}");
    }
}

#[test]
fn a_stream_that_begins_with_its_checkpoint_again_lacks_nothing() {
    for broken in [false, true] {
        let mut told = told();
        let mut other = Other::of(&told);
        // Something of the old stream was under way.
        other.last += 100;
        other.preface(&told.preface);
        let (read, found) = (other.last, 0);
        other.handle(Event::LogReplaced { site: id("osl"), read, found });
        other.last = 0;
        other.preface(&told.preface);
        let kept = if broken { &told.covered[1..] } else { &told.covered[..] };
        for sealed in kept.iter().chain(&told.behind) {
            other.next(sealed);
        }
        let effects = other.handle(Event::CaughtUp { site: id("osl") });
        let refills = effects.iter().any(|effect| matches!(effect, Effect::Refill { .. }));
        assert_eq!(refills, broken, "{effects:?}");
        let effects = other.order(&mut told.fleet);
        assert_eq!(appended(&effects).is_some(), !broken, "{effects:?}");
    }
}

/// A node that was off while a stream was lost, with the log up to entry `read` and nothing else.
fn was_off(told: &Told, node: &str, read: usize) -> Other {
    let setting = told.fleet.agents[&id(node)].controller.setting().clone();
    let (now, mut controller) = (told.fleet.clock(), Controller::new(setting));
    let all = told.covered.iter().chain(&told.behind).cloned().zip(1u64..);
    for (sealed, stream_seq) in all.take(read) {
        controller.handle(Event::Replayed { sealed, stream_seq }, now);
    }
    controller.handle(Event::ReplayDone { trusted: true }, now);
    controller.handle(Event::BusConnected, now);
    Other { controller, now, last: read as u64 }
}

fn rewinds(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Rewind { .. }))
}

/// It begins behind the number that it has read, and numbers mean something else now.
#[test]
fn a_stream_that_was_filled_again_behind_a_nodes_back_is_read_from_its_beginning() {
    for node in ["osl-r1", "svg-b1"] {
        let told = told();
        let (last, forgotten) = told.covered.split_last().expect("a long log");
        assert!(forgotten.len() > 4);
        let hash = last.entry.position.hash.as_str();
        let preface =
            Preface { kept: 1, digest: digest([hash].into_iter()), ..told.preface.clone() };
        let mut other = was_off(&told, node, 3);
        // The stream: the checkpoint, what it kept, and what it does not cover.
        let effects = other.next(&told.behind[1]);
        assert!(rewinds(&effects), "{node}: {effects:?}");
        let effects = other.handle(Event::CaughtUp { site: id("osl") });
        changes_nothing(&effects.into_iter().filter(|e| !wants(e)).collect::<Vec<_>>());

        other.handle(Event::Rewound { site: id("osl") });
        other.last = 0;
        assert!(!rewinds(&other.preface(&preface)));
        let effects = other.next(last);
        let taken = effects.iter().find_map(|effect| match effect {
            Effect::TakeIn(taken) => Some(taken),
            _ => None,
        });
        let taken = taken.unwrap_or_else(|| panic!("{node}: {effects:?}"));
        let head = &taken.saved.heads[&id("osl")];
        assert_eq!((&head.head, head.stream_seq), (&preface.covered, 2));
    }
}

/// The mirror lags, and what comes by the origin is ahead of it.
#[test]
fn a_stream_that_is_read_at_the_origin_too_holds_what_its_checkpoint_kept() {
    for broken in [false, true] {
        let told = told();
        let all = told.covered.len() + BEHIND;
        let mut other = was_off(&told, "svg-b1", all);
        other.handle(Event::LogReplaced { site: id("osl"), read: all as u64, found: 0 });
        assert_eq!(other.controller.snapshot(other.now).conflicts, 1);
        let kept = &told.covered[told.covered.len() - 2..];
        let hashes = kept.iter().map(|sealed| sealed.entry.position.hash.as_str());
        let digest = if broken { digest(hashes.rev()) } else { digest(hashes) };
        let preface = Preface { kept: 2, digest, ..told.preface };
        other.last = 0;
        other.preface(&preface);
        // By the origin: behind what the mirror has.
        read(&mut other.controller, &told.behind, 4);
        // By the mirror.
        read(&mut other.controller, kept, 2);
        read(&mut other.controller, &told.behind, 4);
        let conflicts = other.controller.snapshot(other.now).conflicts;
        assert_eq!(conflicts, u32::from(broken), "broken: {broken}");
    }
}

fn wants(effect: &Effect) -> bool {
    matches!(effect, Effect::Kernel { .. })
}

/// Reading it from its beginning makes no difference to what a log is.
#[test]
fn a_gap_stays_a_gap_and_another_log_another_log() {
    for foreign in [false, true] {
        let mut told = told();
        let all = [told.covered.clone(), told.behind.clone()].concat();
        let read = all.len() - BEHIND;
        let mut other = was_off(&told, "osl-r1", read);
        let hole = &all[read + 1];
        assert!(rewinds(&other.next(hole)));
        other.handle(Event::Rewound { site: id("osl") });
        other.last = 0;
        for sealed in &all[..read] {
            let sealed = if foreign { begun_anew(&told, sealed) } else { sealed.clone() };
            changes_nothing(&other.next(&sealed));
        }
        let effects = other.next(hole);
        changes_nothing(&effects);
        assert!(!rewinds(&effects), "once: {effects:?}");
        // Whoever can write to the log cannot make this node forget what it has.
        let Head { boot, seq, hash: _ } = told.preface.covered.clone();
        let covered = Head { boot, seq: seq + 1000, hash: "f".repeat(64) };
        let empty = digest(std::iter::empty());
        let forged = Preface { covered, kept: 0, digest: empty, ..told.preface.clone() };
        if !foreign {
            changes_nothing(&other.preface(&forged));
        }
        for site in ["osl", "svg"] {
            let effects = other.handle(Event::CaughtUp { site: id(site) });
            let refills = effects.iter().any(|effect| matches!(effect, Effect::Refill { .. }));
            assert!(!refills, "{effects:?}");
        }
        let effects = other.order(&mut told.fleet);
        let text = format!("{effects:?}");
        assert!(replied(&effects) && appended(&effects).is_none(), "{text}");
        let why = if foreign { "log_replaced: incarnation" } else { "nothing can be added" };
        assert!(text.contains(why), "{text}");
    }
}

/// The same entry in a log that somebody began anew.
fn begun_anew(told: &Told, sealed: &Sealed) -> Sealed {
    let entry = sealed.entry.clone();
    let key = &told.fleet.keys[entry.node.as_str()];
    let draft = Draft {
        id: entry.id,
        site: entry.site,
        node: entry.node,
        fabric: entry.fabric,
        at: entry.at,
        boot: "another".to_owned(),
        seq: entry.position.seq,
        prev_hash: entry.position.prev_hash,
        body: entry.body,
        request_verbatim: sealed.verbatim(),
    };
    Sealed::seal(draft, key).expect("the key fits")
}

/// It does not try for ever without a word.
#[test]
fn a_node_that_cannot_fill_a_lost_stream_says_so() {
    let mut told = told();
    let mut other = Other::of(&told);
    let read = other.last;
    other.handle(Event::LogReplaced { site: id("osl"), read, found: 0 });
    let effects = other.handle(Event::CaughtUp { site: id("osl") });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Refill { .. })), "{effects:?}");
    let why = Some("neither its journal nor its audit trail has entry 1".to_owned());
    let effects = other.handle(Event::Refilled { through: 0, stream_seq: 0, why });
    let again = effects.iter().any(|effect| matches!(effect, Effect::Refill { .. }));
    assert!(!again, "not at once: {effects:?}");
    let effects = other.order(&mut told.fleet);
    let text = format!("{effects:?}");
    assert!(replied(&effects), "{text}");
    for word in ["stream of site osl lacks entry 1", "neither its journal", "nettctl restore"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let effects = other.after(6);
    let again = effects.iter().any(|effect| matches!(effect, Effect::Refill { .. }));
    assert!(again, "somebody may have taken in a backup: {effects:?}");
}
