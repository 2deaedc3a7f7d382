//! The parsers of the agent that take bytes from outside, against changed inputs; `make fuzz` runs
//! it long.

mod bus_fixture;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bus_fixture::*;
use nett_agent::api::codec::{decode_answer, decode_call};
use nett_agent::bus::nats::lines::{Lines, Said};
use nett_agent::bus::wire::{
    open_entry, open_report, open_request, open_stored_entry, request_subject, seal_request,
};
use nett_agent::journal::{FileJournal, Journal};
use nett_agent::probe::bfd::packet::Packet;
use nett_agent::probe::bfd::session::Session;
use nett_fixtures::fuzz::fuzz;
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Bfd;

fn number(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The kind of an error is its name up to the first detail.
fn kind(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(['(', '{', '"']).next().unwrap_or_default().to_owned()
}

#[test]
fn envelopes_of_the_bus() {
    let request = request("osl", 1);
    let subject = request_subject(&request);
    let sealed = seal_request(&request, &subject, &key(MIRA)).expect("signs");
    let fabric = fabric();
    let seeds = [sealed, b"{\"v\":1,\"kind\":\"report\"}".to_vec(), b"{}".to_vec()];
    fuzz("bus-envelope", &seeds, |bytes| {
        let opened = open_request(bytes, &subject, &fabric);
        // Nobody but the holder of the key makes another request of it.
        if let Ok(opened) = &opened {
            assert_eq!(*opened, request);
        }
        let told = [
            opened.err().map(|e| kind(&e)),
            open_report(bytes, "nett.r.state.osl.osl-b1", &fabric).err().map(|e| kind(&e)),
            open_entry(bytes, "nett.r.log.osl", &fabric).err().map(|e| kind(&e)),
            open_stored_entry(bytes, &fabric).err().map(|e| kind(&e)),
        ];
        number(told)
    });
}

/// What a server says is the same however the connection cuts it, and no more is held of it than a
/// message that is within the limit, or a line.
#[test]
fn lines_of_a_nats_server() {
    const LIMIT: usize = 100;
    let said = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut lines, mut all, mut hasher) = (Lines::new(LIMIT), 0u32, DefaultHasher::new());
        for piece in pieces {
            let taken = lines.take(piece, |said| {
                if let Said::Message { payload: Some(payload), .. } = &said {
                    assert!(payload.len() <= LIMIT);
                }
                format!("{said:?}").hash(&mut hasher);
                all += 1;
            });
            if let Err(garbled) = taken {
                return (all, hasher.finish(), Some(garbled));
            }
        }
        (all, hasher.finish(), None)
    };
    let text = b"INFO {\"nonce\":\"x\"}\r\nPING\r\nMSG a.b 7 4\r\n\r\n\r\n\r\n-ERR 'No'\r\n+OK\r\n";
    let large = b"MSG c 8 _INBOX.x 120\r\n".iter().chain(&[b'x'; 120]).chain(b"\r\nPONG\r\n");
    let strange = b"MSG nett.\xff 1 r 2\r\nab\r\nMSG e 9 0\r\n\r\n";
    let seeds = [text.to_vec(), large.copied().collect(), strange.to_vec()];
    fuzz("nats-lines", &seeds, |bytes| {
        let whole = said(&mut std::iter::once(bytes));
        for step in [1, 2, 7, 64] {
            assert_eq!(said(&mut bytes.chunks(step)), whole, "in pieces of {step}");
        }
        let (all, _, garbled) = whole;
        number((all.min(8), garbled.map(|garbled| kind(&garbled))))
    });
}

/// What is a packet is written as it was read, and a session takes it or not.
#[test]
fn packets_of_bfd() {
    let mut up = vec![0x20, 0xc0, 3, 24, 0, 0, 0, 9, 0, 0, 0, 7];
    up.extend([0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0]);
    let mut poll = up.clone();
    (poll[1], poll[0]) = (0x60, 0x21);
    let settings = Bfd { tx: TENTH, rx: TENTH, multiplier: 3 };
    let mut session = Session::new(7.try_into().expect("not zero"), settings);
    session.packet(Duration::ZERO, 0).expect("announces itself");
    session.check(TENTH * 5).expect("begins");
    let mut now = TENTH * 5;
    fuzz("bfd-packet", &[up, poll], |bytes| {
        now += Duration::from_millis(1);
        let packet = match Packet::read(bytes) {
            Ok(packet) => packet,
            Err(flaw) => return number(kind(&flaw)),
        };
        let (again, rest) = bytes.split_at(24);
        assert_eq!((&packet.write()[..3], &packet.write()[4..]), (&again[..3], &again[4..]));
        let change = session.receive(&packet, now).map(|change| change.is_some());
        session.check(now);
        let answer = session.packet(now, bytes[0]);
        number((change.ok(), session.state() as u8, answer.is_some(), rest.is_empty()))
    });
}

const TENTH: Duration = Duration::from_millis(100);

#[test]
fn calls_of_the_socket() {
    let canned = include_bytes!("ctl_cli/canned.json");
    let seeds = [
        br#"{"v":1,"ask":"status"}"#.to_vec(),
        br#"{"v":1,"kind":"status"}"#.to_vec(),
        canned[..canned.len().min(4096)].to_vec(),
    ];
    fuzz("api-call", &seeds, |bytes| {
        let call = decode_call(bytes).map(|c| kind(&c)).map_err(|e| e.message.len());
        let answer = decode_answer(bytes).map(|_| ()).map_err(|e| kind(&e));
        number((call, answer))
    });
}

#[test]
fn documents() {
    let text = |name: &str| nett_fixtures::fabric_file("two-sites", name).expect("a fixture").text;
    let (fabric, services) = (text("fabric.toml"), text("services.toml"));
    let seeds = [fabric.clone().into_bytes(), services.clone().into_bytes(), b"{}".to_vec()];
    fuzz("document", &seeds, |bytes| {
        let changed = String::from_utf8_lossy(bytes).into_owned();
        let of = |name: &str, text: &str| SourceFile::new(name.to_owned(), text.to_owned());
        let mut told = Vec::new();
        for kind in ["toml", "json"] {
            let name = |stem: &str| format!("{stem}.{kind}");
            for result in [
                compile(&of(&name("fabric"), &changed), &of("services.toml", &services)),
                compile(&of("fabric.toml", &fabric), &of(&name("services"), &changed)),
            ] {
                let mistakes = result.err().unwrap_or_default();
                let mut codes: Vec<&str> = mistakes.iter().map(|m| m.code.as_str()).collect();
                codes.dedup();
                // Showing them must not fail either.
                let shown: usize = mistakes.iter().map(|m| m.to_string().len()).sum();
                assert!(mistakes.is_empty() || shown > 0);
                told.push(codes.join(" "));
            }
        }
        number(told)
    });
}

#[test]
fn journals() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut whole = Vec::new();
    {
        let mut journal = FileJournal::open(directory.path()).expect("a new journal");
        journal.load().expect("empty");
        for n in 0..3 {
            let record =
                nett_agent::journal::Record { stream_seq: n, bytes: vec![b'x'; 20 + n as usize] };
            journal.append(&[record]).expect("appended");
        }
    }
    let mut file = None;
    for entry in std::fs::read_dir(directory.path()).expect("readable") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("readable");
        if bytes.len() > whole.len() {
            (whole, file) = (bytes, Some(path));
        }
    }
    let file = file.expect("the journal has a file");
    fuzz("journal", &[whole], |bytes| {
        std::fs::write(&file, bytes).expect("writable");
        let opened = FileJournal::open(directory.path()).and_then(|mut journal| journal.load());
        match opened {
            Ok(loaded) => number((loaded.records.len(), loaded.damaged.len(), loaded.torn > 0)),
            Err(error) => number(kind(&error)),
        }
    });
}
