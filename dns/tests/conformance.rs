//! The tests of RFC 8906 section 8, and of every EDNS option this server knows, asked with `dig`.

mod sample;
mod serve;

use std::time::{SystemTime, UNIX_EPOCH};

use nett_dns::Profile;

use serve::{Dug, Running, dig, profile};

const NAME: &str = "api.prod.shop.steer.example.";

fn flags(dug: &Dug) -> Vec<&str> {
    dug.flags.iter().map(String::as_str).collect()
}

/// A line of `dig` about an option of the answer, without its title.
fn option<'a>(dug: &'a Dug, title: &str) -> Option<&'a str> {
    dug.text.lines().find_map(|l| l.strip_prefix(&format!("; {title}: ")))
}

/// One row of the RFC's tables: a title, the question, and what the answer must be like.
struct Row {
    title: &'static str,
    question: &'static [&'static str],
    status: &'static str,
    flags: &'static [&'static str],
    /// The records: of the answer section, and of the authority section.
    records: (usize, usize),
    /// The part of the OPT record that `dig` shows first; none without EDNS.
    edns: Option<&'static str>,
}

const PLAIN: Option<&str> = Some("version: 0, flags:; udp: 1232");
const WITH_DO: Option<&str> = Some("version: 0, flags: do; udp: 1232");

/// RFC 8906 sections 8.1.1 to 8.1.5: without EDNS.
const BASIC: [Row; 10] = [
    Row {
        title: "8.1.1 the zone is served",
        question: &["+noedns", "+noad", "+norec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "8.1.2 unknown types have no data",
        question: &["+noedns", "+noad", "+norec", "steer.example.", "TYPE1000"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (0, 1),
        edns: None,
    },
    Row {
        title: "8.1.3.1 CD comes back",
        question: &["+noedns", "+noad", "+norec", "+cd", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa", "cd"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "8.1.3.2 AD does not",
        question: &["+noedns", "+ad", "+norec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "8.1.3.3 the reserved bit is zero",
        question: &["+noedns", "+noad", "+norec", "+zflag", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "8.1.3.4 RD comes back and RA does not",
        question: &["+noedns", "+noad", "+rec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa", "rd"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "TC and AA in a question mean nothing",
        question: &["+noedns", "+noad", "+norec", "+tcflag", "+aaflag", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "8.1.4 unknown opcodes",
        question: &["+noedns", "+noad", "+norec", "+opcode=15", "+header-only"],
        status: "NOTIMP",
        flags: &["qr"],
        records: (0, 0),
        edns: None,
    },
    Row {
        title: "unknown opcodes with a question",
        question: &["+noedns", "+noad", "+norec", "+opcode=15", "steer.example.", "SOA"],
        status: "NOTIMP",
        flags: &["qr"],
        records: (0, 0),
        edns: None,
    },
    Row {
        title: "8.1.5 TCP",
        question: &["+noedns", "+noad", "+norec", "+tcp", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
];

/// RFC 8906 sections 8.2.1 to 8.2.10: with EDNS.
const EXTENDED: [Row; 12] = [
    Row {
        title: "8.2.1 EDNS",
        question: &["+edns=0", "+noad", "+norec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.2 unknown versions",
        question: &["+edns=1", "+noednsneg", "+noad", "+norec", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.3 unknown options",
        question: &["+edns=0", "+noad", "+norec", "+ednsopt=100", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.4 unknown flags",
        question: &["+edns=0", "+noad", "+norec", "+ednsflags=0x80", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.5 unknown versions with unknown flags",
        question: &["+edns=1", "+noednsneg", "+norec", "+ednsflags=0x80", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.6 unknown versions with unknown options",
        question: &["+edns=1", "+noednsneg", "+norec", "+ednsopt=100", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "8.2.7 what is cut has its OPT record",
        question: &[
            "+norec",
            "+dnssec",
            "+bufsize=512",
            "+ignore",
            "wide.prod.shop.steer.example.",
            "A",
        ],
        status: "NOERROR",
        flags: &["qr", "aa", "tc"],
        records: (0, 0),
        edns: WITH_DO,
    },
    Row {
        title: "8.2.8 DO comes back",
        question: &["+edns=0", "+noad", "+norec", "+dnssec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: WITH_DO,
    },
    Row {
        title: "8.2.9 unknown versions with DO",
        question: &["+edns=1", "+noednsneg", "+norec", "+dnssec", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: WITH_DO,
    },
    Row {
        title: "8.2.10 several options at once",
        question: &[
            "+edns=0",
            "+norec",
            "+cookie",
            "+nsid",
            "+expire",
            "+subnet=0.0.0.0/0",
            "steer.example.",
            "SOA",
        ],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "unknown types with EDNS",
        question: &["+edns=0", "+norec", "steer.example.", "TYPE65279"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (0, 1),
        edns: PLAIN,
    },
    Row {
        title: "EDNS over TCP",
        question: &["+edns=0", "+norec", "+tcp", "+keepalive", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
];

/// What ISC's compliance tester (`genreport`) asks beside these: flags and options together.
const TOGETHER: [Row; 14] = [
    Row {
        title: "RA in a question means nothing",
        question: &["+noedns", "+noad", "+norec", "+raflag", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: None,
    },
    Row {
        title: "unknown opcodes with every flag",
        question: &[
            "+noedns",
            "+opcode=15",
            "+header-only",
            "+rec",
            "+adflag",
            "+cd",
            "+aaflag",
            "+tcflag",
            "+raflag",
            "+zflag",
        ],
        status: "NOTIMP",
        flags: &["qr", "rd", "cd"],
        records: (0, 0),
        edns: None,
    },
    Row {
        title: "flags that mean something together",
        question: &["+edns=0", "+rec", "+adflag", "+cd", "+dnssec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa", "rd", "cd"],
        records: (1, 0),
        edns: WITH_DO,
    },
    Row {
        title: "a small buffer",
        question: &[
            "+edns=0",
            "+noad",
            "+norec",
            "+bufsize=512",
            "+ignore",
            "+dnssec",
            "steer.example.",
            "SOA",
        ],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: WITH_DO,
    },
    Row {
        title: "a small buffer over TCP",
        question: &[
            "+edns=0",
            "+noad",
            "+norec",
            "+bufsize=512",
            "+tcp",
            "wide.prod.shop.steer.example.",
            "A",
        ],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (256, 0),
        edns: PLAIN,
    },
    Row {
        title: "DO with a cookie",
        question: &["+edns=0", "+noad", "+norec", "+cookie", "+dnssec", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: WITH_DO,
    },
    Row {
        title: "unknown versions with NSID",
        question: &["+edns=1", "+noednsneg", "+noad", "+norec", "+nsid", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "unknown versions with a cookie",
        question: &["+edns=1", "+noednsneg", "+noad", "+norec", "+cookie", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "unknown versions with EXPIRE",
        question: &["+edns=1", "+noednsneg", "+noad", "+norec", "+expire", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "unknown versions with a subnet",
        question: &[
            "+edns=1",
            "+noednsneg",
            "+noad",
            "+norec",
            "+subnet=0.0.0.0/0",
            "steer.example.",
            "SOA",
        ],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "EXPIRE alone, which a primary does not know",
        question: &["+edns=0", "+noad", "+norec", "+expire", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "the highest version",
        question: &["+edns=255", "+noednsneg", "+noad", "+norec", "steer.example.", "SOA"],
        status: "BADVERS",
        flags: &["qr"],
        records: (0, 0),
        edns: PLAIN,
    },
    Row {
        title: "unknown options with data",
        question: &[
            "+edns=0",
            "+noad",
            "+norec",
            "+ednsopt=65001:00ff00ff",
            "steer.example.",
            "SOA",
        ],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
    Row {
        title: "every unknown flag",
        question: &["+edns=0", "+noad", "+norec", "+ednsflags=0x7fff", "steer.example.", "SOA"],
        status: "NOERROR",
        flags: &["qr", "aa"],
        records: (1, 0),
        edns: PLAIN,
    },
];

#[test]
fn the_tests_of_rfc_8906_pass() {
    let server = Running::usual();
    for row in BASIC.iter().chain(&EXTENDED).chain(&TOGETHER) {
        let Row { title, question, status, flags: expected, records, edns } = row;
        let dug = dig(&server, question);
        let text = &dug.text;
        assert_eq!(dug.status, *status, "{title}: {text}");
        assert_eq!(flags(&dug), *expected, "{title}: {text}");
        assert_eq!((dug.answer.len(), dug.authority.len()), *records, "{title}: {text}");
        assert_eq!(option(&dug, "EDNS"), *edns, "{title}: {text}");
        assert!(!text.contains("MBZ"), "{title}: {text}");
        assert!(!text.contains("OPT=100"), "{title}: {text}");
    }
}

#[test]
fn options_are_answered_where_they_are_asked_for() {
    let server = Running::usual();
    let without = dig(&server, &["+edns=0", NAME, "A"]);
    for title in ["NSID", "COOKIE", "TCP KEEPALIVE", "PAD", "EDE"] {
        assert_eq!(option(&without, title), None, "{}", without.text);
    }
    let named = dig(&server, &["+nsid", NAME, "A"]);
    assert_eq!(option(&named, "NSID"), Some("6f 73 6c 2d 62 31 (\"osl-b1\")"));
    // An idle connection lives 5 s; over UDP there is none (RFC 7828 section 3.2.1).
    let kept = dig(&server, &["+tcp", "+keepalive", NAME, "A"]);
    assert_eq!(option(&kept, "TCP KEEPALIVE"), Some("5.0 secs"), "{}", kept.text);
    let once = dig(&server, &["+keepalive", NAME, "A"]);
    assert_eq!(option(&once, "TCP KEEPALIVE"), None, "{}", once.text);
    // Padding hides nothing where everybody can read the rest (RFC 7830 section 6).
    let padded = dig(&server, &["+tcp", "+padding=128", NAME, "A"]);
    assert_eq!(option(&padded, "PAD"), None, "{}", padded.text);

    let quiet = Running::with_profile(Profile::default());
    let dug = dig(&quiet, &["+nsid", "+cookie", NAME, "A"]);
    assert_eq!((option(&dug, "NSID"), option(&dug, "COOKIE")), (None, None), "{}", dug.text);
}

#[test]
fn refusals_say_why() {
    let server = Running::usual();
    for (question, status, error) in [
        (["example.org.", "A"].as_slice(), "REFUSED", Some("20 (Not Authoritative)")),
        (&["authors.bind.", "CH", "TXT"], "REFUSED", Some("20 (Not Authoritative)")),
        (&[NAME, "HS", "A"], "REFUSED", Some("20 (Not Authoritative)")),
        (
            &["refuse.prod.shop.steer.example.", "A"],
            "REFUSED",
            Some("0 (Other): (no site is in service)"),
        ),
        (&[NAME, "A"], "NOERROR", None),
        (&["nothing.steer.example.", "A"], "NXDOMAIN", None),
    ] {
        let dug = dig(&server, &[&["+edns=0"], question].concat());
        assert_eq!((dug.status.as_str(), option(&dug, "EDE")), (status, error), "{}", dug.text);
        let plain = dig(&server, &[&["+noedns"], question].concat());
        assert_eq!((plain.status.as_str(), option(&plain, "EDE")), (status, None));
    }
    assert!(!dig(&server, &[NAME, "TXT"]).text.contains("view="));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    server.profile.set_isolated(Some(now - 1000));
    let dug = dig(&server, &["+edns=0", NAME, "A"]);
    // A few seconds may have passed.
    let isolated = |text: &str| {
        let age = text.split("view=isolated age=").nth(1).expect(text);
        let digits = age.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let age: u64 = digits.parse().expect(text);
        assert!((1000..1060).contains(&age), "{text}");
    };
    let error = option(&dug, "EDE").expect("one");
    assert!(error.starts_with("3 (Stale Answer): (view=isolated age="), "{error}");
    isolated(error);
    let text = dig(&server, &["+noedns", NAME, "TXT"]);
    isolated(text.answer.last().expect("a record"));
    assert!(text.answer[0].contains("site=osl"), "{}", text.text);
    let one = dig(&server, &["+noedns", &format!("osl.site.{NAME}"), "TXT"]);
    assert!(!one.text.contains("view="), "what one site would answer is not old: {}", one.text);
    let dug = dig(&server, &["+edns=0", "steer.example.", "NS"]);
    assert_eq!(option(&dug, "EDE"), None, "what the fabric says is not old: {}", dug.text);
}

#[test]
fn the_server_speaks_of_itself_only_when_told_to() {
    let server = Running::usual();
    for (name, text) in [
        ("version.bind.", "Nett in a test"),
        ("VERSION.server.", "Nett in a test"),
        ("hostname.bind.", "osl-b1"),
        ("id.server.", "osl-b1"),
    ] {
        let dug = dig(&server, &[name, "CH", "TXT"]);
        assert_eq!(dug.answer, [format!("{name} 0 CH TXT \"{text}\"")], "{}", dug.text);
        let other = dig(&server, &[name, "CH", "A"]);
        assert_eq!((other.status.as_str(), other.answer.len()), ("REFUSED", 0));
    }
    let quiet = Running::with_profile(Profile { version: None, ..profile() });
    assert_eq!(dig(&quiet, &["version.bind.", "CH", "TXT"]).status, "REFUSED");
    assert_eq!(dig(&quiet, &["hostname.bind.", "CH", "TXT"]).status, "NOERROR");
}

#[test]
fn any_is_answered_with_one_record() {
    let server = Running::usual();
    for name in [NAME, "steer.example.", "reflect.steer.example."] {
        let dug = dig(&server, &["+notcp", name, "ANY"]);
        assert_eq!(dug.answer, [format!("{name} 3600 IN HINFO \"RFC8482\" \"\"")]);
    }
    let none = dig(&server, &["+notcp", "nothing.steer.example.", "ANY"]);
    assert_eq!(none.status, "NXDOMAIN");
}

// === cookies ===

/// The cookie of an answer, and whether `dig` found its own half in it.
fn cookie(dug: &Dug) -> (String, &str) {
    let line = option(dug, "COOKIE").unwrap_or_else(|| panic!("no cookie: {}", dug.text));
    let (cookie, verdict) = line.split_once(' ').expect("a verdict");
    (cookie.to_owned(), verdict)
}

#[test]
fn cookies_are_given_and_known_again() {
    let server = Running::usual();
    let dug = dig(&server, &["+cookie=0123456789abcdef", NAME, "A"]);
    let (given, verdict) = cookie(&dug);
    assert_eq!((verdict, given.len(), dug.answer.len()), ("(good)", 48, 1), "{}", dug.text);
    assert_eq!(given[..24], *"0123456789abcdef01000000");
    // A young one comes back as it is, a wrong one is replaced.
    let again = dig(&server, &[&format!("+cookie={given}"), NAME, "A"]);
    assert_eq!(cookie(&again).0, given);
    let wrong = format!("+cookie={}{}", &given[..40], "00000000");
    let replaced = dig(&server, &[&wrong, NAME, "A"]);
    assert_eq!(replaced.status, "NOERROR");
    assert_ne!(cookie(&replaced).0, wrong["+cookie=".len()..]);
    // Another form of server cookie is no mistake: it may be another server's.
    let other = dig(&server, &["+cookie=0123456789abcdef0123456789abcdef", NAME, "A"]);
    assert_eq!((other.status.as_str(), cookie(&other).1), ("NOERROR", "(good)"));
    // Lengths no cookie has (RFC 7873 section 5.2.2).
    for data in ["", "01", "0123456789abcdef01", &"ab".repeat(41)] {
        let dug = dig(&server, &[&format!("+ednsopt=10:{data}"), NAME, "A"]);
        assert_eq!(dug.status, "FORMERR", "{data}");
    }
}

#[test]
fn a_cookie_alone_may_be_asked_for() {
    let server = Running::usual();
    let dug = dig(&server, &["+header-only", "+cookie=0123456789abcdef"]);
    assert_eq!((dug.status.as_str(), cookie(&dug).1), ("NOERROR", "(good)"), "{}", dug.text);
    assert!(dug.text.contains("QUERY: 0, ANSWER: 0"), "{}", dug.text);
    let without = dig(&server, &["+header-only", "+noedns"]);
    assert_eq!(without.status, "FORMERR");
}

#[test]
fn cookies_can_be_required() {
    let server = Running::with_profile(Profile { cookies_required: true, ..profile() });
    let first = dig(&server, &["+nobadcookie", "+cookie=0123456789abcdef", NAME, "A"]);
    assert_eq!((first.status.as_str(), first.answer.len()), ("BADCOOKIE", 0), "{}", first.text);
    let (given, verdict) = cookie(&first);
    assert_eq!(verdict, "(good)");
    let second = dig(&server, &[&format!("+cookie={given}"), NAME, "A"]);
    assert_eq!((second.status.as_str(), second.answer.len()), ("NOERROR", 1), "{}", second.text);
    // Of its own accord a client does the same.
    let alone = dig(&server, &["+badcookie", "+cookie", NAME, "A"]);
    assert_eq!((alone.status.as_str(), alone.answer.len()), ("NOERROR", 1), "{}", alone.text);
    // A connection proves the address, and who knows no cookies cannot be asked for one.
    let tcp = dig(&server, &["+tcp", "+cookie=0123456789abcdef", NAME, "A"]);
    let plain = dig(&server, &["+nocookie", NAME, "A"]);
    assert_eq!((tcp.status.as_str(), plain.status.as_str()), ("NOERROR", "NOERROR"));
    let badcookie = server.stats.queries().find(|q| (q.0, q.1) == ("badcookie", "udp"));
    assert_eq!(badcookie.map(|q| q.2), Some(2));
}
