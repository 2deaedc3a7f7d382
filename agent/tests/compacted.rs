//! Logs made smaller, and keys taken away, on a real nats-server: what is deleted, what is left
//! alone, and what whoever comes later reads.

mod bus_fixture;
mod bus_server;

use std::sync::Arc;
use std::time::Duration;

use bus_fixture::*;
use bus_server::{Lab, PATIENCE, eventually};
use nett_agent::bus::compact::compact;
use nett_agent::bus::keys::{self, Gone};
use nett_agent::bus::nats::{NatsBus, NatsConfig};
use nett_agent::bus::provision::Outcome;
use nett_agent::bus::wire::{Head, Preface, Sealed, digest, seal_preface};
use nett_agent::bus::{Bus, BusEvent, BusEvents, subject};
use nett_agent::controller::effect::{Effect, TakeIn};
use nett_agent::controller::event::{Event, Now};
use nett_agent::controller::shelf::{Filled, Place, Shelf, Writer};
use nett_agent::controller::{Controller, Setting};
use nett_agent::journal::{FileJournal, Journal, JournalWriter, Record, Saved, SavedHead};
use nett_policy::id::SiteId;
use nett_policy::log::entry::FabricRef;
use nett_policy::lower::object::Layout;
use nett_policy::service::Catalog;
use tokio::time::timeout;

/// How long the log is, and how much of it is covered.
const LENGTH: u64 = 20;
const COVERED: u64 = 10;
/// What is kept of that.
const KEPT: [u64; 2] = [3, 7];

async fn agent(lab: &Lab, name: &str, number: u8, start: u64) -> (NatsBus, BusEvents) {
    let node = lab.fabric.node(&id(name)).expect("known");
    let config = NatsConfig {
        site: node.site.clone(),
        node: node.id.clone(),
        urls: lab.fabric.site(&node.site).expect("known").nats.clone(),
        seed: seed(number),
        tls: Some(lab.authority.issue(name)),
        start: [(id("osl"), start)].into(),
        capacity: 64,
        rosters: Arc::new((&lab.fabric).into()),
        intake: Arc::default(),
    };
    NatsBus::start(config, Arc::new(lab.fabric.clone())).await.expect("starts")
}

/// Entries of osl's log, each behind the one before.
fn log() -> Vec<Sealed> {
    let mut prev_hash = String::new();
    let entry = |seq: u64| {
        let (body, verbatim) = command_body("osl", u32::try_from(seq).expect("short"));
        let mut draft = draft("osl", "osl-b1", seq, body, Some(verbatim));
        draft.prev_hash.clone_from(&prev_hash);
        let sealed = Sealed::seal(draft, &key(OSL_B1)).expect("the node's key signs");
        prev_hash.clone_from(&sealed.entry.position.hash);
        sealed
    };
    (1..=LENGTH).map(entry).collect()
}

fn preface(lab: &Lab, log: &[Sealed]) -> Preface {
    let at = |seq: u64| &log[usize::try_from(seq).expect("small") - 1].entry.position;
    let covered = at(COVERED).clone();
    Preface {
        site: id("osl"),
        node: id("osl-b1"),
        at: NOW,
        fabric: FabricRef { generation: lab.fabric.generation, hash: lab.fabric.hash.clone() },
        covered: Head { boot: covered.boot, seq: COVERED, hash: covered.hash },
        through: LENGTH,
        kept: KEPT.len() as u64,
        digest: digest(KEPT.iter().map(|seq| at(*seq).hash.as_str())),
        floors: std::collections::BTreeMap::new(),
    }
}

/// What is behind a checkpoint, by the numbers of the entries.
fn behind() -> impl Iterator<Item = u64> {
    KEPT.into_iter().chain(COVERED + 1..=LENGTH)
}

/// Stores a checkpoint, signed by `by`, and these entries behind it.
async fn store(
    bus: &NatsBus,
    (preface, by): (&Preface, u8),
    entries: impl Iterator<Item = &Sealed>,
    mut last: u64,
) -> u64 {
    let bytes = seal_preface(preface, &key(by)).expect("signs");
    let to = subject::preface(&preface.site, &preface.node);
    last = bus.restate(to, bytes.into(), last).await.expect("stored");
    for sealed in entries {
        let bytes = Arc::clone(&sealed.bytes);
        last = bus.restate(sealed.subject(), bytes, last).await.expect("stored");
    }
    last
}

async fn outcome(lab: &Lab, site: &str) -> Outcome {
    let site: SiteId = id(site);
    let context = lab.context(&site, ADMIN).await;
    let found = compact(&context, &lab.fabric, &site).await.expect("the admin's key may");
    let osl = found.into_iter().find(|finding| finding.stream == "NETT_LOG_OSL");
    osl.expect("every site has it").outcome
}

/// Waits until a mirror has everything.
async fn mirrored(lab: &Lab, last: u64) {
    let context = lab.context(&id("svg"), ADMIN).await;
    let search = async {
        loop {
            let stream = context.get_stream("NETT_LOG_OSL").await.expect("it is there");
            if stream.cached_info().state.last_sequence >= last {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, search).await.expect("the mirror gets everything")
}

/// The next event; nothing that works waits for it this long.
async fn next(events: &mut BusEvents) -> BusEvent {
    let event = timeout(PATIENCE, events.recv()).await;
    event.expect("an event comes").expect("the bus runs")
}

async fn stays(lab: &Lab, why: &str) {
    match outcome(lab, "osl").await {
        Outcome::Stays(said) => assert!(said.contains(why), "{said}, and not {why}"),
        other => panic!("{other}, and not {why}"),
    }
}

#[tokio::test]
async fn a_log_is_made_smaller_where_what_is_left_is_whole() {
    let lab = Lab::start(fabric()).await;
    for site in ["osl", "svg"] {
        lab.init(&id(site)).await;
    }
    let log = log();
    let (bus, _events) = agent(&lab, "osl-b1", OSL_B1, 1).await;
    eventually("connected", || bus.connected().then_some(())).await;
    let mut last = 0;
    for sealed in &log {
        last = bus.append(sealed, last).await.expect("stored");
    }
    stays(&lab, "no checkpoint").await;
    let of = |seq: u64| &log[usize::try_from(seq).expect("small") - 1];
    let good = preface(&lab, &log);
    // Whoever wrote it stopped half way; left one out; is somebody else.
    last = store(&bus, (&good, OSL_B1), behind().take(2).map(of), last).await;
    stays(&lab, "ends at entry 10").await;
    last = store(&bus, (&good, OSL_B1), behind().skip(1).map(of), last).await;
    stays(&lab, "not whole").await;
    let holed = behind().filter(|seq| *seq != 15).map(of);
    last = store(&bus, (&good, OSL_B1), holed, last).await;
    stays(&lab, "entry 16 of the log follows 14").await;
    last = store(&bus, (&good, SVG_B1), behind().map(of), last).await;
    stays(&lab, "not believed").await;

    last = store(&bus, (&good, OSL_B1), behind().map(of), last).await;
    let left = behind().count() as u64 + 1;
    mirrored(&lab, last).await;
    for site in ["osl", "svg"] {
        assert_eq!(outcome(&lab, site).await, Outcome::Smaller { before: last, after: left });
    }
    stays(&lab, "nothing stands before").await;
    // The log goes on with the numbers that it had.
    assert_eq!(bus.append(of(LENGTH), last).await, Ok(LENGTH), "a retry is known for two hours");

    for (name, number, start) in
        [("osl-r1", OSL_R1, 1), ("svg-b1", SVG_B1, 1), ("svg-r1", SVG_R1, 6)]
    {
        let (_bus, mut events) = agent(&lab, name, number, start).await;
        let mut read = Vec::new();
        while read.len() < behind().count() {
            match next(&mut events).await {
                BusEvent::Preface { preface, stream_seq } => {
                    assert_eq!((&preface, read.len()), (&good, 0), "at {stream_seq}: it is first");
                }
                BusEvent::Entry { sealed, .. } => read.push(sealed.entry.position.seq),
                BusEvent::BadEntry { error, .. } => panic!("{}", error.message()),
                BusEvent::LogReplaced { .. } => panic!("it is the same log"),
                _ => {}
            }
        }
        assert_eq!(read, behind().collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn a_server_says_when_it_knows_a_key_that_counts_no_more() {
    let lab = Lab::start(fabric()).await;
    let osl: SiteId = id("osl");
    let mira = lab.context(&osl, MIRA).await.client();
    let gone = [Gone { person: "mira".to_owned(), key: key(MIRA).public_key() }];
    let look = async |number: u8, gone: &[Gone]| {
        let client = lab.context(&osl, number).await.client();
        keys::look(&client, number == SYSTEM, (&lab.fabric, &osl), gone).await.outcome
    };
    for number in [ADMIN, SYSTEM] {
        assert_eq!(look(number, &[]).await, Outcome::Same);
        let Outcome::Differs(wrong) = look(number, &gone).await else { panic!("it knows her") };
        assert!(wrong[0].contains("nats-server --signal reload"), "{wrong:?}");
        assert!(wrong[1].starts_with("mira is logged in from 127.0.0.1"), "{wrong:?}");
    }
    lab.reload(&osl, &keys::without(&lab.fabric, &gone));
    let closed =
        || (mira.connection_state() != async_nats::connection::State::Connected).then_some(());
    eventually("she is thrown out", closed).await;
    assert_eq!(look(SYSTEM, &gone).await, Outcome::Same);
    assert!(matches!(look(SYSTEM, &[]).await, Outcome::Differs(_)));
    let urls = &lab.fabric.site(&osl).expect("known").nats;
    let tls = lab.authority.issue("thief");
    let again = nett_agent::bus::provision::connect(&osl, urls, &seed(MIRA), Some(&tls)).await;
    assert!(again.is_err(), "she does not get in any more");
    // 2.9 does not answer the admin any more, and that is said.
    match look(ADMIN, &gone).await {
        Outcome::Same => {}
        Outcome::Stays(why) => assert!(why.contains("--system-key"), "{why}"),
        other => panic!("{other}"),
    }
}

/// All agents of the site began from the checkpoint, and then the stream is lost.
#[tokio::test]
async fn a_lost_stream_is_filled_again_from_the_checkpoint_on() {
    let lab = Lab::start(fabric()).await;
    for site in ["osl", "svg"] {
        lab.init(&id(site)).await;
    }
    let (bus, _events) = agent(&lab, "osl-b1", OSL_B1, 1).await;
    eventually("connected", || bus.connected().then_some(())).await;
    let (log, told) = (log(), preface(&lab, &log()));
    let head = SavedHead { head: told.covered.clone(), stream_seq: COVERED };
    let saved = Saved { heads: [(id("osl"), head)].into(), floors: told.floors.clone() };
    let record = |seq: u64| {
        let bytes = log[usize::try_from(seq).expect("small") - 1].bytes.to_vec();
        Record { stream_seq: seq, bytes }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = async |covered: Option<&Saved>, entries: Vec<u64>| {
        let name = format!("journal{}", entries.len());
        let mut journal = FileJournal::open_named(dir.path(), &name).expect("opens");
        journal.load().expect("loads");
        let writer = JournalWriter::spawn(Box::new(journal)).expect("a thread");
        let records = covered.map(Saved::record).into_iter();
        let records = records.chain(entries.into_iter().map(record)).collect();
        writer.append(records).await.expect("kept");
        let rosters = Arc::new((&lab.fabric).into());
        Shelf { journal: writer, rosters, trail: dir.path().join("none") }
    };
    let place = Place { site: id("osl"), from: 1, after_stream_seq: 0 };
    let by = || Writer { node: id("osl-b1"), at: NOW, fabric: told.fabric.clone() };
    let key = key(OSL_B1);

    // Without its checkpoint nobody knows what these follow.
    let without = shelf(None, (COVERED + 1..=LENGTH).collect()).await;
    let filled = without.refill(&bus, place.clone(), (by(), &key)).await;
    assert_eq!((filled.through, filled.stream_seq), (0, 0), "{filled:?}");
    assert!(filled.why.expect("it says so").contains("has entry 1"));

    let with = shelf(Some(&saved), behind().collect()).await;
    let filled = with.refill(&bus, place, (by(), &key)).await;
    let last = 1 + behind().count() as u64;
    assert_eq!(filled, Filled { through: LENGTH, stream_seq: last, why: None });
    let (_newcomer, mut events) = agent(&lab, "osl-r1", OSL_R1, 1).await;
    let (mut prefaces, mut read) = (Vec::new(), Vec::new());
    while read.last() != Some(&LENGTH) {
        match next(&mut events).await {
            BusEvent::Preface { preface, stream_seq } => prefaces.push((preface, stream_seq)),
            BusEvent::Entry { sealed, .. } => read.push(sealed.entry.position.seq),
            _ => {}
        }
    }
    assert_eq!(prefaces, [(told, 1)]);
    assert_eq!(read, behind().collect::<Vec<_>>());
    stays(&lab, "nothing stands before its checkpoint").await;
}

/// A node of the site that has nothing but the first entries of its log in the journal.
fn behind_by(lab: &Lab, entries: &[Sealed]) -> (Controller, Now) {
    let now = Now { mono: Duration::from_secs(500), wall: NOW };
    let fabric = Arc::new(lab.fabric.clone());
    let node = fabric.node(&id("osl-r1")).expect("known").clone();
    let catalog = Arc::new(Catalog::new(Vec::new()));
    let setting = Setting { fabric, catalog, layout: Layout::default(), node };
    let mut controller = Controller::new(setting);
    for (sealed, stream_seq) in entries.iter().cloned().zip(1u64..) {
        controller.handle(Event::Replayed { sealed, stream_seq }, now);
    }
    controller.handle(Event::ReplayDone { trusted: true }, now);
    (controller, now)
}

/// It begins to read behind what it has, and the stream has other numbers than the one before.
#[tokio::test]
async fn a_node_that_was_off_takes_in_what_its_stream_was_filled_with_meanwhile() {
    let lab = Lab::start(fabric()).await;
    for site in ["osl", "svg"] {
        lab.init(&id(site)).await;
    }
    let (log, osl) = (log(), id("osl"));
    let (bus, _events) = agent(&lab, "osl-b1", OSL_B1, 1).await;
    eventually("connected", || bus.connected().then_some(())).await;
    let told = preface(&lab, &log);
    let of = |seq: u64| &log[usize::try_from(seq).expect("small") - 1];
    let last = store(&bus, (&told, OSL_B1), behind().map(of), 0).await;
    let (mut controller, now) = behind_by(&lab, &log[..5]);
    let (late, mut events) = agent(&lab, "osl-r1", OSL_R1, 6).await;
    let mut rewound = 0;
    let taken: TakeIn = 'read: loop {
        let event = match next(&mut events).await {
            BusEvent::Entry { sealed, stream_seq, .. } => {
                Event::Entries(vec![(sealed, stream_seq)])
            }
            BusEvent::Preface { preface, stream_seq } => {
                Event::Preface { preface: Box::new(preface), stream_seq }
            }
            BusEvent::CaughtUp { site } => Event::CaughtUp { site },
            BusEvent::Rewound { site } => {
                rewound += 1;
                Event::Rewound { site }
            }
            BusEvent::BadEntry { error, .. } => panic!("{}", error.message()),
            BusEvent::LogReplaced { .. } => panic!("it has more than was read"),
            _ => continue,
        };
        for effect in controller.handle(event, now) {
            match effect {
                Effect::Rewind { site } => late.rewind(&site),
                Effect::TakeIn(taken) => break 'read *taken,
                Effect::Refill { .. } => panic!("nothing is lacking"),
                _ => {}
            }
        }
    };
    assert_eq!((rewound, &taken.saved.heads[&osl].head), (1, &told.covered));
    let kept: Vec<u64> = taken.kept.iter().map(|(s, _)| s.entry.position.seq).collect();
    assert_eq!(kept, KEPT);
    // It is read from its beginning once: what comes next is what is stored next.
    while !matches!(next(&mut events).await, BusEvent::CaughtUp { site } if site == osl) {}
    late.rewind(&osl);
    let marker = Arc::clone(&of(LENGTH).bytes);
    let stored = bus.restate(of(LENGTH).subject(), marker, last).await.expect("stored");
    loop {
        match next(&mut events).await {
            BusEvent::Entry { stream_seq, site, .. } if site == osl => {
                break assert_eq!(stream_seq, stored);
            }
            BusEvent::Rewound { .. } => panic!("again"),
            _ => {}
        }
    }
}
