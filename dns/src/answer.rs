//! One question in, one answer out: bytes to bytes, pure given the snapshot and the client.
//!
//! Every transport comes through [`answer`]. Most questions are answered by copying what
//! `dns/src/fast.rs` has ready; [`answer_in_full`] answers every question, and where both do, they
//! give the same bytes. Nothing here waits, locks or logs, and no input panics.
//!
//! The choices where the RFCs leave one:
//! - `all_down = "refuse"` with no site in service is REFUSED, not "no data": resolvers do not
//!   cache it, so the service is back with them as soon as it is back.
//! - A client subnet that lies in no known prefix is an unknown client; the resolver's own address
//!   is no substitute for it.
//! - A malformed client subnet option, a second OPT or bytes behind the message are FORMERR.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use nett_policy::fabric::Family;
use nett_policy::lower::answers::{SiteAnswers, SiteState};
use nett_policy::service::AllDown;

use crate::client::Client;
use crate::cookie::{Judged, Sender};
use crate::dnssec::{self, Wanted};
use crate::edns::{Edns, ExtendedError, OptAnswer, UDP_PAYLOAD};
use crate::entry::Entry;
use crate::fast::answer_from_prepared;
use crate::message::{Query, Unreadable};
use crate::ports;
use crate::profile::Profile;
use crate::records::mark;
use crate::steer::Target;
use crate::topology::SiteIndex;
use crate::write::{Finish, NetworkText, Section, Writer, refusal};
use crate::zone::{Found, NS_TTL, Zone};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    /// RFC 7858.
    Tls,
    /// RFC 8484.
    Https,
}

/// One message as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Without the length prefix of TCP.
    pub packet: &'a [u8],
    pub source: IpAddr,
    pub transport: Transport,
    /// Seconds since 1970, modulo 2^32: the clock of cookies (RFC 9018 section 4.3).
    pub now: u32,
    pub profile: &'a Profile,
}

/// Why a message gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Shorter than a header.
    Short,
    /// It is a response itself.
    Response,
    /// It came from port 0, where no answer can go.
    PortZero,
    /// The kernel did not take the answer.
    Send,
    /// Answering it panicked: a bug.
    Panic,
    /// A TCP connection above one of the limits.
    Connection,
    /// An idle connection that made room for another.
    Evicted,
    /// A TLS handshake that failed or took too long.
    Handshake,
    /// Too many equal answers to one network.
    Rate,
    /// More questions came than can be answered, and this was none of a known network's share.
    Rush,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is in the buffer.
    Reply {
        rcode: ResponseCode,
        truncated: bool,
        /// Set when a service's addresses were steered.
        steered: Option<Steered>,
        sender: Sender,
    },
    Dropped(DropReason),
}

/// Which client was sent where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steered {
    pub client: Option<SiteIndex>,
    /// `None` for a fallback address or a refusal.
    pub target: Option<SiteIndex>,
}

/// What the records of an answer depend on.
pub(crate) struct Told {
    pub(crate) rcode: ResponseCode,
    pub(crate) scope: u8,
    pub(crate) steered: Option<Steered>,
    pub(crate) error: Option<ExtendedError>,
}

/// The choice for one client.
pub(crate) struct Chosen<'z> {
    /// Of both families.
    pub(crate) addresses: &'z [IpAddr],
    pub(crate) told: Told,
}

/// Answers one message into `out`, which is cleared first and keeps its capacity.
pub fn answer(zone: &Zone, ask: &Ask<'_>, out: &mut Vec<u8>) -> Outcome {
    match answer_from_prepared(zone, ask, out) {
        Some(outcome) => outcome,
        None => answer_in_full(zone, ask, out),
    }
}

/// As [`answer`], but never from prepared bytes: the reference for those.
pub fn answer_in_full(zone: &Zone, ask: &Ask<'_>, out: &mut Vec<u8>) -> Outcome {
    let query = match Query::read(ask.packet) {
        Ok(query) => query,
        Err(Unreadable::Short) => return Outcome::Dropped(DropReason::Short),
        Err(Unreadable::Response) => return Outcome::Dropped(DropReason::Response),
        Err(Unreadable::Rejected { head, rcode }) => {
            refusal(out, head, rcode);
            let sender = Sender::Unproven;
            return Outcome::Reply { rcode, truncated: false, steered: None, sender };
        }
    };
    let judged = judge_cookie(query.edns.as_ref(), ask);
    let sender = judged.map(|j| j.sender).unwrap_or_default();
    let mut writer = Writer::new(out, &query, &zone.apex().name);
    let told = match is_cookie_due(sender, ask) {
        true => Told::code(ResponseCode::BADCOOKIE),
        false => tell(zone, &query, ask, &mut writer),
    };
    let truncated = finish(writer, &query, ask, &told, judged);
    Outcome::Reply { rcode: told.rcode, truncated, steered: told.steered, sender }
}

/// Answers a question that has a client cookie with BADCOOKIE and a good server cookie, instead of
/// what it asks for (RFC 7873 section 5.2.3).
pub(crate) fn demand_cookie(zone: &Zone, ask: &Ask<'_>, out: &mut Vec<u8>) {
    if let Ok(query) = Query::read(ask.packet) {
        let judged = judge_cookie(query.edns.as_ref(), ask);
        let writer = Writer::new(out, &query, &zone.apex().name);
        finish(writer, &query, ask, &Told::code(ResponseCode::BADCOOKIE), judged);
    }
}

pub(crate) fn judge_cookie(edns: Option<&Edns<'_>>, ask: &Ask<'_>) -> Option<Judged> {
    let cookie = edns?.cookie?;
    Some(ask.profile.cookies.as_ref()?.judge(cookie, ask.source, ask.now))
}

/// Whether a cookie must come before an answer.
pub(crate) fn is_cookie_due(sender: Sender, ask: &Ask<'_>) -> bool {
    let required = ask.profile.cookies_required && ask.transport == Transport::Udp;
    required && sender == Sender::Asking
}

/// Puts OPT and header in place. True when the records had to go.
fn finish(
    writer: Writer<'_>,
    query: &Query<'_>,
    ask: &Ask<'_>,
    told: &Told,
    judged: Option<Judged>,
) -> bool {
    let Told { rcode, scope, steered, error } = *told;
    let body = OptBody { rcode, scope, is_steered: steered.is_some(), error };
    let opt = opt_answer(ask, &body, judged.as_ref());
    let limit = limit(ask.transport, query.edns.map(|e| e.payload));
    writer.finish(query, &Finish { opt, limit })
}

/// What the OPT record of an answer depends on, besides who asks.
pub(crate) struct OptBody {
    pub(crate) rcode: ResponseCode,
    pub(crate) scope: u8,
    pub(crate) is_steered: bool,
    pub(crate) error: Option<ExtendedError>,
}

pub(crate) fn opt_answer<'a>(
    ask: &Ask<'a>,
    body: &OptBody,
    judged: Option<&'a Judged>,
) -> OptAnswer<'a> {
    let OptBody { rcode, scope, is_steered, error } = *body;
    let profile = ask.profile;
    let lasting = matches!(ask.transport, Transport::Tcp | Transport::Tls);
    let isolated = profile.isolated_for(ask.now).filter(|_| is_steered);
    OptAnswer {
        rcode,
        scope,
        cookie: judged.map(|j| &j.answer[..]),
        nsid: profile.nsid.as_deref(),
        keepalive: lasting.then(|| profile.keepalive()),
        error: error.or(isolated.map(ExtendedError::isolated)),
        encrypted: matches!(ask.transport, Transport::Tls | Transport::Https),
    }
}

/// The most bytes an answer may have, given what the question says it can take.
pub(crate) fn limit(transport: Transport, payload: Option<u16>) -> usize {
    usize::from(match (transport, payload) {
        (Transport::Tcp | Transport::Tls | Transport::Https, _) => u16::MAX,
        (Transport::Udp, None) => 512,
        // RFC 6891 section 6.2.3: less than 512 means 512.
        (Transport::Udp, Some(payload)) => payload.clamp(512, UDP_PAYLOAD),
    })
}

/// The checks before the zone is asked.
fn tell(zone: &Zone, query: &Query<'_>, ask: &Ask<'_>, writer: &mut Writer<'_>) -> Told {
    if query.edns.is_some_and(|e| e.version > 0) {
        return Told::code(ResponseCode::BADVERS);
    }
    // Only a cookie was asked for.
    if query.question.is_empty() {
        return Told::code(ResponseCode::NoError);
    }
    match query.class {
        DNSClass::IN => {}
        DNSClass::CH => return tell_chaos(query, ask.profile, writer),
        _ => return Told::refused(ExtendedError::NOT_AUTHORITATIVE),
    }
    match query.kind {
        RecordType::OPT => return Told::code(ResponseCode::FormErr),
        RecordType::AXFR | RecordType::IXFR => return Told::refused(ExtendedError::PROHIBITED),
        _ => {}
    }
    let client = Client::new(ask.source, query.edns.and_then(|e| e.network));
    match tell_signed(zone, query, &client, writer) {
        Some(told) => told,
        None => tell_name(zone, query, (&client, ask.profile.isolated_for(ask.now)), writer),
    }
}

/// What the signed side of the zone says, where there is one and the question is for it.
fn tell_signed(
    zone: &Zone,
    query: &Query<'_>,
    client: &Client,
    writer: &mut Writer<'_>,
) -> Option<Told> {
    use RecordType::{CDNSKEY, CDS, DNSKEY, DS, NSEC, RRSIG};
    let signed = zone.signed()?;
    let (kind, signatures) = (query.kind, query.edns.is_some_and(|e| e.dnssec_ok));
    if !signatures && !matches!(kind, CDNSKEY | CDS | DNSKEY | DS | NSEC | RRSIG) {
        return None;
    }
    let name = query.name.below(&zone.apex().name)?;
    dnssec::tell(zone, signed, Wanted { name, kind, signatures, client }, writer)
}

/// Class CH: the server about itself, if it was told to.
fn tell_chaos(query: &Query<'_>, profile: &Profile, writer: &mut Writer<'_>) -> Told {
    let text = match query.name.wire() {
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" => &profile.version,
        b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => &profile.hostname,
        _ => &None,
    };
    match text {
        Some(text) if matches!(query.kind, RecordType::TXT | RecordType::ANY) => {
            writer.authoritative();
            writer.chaos(text);
            Told::code(ResponseCode::NoError)
        }
        _ => Told::refused(ExtendedError::NOT_AUTHORITATIVE),
    }
}

/// `isolated` is for how many seconds the site has been cut off, if it is.
fn tell_name(
    zone: &Zone,
    query: &Query<'_>,
    (client, isolated): (&Client, Option<u32>),
    writer: &mut Writer<'_>,
) -> Told {
    let kind = query.kind;
    let found = zone.find(&query.name);
    let has_records = !matches!(found, Found::Empty | Found::Missing | Found::Outside);
    let in_child = zone.signed().is_some()
        && matches!(found, Found::Reflect | Found::Missing)
        && query.name.below(&zone.apex().name).is_some_and(dnssec::is_in_child);
    if in_child {
        writer.in_child(dnssec::CHILD_LEN);
    }
    let is_apex = in_child || matches!(found, Found::Apex(_));
    if kind == RecordType::ANY && has_records {
        writer.authoritative();
        writer.hinfo();
        return Told::code(ResponseCode::NoError);
    }
    let (told, written) = match found {
        Found::Apex(_) | Found::Reflect if kind == RecordType::SOA && is_apex => {
            writer.soa(Section::Answer, zone.soa());
            (Told::code(ResponseCode::NoError), true)
        }
        Found::Apex(_) | Found::Reflect if kind == RecordType::NS && is_apex => {
            writer.name_servers(zone.apex());
            let any = !zone.apex().ns.is_empty();
            (Told::code(ResponseCode::NoError), any)
        }
        Found::Apex(hosts) | Found::Host(hosts) => {
            let any = write_addresses(writer, kind, NS_TTL, hosts.iter().copied());
            (Told::code(ResponseCode::NoError), any)
        }
        Found::Reflect if kind == RecordType::TXT => (reflect(zone, client, writer), true),
        Found::Reflect | Found::Empty => (Told::code(ResponseCode::NoError), false),
        Found::Service(entry) if kind == RecordType::HTTPS => {
            ports::tell_https(zone, client, entry, writer)
        }
        Found::Service(entry) => tell_service(zone, entry, kind, (client, isolated), writer),
        Found::Site(entry, at) => {
            let ttl = entry.ttls().lasting;
            let site = entry.site(at).into_iter();
            let any = tell_sites(entry, ttl, site, kind, writer);
            (Told::code(ResponseCode::NoError), any)
        }
        Found::AllSites(entry) => {
            let eligible = |s: &SiteAnswers<'_>| s.state != SiteState::Drained;
            let sites = entry.sites().filter(eligible);
            let any = tell_sites(entry, entry.ttls().told, sites, kind, writer);
            (Told::code(ResponseCode::NoError), any)
        }
        Found::Port(entry, at, form) => ports::tell(zone, query, client, (entry, at, form), writer),
        Found::Missing => (Told::code(ResponseCode::NXDomain), false),
        Found::Outside => (Told::refused(ExtendedError::NOT_AUTHORITATIVE), false),
    };
    // A refusal says nothing about the name, so it is no authoritative answer.
    if told.rcode == ResponseCode::Refused {
        return told;
    }
    writer.authoritative();
    if !written {
        writer.soa(Section::Authority, zone.soa());
    }
    told
}

/// A service's own name: the client's site for addresses, all sites for TXT.
fn tell_service(
    zone: &Zone,
    entry: Entry<'_>,
    kind: RecordType,
    (client, isolated): (&Client, Option<u32>),
    writer: &mut Writer<'_>,
) -> (Told, bool) {
    match kind {
        RecordType::A | RecordType::AAAA => {}
        RecordType::TXT => {
            let any = tell_lines(entry, entry.sites(), isolated, writer);
            return (Told::code(ResponseCode::NoError), any);
        }
        _ => return (Told::code(ResponseCode::NoError), false),
    }
    let Chosen { addresses, told } = choose(zone, entry, client);
    let written = write_addresses(writer, kind, entry.ttls().steered, addresses.iter().copied());
    (told, written)
}

/// Where the service sends this client.
pub(crate) fn choose<'z>(zone: &'z Zone, entry: Entry<'z>, client: &Client) -> Chosen<'z> {
    if zone.is_over(entry.fixed()) {
        return Chosen { addresses: &[], told: Told::code(ResponseCode::NoError) };
    }
    let topology = zone.topology();
    let located = topology.locate(client);
    let choice = entry.plan().choose(topology, client, &located);
    let fixed = entry.fixed();
    let mut rcode = ResponseCode::NoError;
    let mut site = None;
    let addresses: &[IpAddr] = match (choice.target, &fixed.all_down) {
        (Target::Site(position), _) => match fixed.sites.get(position) {
            Some(chosen) => {
                site = topology.index(&chosen.site);
                &chosen.addresses
            }
            None => &[],
        },
        (Target::Address(_), AllDown::Fallback(address)) => std::slice::from_ref(address),
        (Target::Address(_), AllDown::LastOrder | AllDown::Refuse) => &[],
        (Target::Refused, _) => {
            rcode = ResponseCode::Refused;
            &[]
        }
    };
    let client = located.found.map(|(site, _)| site);
    let steered = Some(Steered { client, target: site });
    let error = (rcode == ResponseCode::Refused).then_some(ExtendedError::ALL_DOWN);
    Chosen { addresses, told: Told { rcode, scope: choice.scope, steered, error } }
}

/// The addresses of `sites` with this TTL, or a line of text for each.
fn tell_sites<'a>(
    entry: Entry<'_>,
    ttl: u32,
    sites: impl Iterator<Item = SiteAnswers<'a>> + Clone,
    kind: RecordType,
    writer: &mut Writer<'_>,
) -> bool {
    if kind == RecordType::TXT {
        return tell_lines(entry, sites, None, writer);
    }
    write_addresses(writer, kind, ttl, sites.flat_map(|s| s.addresses.iter().copied()))
}

/// A line of text for each site, and one more where this one is cut off.
fn tell_lines<'a>(
    entry: Entry<'_>,
    mut sites: impl Iterator<Item = SiteAnswers<'a>>,
    isolated: Option<u32>,
    writer: &mut Writer<'_>,
) -> bool {
    let Some(first) = sites.next() else {
        return false;
    };
    writer.text(entry.ttls().told, |text| {
        for answered in std::iter::once(first).chain(sites) {
            let SiteAnswers { site, addresses: _, state, weight, health } = answered;
            let (state, health, epoch) = (state.as_str(), health.as_str(), entry.epoch());
            let mark = mark(entry.standing());
            text.string(format_args!(
                "site={site} state={state} weight={weight} health={health} epoch={epoch}{mark}"
            ));
        }
        if let Some(age) = isolated {
            text.string(format_args!("view=isolated age={age}"));
        }
    });
    true
}

/// Writes the addresses of the asked family, each once; a set has no repeats (RFC 2181 section 5).
pub(crate) fn write_addresses(
    writer: &mut Writer<'_>,
    kind: RecordType,
    ttl: u32,
    addresses: impl Iterator<Item = IpAddr> + Clone,
) -> bool {
    let family = match kind {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => return false,
    };
    let of_family = addresses.filter(|a| Family::of(*a) == family);
    let mut any = false;
    for (at, address) in of_family.clone().enumerate() {
        if !of_family.clone().take(at).any(|a| a == address) {
            writer.address(ttl, address);
            any = true;
        }
    }
    any
}

/// The client as the server sees it; never cached.
fn reflect(zone: &Zone, client: &Client, writer: &mut Writer<'_>) -> Told {
    let located = zone.topology().locate(client);
    let (site, prefix) = match located.found {
        Some((site, prefix)) => (zone.topology().site(site).as_str(), Some(prefix)),
        None => ("unknown", None),
    };
    writer.text(0, |text| {
        text.string(format_args!("client={}", client.source));
        text.string(format_args!("subnet={}", NetworkText(client.subnet)));
        text.string(format_args!("site={site}"));
        text.string(format_args!("prefix={}", NetworkText(prefix)));
    });
    Told {
        // The answer names the very subnet, so no other may share it.
        scope: client.subnet.map_or(0, |n| n.prefix_len()),
        ..Told::code(ResponseCode::NoError)
    }
}

impl Told {
    pub(crate) fn code(rcode: ResponseCode) -> Self {
        Self { rcode, scope: 0, steered: None, error: None }
    }

    fn refused(error: ExtendedError) -> Self {
        Self { error: Some(error), ..Self::code(ResponseCode::Refused) }
    }

    /// The answer would need what is not signed yet; another name server may have it.
    pub(crate) fn not_ready() -> Self {
        Self { error: Some(ExtendedError::NOT_READY), ..Self::code(ResponseCode::ServFail) }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.rcode == ResponseCode::Refused
    }
}
