//! The adapter against real nats-servers, two sites joined by a leaf connection.

#![allow(clippy::print_stderr, reason = "a test says what it measured or left out")]

mod bus_fixture;
mod bus_server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bus_fixture::*;
use bus_server::{Lab, PATIENCE};
use nett_agent::bus::nats::{NatsBus, NatsConfig};
use nett_agent::bus::provision::{self, Outcome};
use nett_agent::bus::wire::{Report, open_request, request_subject, seal_report};
use nett_agent::bus::{AppendError, Bus, BusEvent, BusEvents, Sealed};
use nett_policy::id::SiteId;
use nett_policy::log::entry::FabricRef;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::time::timeout;

async fn agent(lab: &Lab, name: &str, number: u8, start: &[(&str, u64)]) -> (NatsBus, BusEvents) {
    agent_with(lab, (name, number), start, 64).await
}

/// The same with room for so many events.
async fn agent_with(
    lab: &Lab,
    (name, number): (&str, u8),
    start: &[(&str, u64)],
    capacity: usize,
) -> (NatsBus, BusEvents) {
    let node = lab.fabric.node(&id(name)).expect("known");
    let config = NatsConfig {
        site: node.site.clone(),
        node: node.id.clone(),
        urls: lab.fabric.site(&node.site).expect("known").nats.clone(),
        seed: seed(number),
        tls: Some(lab.authority.issue(name)),
        start: start.iter().map(|(site, seq)| (id(site), *seq)).collect(),
        capacity,
        rosters: Arc::new((&lab.fabric).into()),
        intake: Arc::default(),
    };
    NatsBus::start(config, Arc::new(lab.fabric.clone())).await.expect("starts")
}

/// The next event that `pick` wants; others are passed over.
async fn next<T>(events: &mut BusEvents, what: &str, pick: impl Fn(BusEvent) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the bus runs");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{what}: not in {PATIENCE:?}"))
}

fn entry(event: BusEvent) -> Option<(SiteId, u64, Sealed)> {
    match event {
        BusEvent::Entry { sealed, stream_seq, site } => Some((site, stream_seq, sealed)),
        BusEvent::BadEntry { error, .. } => panic!("not believed: {}", error.message()),
        _ => None,
    }
}

fn caught_up(site: &str) -> impl Fn(BusEvent) -> Option<()> {
    let site: SiteId = id(site);
    move |event| matches!(event, BusEvent::CaughtUp { site: s } if s == site).then_some(())
}

fn connected(event: BusEvent) -> Option<()> {
    matches!(event, BusEvent::Connected).then_some(())
}

async fn lab() -> Lab {
    let lab = Lab::start(fabric()).await;
    for site in ["osl", "svg"] {
        lab.init(&id(site)).await;
    }
    lab
}

#[tokio::test]
async fn an_entry_is_appended_once_in_order_and_seen_at_both_sites() {
    let lab = lab().await;
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    let (_svg, mut at_svg) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    next(&mut at_svg, "svg read osl", caught_up("osl")).await;

    let first = sealed_command("osl", 1);
    assert_eq!(osl.append(&first, 0).await, Ok(1));
    assert_eq!(osl.append(&first, 0).await, Ok(1), "a retry gets the first answer");
    let second = sealed_command("osl", 2);
    assert_eq!(osl.append(&second, 0).await, Err(AppendError::Conflict));
    assert_eq!(osl.append(&second, 1).await, Ok(2));
    for seq in 3..=200 {
        assert_eq!(osl.append(&sealed_command("osl", seq), seq - 1).await, Ok(seq));
    }
    for events in [&mut at_osl, &mut at_svg] {
        for seq in 1..=200 {
            let (site, stream_seq, sealed) = next(events, "the entry", entry).await;
            assert_eq!((site.as_str(), stream_seq), ("osl", seq));
            assert_eq!(sealed, sealed_command("osl", seq));
        }
    }
    // Each site's log has its own numbers, and a reader starts where it is told to.
    let (svg, _events) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    let connected = || svg.connected().then_some(());
    bus_server::eventually("connected", connected).await;
    assert_eq!(svg.append(&sealed_command("svg", 1), 0).await, Ok(1));
    let (_again, mut events) = agent(&lab, "osl-r1", OSL_R1, &[("osl", 199)]).await;
    let mut seen = BTreeMap::new();
    for _ in 0..3 {
        let (site, seq, _) = next(&mut events, "the rest", entry).await;
        seen.entry(site.to_string()).or_insert_with(Vec::new).push(seq);
    }
    assert_eq!(seen, BTreeMap::from([("osl".into(), vec![199, 200]), ("svg".into(), vec![1])]));
}

#[tokio::test]
async fn delivery_waits_for_no_timer() {
    let lab = lab().await;
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    let (_svg, mut at_svg) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    next(&mut at_svg, "svg read osl", caught_up("osl")).await;
    // The mirror has its first message behind it before the clock counts.
    let mut own = Vec::new();
    let mut other = Vec::new();
    for seq in 1..=50 {
        let sealed = sealed_command("osl", seq);
        let begin = Instant::now();
        osl.append(&sealed, seq - 1).await.expect("appends");
        next(&mut at_osl, "own site", entry).await;
        own.push(begin.elapsed());
        next(&mut at_svg, "other site", entry).await;
        other.push(begin.elapsed());
    }
    own.sort();
    other.sort();
    eprintln!("from append to delivery, median: own {:?}, other {:?}", own[25], other[25]);
    // Anything that polls would show here; the usual figures are a hundredth of these.
    assert!(own[25] < Duration::from_millis(100), "{own:?}");
    assert!(other[25] < Duration::from_millis(200), "{other:?}");
}

fn report_of(lab: &Lab) -> Report {
    Report {
        site: id("svg"),
        node: id("svg-r1"),
        at: NOW,
        fabric: FabricRef { generation: lab.fabric.generation, hash: "9f3c".into() },
        heads: BTreeMap::new(),
        acks: Vec::new(),
        measuring: BTreeMap::new(),
        links: BTreeMap::new(),
        doubted: [].into(),
        rtts: BTreeMap::new(),
        dns_serial: None,
        drift: Vec::new(),
        degraded: Vec::new(),
        counters: BTreeMap::new(),
        bytes: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_report_is_seen_by_those_who_come_later() {
    let lab = lab().await;
    let (svg, _events) = agent(&lab, "svg-r1", SVG_R1, &[]).await;
    bus_server::eventually("connected", || svg.connected().then_some(())).await;
    let mut report = report_of(&lab);
    for serial in 1..=3 {
        report.dns_serial = Some(serial);
        let bytes = seal_report(&report, &key(SVG_R1)).expect("signs");
        svg.publish_report(bytes).await.expect("stored");
    }
    for (name, number) in [("svg-b1", SVG_B1), ("osl-b1", OSL_B1)] {
        let (_bus, mut events) = agent(&lab, name, number, &[]).await;
        let last = |event| match event {
            BusEvent::Report(seen) if seen == report => Some(()),
            BusEvent::BadReport { error, .. } => panic!("{}", error.message()),
            _ => None,
        };
        next(&mut events, "the report", last).await;
    }
}

/// A connection as an operator or a thief of a key has it.
async fn client(lab: &Lab, site: &str, number: u8, inbox: &str) -> async_nats::Client {
    let tls = lab.authority.issue("client");
    let options = async_nats::ConnectOptions::with_nkey(seed(number))
        .require_tls(true)
        .add_root_certificates(tls.ca)
        .add_client_certificate(tls.cert, tls.key)
        .request_timeout(Some(Duration::from_millis(500)))
        .custom_inbox_prefix(inbox);
    let urls = lab.fabric.site(&id(site)).expect("known").nats.clone();
    options.connect(urls).await.expect("the key connects")
}

/// Whether somebody answers, who has more time than [`client`] gives those that are refused.
async fn answers(client: &async_nats::Client, subject: &str, bytes: Vec<u8>) -> bool {
    let request = async_nats::Request::new().payload(bytes.into()).timeout(Some(PATIENCE));
    client.send_request(subject.to_owned(), request).await.is_ok()
}

#[tokio::test]
async fn operators_ask_and_one_agent_answers() {
    let lab = lab().await;
    let (_bus, mut events) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    next(&mut events, "connected", connected).await;
    let served = tokio::spawn(async move {
        let fabric = fabric();
        loop {
            match events.recv().await.expect("the bus runs") {
                BusEvent::Request { bytes, subject, reply } => {
                    let request = open_request(&bytes, &subject, &fabric).expect("believed");
                    reply.answer(format!("accepted {}", request.id).into_bytes()).await;
                }
                BusEvent::Rpc { subject, reply, .. } => reply.answer(subject.into_bytes()).await,
                _ => {}
            }
        }
    });
    let mira = client(&lab, "osl", MIRA, "_INBOX.op").await;
    let request = request("osl", 1);
    let bytes = sealed_request(&request);
    let ask = |subject: String, bytes: Vec<u8>| {
        let mira = mira.clone();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                // The agent's subscription may be on its way.
                match mira.request(subject.clone(), bytes.clone().into()).await {
                    Ok(answer) => break String::from_utf8(answer.payload.to_vec()).expect("text"),
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            }
        }
    };
    let answer = ask(request_subject(&request), bytes).await;
    assert_eq!(answer, format!("accepted {}", request.id));
    let question = "nett.l.rpc.osl.osl-b1.status";
    assert_eq!(ask(question.to_owned(), Vec::new()).await, question);
    // A viewer may ask questions, and give no commands.
    let jon = client(&lab, "osl", JON, "_INBOX.op").await;
    assert!(answers(&jon, question, Vec::new()).await);
    let refused = jon.request(request_subject(&request), sealed_request(&request).into()).await;
    assert!(refused.is_err(), "the server lets a viewer give commands");
    served.abort();
}

async fn stored(lab: &Lab, site: &str, stream: &str) -> u64 {
    let admin = client(lab, site, ADMIN, "_INBOX.admin").await;
    let context = jetstream::new(admin);
    let stream = context.get_stream(stream).await.expect("there");
    stream.cached_info().state.messages
}

#[tokio::test]
async fn the_server_keeps_everyone_to_their_own_subjects() {
    let lab = lab().await;
    let (osl, svg) = (sealed_command("osl", 1), sealed_command("svg", 1));
    // Who may publish what: (site of the server, key, inbox, entry).
    for (site, number, inbox, sealed) in [
        ("osl", OSL_B1, "_INBOX.osl", &svg),
        ("svg", SVG_B1, "_INBOX.svg", &osl),
        ("osl", MIRA, "_INBOX.op", &osl),
        ("osl", JON, "_INBOX.op", &osl),
    ] {
        let client = client(&lab, site, number, inbox).await;
        let refused = client.request(sealed.subject(), sealed.bytes.to_vec().into()).await;
        assert!(refused.is_err(), "{number} at {site} wrote {}", sealed.subject());
    }
    let thief = client(&lab, "osl", OSL_B1, "_INBOX.osl").await;
    let neighbour = thief.request("nett.r.state.osl.osl-r1", "x".into()).await;
    assert!(neighbour.is_err(), "a node spoke for its neighbour");
    let context = jetstream::new(thief.clone());
    assert!(context.delete_stream("NETT_LOG_OSL").await.is_err());
    assert!(context.get_stream("NETT_LOG_OSL").await.expect("readable").purge().await.is_err());
    // The admin of one site cannot write into the other's log either.
    let admin = client(&lab, "svg", ADMIN, "_INBOX.admin").await;
    let crossed = admin.request(osl.subject(), osl.bytes.to_vec().into()).await;
    assert!(crossed.is_err(), "an entry crossed the leaf connection: {crossed:?}");
    for (site, stream) in [("osl", "NETT_LOG_OSL"), ("svg", "NETT_LOG_SVG")] {
        assert_eq!(stored(&lab, site, stream).await, 0, "{stream}");
    }
    // The same subjects work for those they belong to.
    assert!(answers(&thief, &osl.subject(), osl.bytes.to_vec()).await);
    assert_eq!(stored(&lab, "osl", "NETT_LOG_OSL").await, 1);
}

#[tokio::test]
async fn a_killed_server_comes_back_and_nothing_is_lost_or_doubled() {
    let mut lab = lab().await;
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    let (_svg, mut at_svg) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    for seq in 1..=5 {
        osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
    }
    for _ in 0..5 {
        next(&mut at_osl, "before", entry).await;
        next(&mut at_svg, "before", entry).await;
    }
    let site: SiteId = id("osl");
    lab.servers.get_mut(&site).expect("started").kill();
    let down = |event| matches!(event, BusEvent::Disconnected).then_some(());
    next(&mut at_osl, "disconnected", down).await;
    let begin = Instant::now();
    let refused = osl.append(&sealed_command("osl", 6), 5).await;
    assert_eq!(refused, Err(AppendError::Unreachable));
    assert!(begin.elapsed() < Duration::from_secs(1), "it waited for a server that is gone");

    lab.servers.get_mut(&site).expect("started").restart().await;
    next(&mut at_osl, "connected", connected).await;
    next(&mut at_osl, "read again", caught_up("osl")).await;
    // Refused while down means not sent: the number is still free.
    assert_eq!(osl.append(&sealed_command("osl", 6), 5).await, Ok(6));
    let (_, seq, sealed) = next(&mut at_osl, "after", entry).await;
    assert_eq!((seq, sealed), (6, sealed_command("osl", 6)));
}

#[tokio::test]
async fn a_site_without_streams_says_so_and_goes_on_when_they_are_made() {
    let lab = Lab::start(fabric()).await;
    let (osl, mut events) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    let missing = |event| match event {
        BusEvent::StreamMissing { stream, .. } if stream == "NETT_LOG_OSL" => Some(()),
        _ => None,
    };
    next(&mut events, "missing", missing).await;
    let refused = osl.append(&sealed_command("osl", 1), 0).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");

    let site: SiteId = id("osl");
    let made = lab.init(&site).await;
    assert!(made.iter().all(|f| f.outcome == Outcome::Created), "{made:?}");
    let names: Vec<&str> = made.iter().map(|f| f.stream.as_str()).collect();
    for name in ["NETT_LOG_OSL", "NETT_CMD_OSL", "NETT_OBS_OSL", "NETT_VOTE_SVG", "KV_nett_local"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let again = lab.init(&site).await;
    assert!(again.iter().all(|f| f.outcome == Outcome::Same), "{again:?}");
    next(&mut events, "found", caught_up("osl")).await;
    assert_eq!(osl.append(&sealed_command("osl", 1), 0).await, Ok(1));
    next(&mut events, "read", entry).await;

    // The wrong server is noticed, and a check changes nothing.
    let urls = &lab.fabric.site(&id("svg")).expect("known").nats;
    let tls = lab.authority.issue("admin");
    let context = provision::connect(&site, urls, &seed(ADMIN), Some(&tls)).await.expect("there");
    let refused = provision::check(&context, &lab.fabric, &site).await;
    assert!(matches!(refused, Err(provision::ProvisionError::Domain { .. })), "{refused:?}");
    let found = provision::check(&context, &lab.fabric, &id("svg")).await.expect("answers");
    assert!(found.iter().all(|f| f.outcome == Outcome::Missing), "{found:?}");
}

#[tokio::test]
async fn what_the_mirror_lacks_is_read_at_the_origin() {
    let lab = lab().await;
    let admin = jetstream::new(client(&lab, "svg", ADMIN, "_INBOX.admin").await);
    for stream in ["NETT_LOG_OSL", "NETT_STATE_OSL"] {
        admin.delete_stream(stream).await.expect("the mirror is taken away");
    }
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    let (_svg, mut at_svg) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    for seq in 1..=3 {
        osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
    }
    let report = Report { site: id("osl"), node: id("osl-b1"), ..report_of(&lab) };
    let bytes = seal_report(&report, &key(OSL_B1)).expect("signs");
    osl.publish_report(bytes).await.expect("stored");
    let mut entries = Vec::new();
    let mut reports = 0;
    while entries.len() < 3 || reports == 0 {
        let pick = |event| match event {
            BusEvent::Report(_) => Some(None),
            event => entry(event).map(Some),
        };
        match next(&mut at_svg, "read at osl", pick).await {
            Some((_, seq, sealed)) => entries.push((seq, sealed)),
            None => reports += 1,
        }
    }
    let expected: Vec<_> = (1..=3).map(|seq| (seq, sealed_command("osl", seq))).collect();
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn an_agent_starts_without_any_server() {
    let mut lab = lab().await;
    let site: SiteId = id("osl");
    lab.servers.get_mut(&site).expect("started").kill();
    let (osl, mut events) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    assert!(!osl.connected());
    let refused = osl.append(&sealed_command("osl", 1), 0).await;
    assert_eq!(refused, Err(AppendError::Unreachable));
    lab.servers.get_mut(&site).expect("started").restart().await;
    next(&mut events, "connected", connected).await;
    next(&mut events, "read", caught_up("osl")).await;
}

/// Returns when the last thread of our child stands still: the signal alone lets it go on for a
/// moment.
fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).expect("our child");
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("our child");
    assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
}

#[tokio::test]
async fn a_silent_server_blocks_nobody_and_a_retry_stores_once() {
    let lab = lab().await;
    let (osl, mut events) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    next(&mut events, "osl read", caught_up("osl")).await;
    let pid = lab.servers[&id("osl")].pid();
    stop(pid);
    let (begin, sealed) = (Instant::now(), sealed_command("osl", 1));
    let result = osl.append(&sealed, 0).await;
    assert_eq!(result, Err(AppendError::Timeout));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let down = |event| matches!(event, BusEvent::Disconnected).then_some(());
    next(&mut events, "noticed", down).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "noticed after {:?}", begin.elapsed());

    kill(pid, Signal::SIGCONT).expect("our child");
    next(&mut events, "connected", connected).await;
    // What was sent may have arrived: the retry finds it or stores it, once.
    let search = async {
        loop {
            match osl.append(&sealed, 0).await {
                Err(AppendError::Timeout | AppendError::Unreachable) => {}
                result => break result,
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(timeout(PATIENCE, search).await.expect("answers"), Ok(1));
    assert_eq!(stored(&lab, "osl", "NETT_LOG_OSL").await, 1);
    let (_, seq, _) = next(&mut events, "the entry", entry).await;
    assert_eq!(seq, 1);
}

/// Lost and filled again before the agent looked, it ends behind what was read of it.
#[tokio::test]
async fn a_stream_that_was_made_anew_is_noticed_however_much_it_holds() {
    let lab = lab().await;
    let site: SiteId = id("osl");
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    // This one has room for one event, so what it reads waits until somebody takes it.
    let (_slow, mut at_slow) = agent_with(&lab, ("osl-r1", OSL_R1), &[], 1).await;
    next(&mut at_slow, "osl read", caught_up("osl")).await;
    for seq in 1..=5 {
        osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
    }
    next(&mut at_slow, "the first", entry).await;
    let at_home = jetstream::new(client(&lab, "osl", ADMIN, "_INBOX.admin").await);
    at_home.delete_stream("NETT_LOG_OSL").await.expect("the stream is lost");
    lab.init(&site).await;
    for seq in 1..=9 {
        let sealed = sealed_command("osl", seq);
        let (subject, bytes) = (sealed.subject(), Arc::clone(&sealed.bytes));
        osl.restate(subject, bytes, seq - 1).await.expect("stored");
    }
    let told = next(&mut at_slow, "the loss is noticed", |event| match event {
        BusEvent::LogReplaced { site, found, .. } => Some((site, found)),
        _ => None,
    });
    assert_eq!(told.await, (site, 9));
    for seq in 1..=9 {
        assert_eq!(next(&mut at_slow, "what there is now", entry).await.1, seq);
    }
}

/// The site's agents fill a lost stream before they have read anything of it; lost again then, it
/// is another one.
#[tokio::test]
async fn a_stream_that_is_lost_before_anything_was_read_of_it_is_noticed() {
    let lab = lab().await;
    let site: SiteId = id("osl");
    let (_osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    let at_home = jetstream::new(client(&lab, "osl", ADMIN, "_INBOX.admin").await);
    at_home.delete_stream("NETT_LOG_OSL").await.expect("the stream is lost");
    lab.init(&site).await;
    let told = next(&mut at_osl, "the loss is noticed", |event| match event {
        BusEvent::LogReplaced { site, read, found } => Some((site, read, found)),
        _ => None,
    });
    assert_eq!(told.await, (site, 0, 0));
}

/// A server goes on with a mirror by number alone: of an origin that was rebuilt it keeps the old
/// entries. Made anew, the mirror has what the origin has.
#[tokio::test]
async fn a_mirror_of_a_rebuilt_log_is_made_anew() {
    let lab = lab().await;
    let (osl_site, svg_site): (SiteId, SiteId) = (id("osl"), id("svg"));
    let (osl, mut at_osl) = agent(&lab, "osl-b1", OSL_B1, &[]).await;
    let (_svg, mut at_svg) = agent(&lab, "svg-b1", SVG_B1, &[]).await;
    next(&mut at_osl, "osl read", caught_up("osl")).await;
    next(&mut at_svg, "svg read osl", caught_up("osl")).await;
    for seq in 1..=3 {
        osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
        next(&mut at_svg, "mirrored", entry).await;
    }
    let at_home = jetstream::new(client(&lab, "osl", ADMIN, "_INBOX.admin").await);
    at_home.delete_stream("NETT_LOG_OSL").await.expect("the origin is lost");
    lab.init(&osl_site).await;
    let told = next(&mut at_osl, "the loss is noticed", |event| match event {
        BusEvent::LogReplaced { site, read, found } => Some((site, read, found)),
        _ => None,
    });
    assert_eq!(told.await, (osl_site.clone(), 3, 0));
    assert_eq!(osl.append(&sealed_command("osl", 1), 0).await, Ok(1));

    let urls = &lab.fabric.site(&svg_site).expect("known").nats;
    let tls = lab.authority.issue("admin");
    let context = provision::connect(&svg_site, urls, &seed(ADMIN), Some(&tls)).await;
    let context = context.expect("there");
    let own = provision::resync(&context, &lab.fabric, (&svg_site, &svg_site)).await;
    assert!(matches!(own, Err(provision::ProvisionError::NotAMirror { .. })), "{own:?}");
    let done = provision::resync(&context, &lab.fabric, (&svg_site, &osl_site)).await;
    let done = done.expect("made anew");
    assert!(done.iter().all(|f| f.outcome == Outcome::Again) && done.len() == 3, "{done:?}");
    let told = next(&mut at_svg, "svg begins again", |event| match event {
        BusEvent::LogReplaced { site, .. } => Some(site),
        _ => None,
    });
    assert_eq!(told.await, osl_site);
    let (site, seq, sealed) = next(&mut at_svg, "what there is now", entry).await;
    assert_eq!((site, seq, sealed), (osl_site, 1, sealed_command("osl", 1)));
}
