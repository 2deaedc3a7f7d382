//! Answers from the signed side of a snapshot: pure, and without a signature being made.
//!
//! Choices where the RFCs leave one:
//! - Names that do not exist are NXDOMAIN, denied by classic NSEC records (RFC 4035 section 3.1.3).
//! - ANY, and questions for RRSIG, get one set of the name with its signature (RFC 8482 section
//!   4.1); a made-up HINFO record could not be signed beforehand.
//! - AD is never set: this server validates nothing. CD is returned as it came.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::chain::{Link, Spot};
use super::service::SignedService;
use super::set::SignedSet;
use super::view::{REFLECT, Signed};
use crate::answer::{Steered, Told};
use crate::client::Client;
use crate::edns::ExtendedError;
use crate::name::Relative;
use crate::steer::Target;
use crate::write::{Owner, Section, Writer};
use crate::zone::{MINIMUM, NEGATIVE_TTL, SOA_TTL, Zone};

/// What is asked of a name below the apex.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: Relative<'a>,
    pub(crate) kind: RecordType,
    /// The DO bit: whether signatures and proofs are sent.
    pub(crate) signatures: bool,
    pub(crate) client: &'a Client,
}

/// One answer under way.
struct Teller<'a, 'b> {
    zone: &'a Zone,
    signed: &'a Signed,
    wanted: Wanted<'a>,
    writer: &'a mut Writer<'b>,
}

/// Answers, or says `None` for `reflect`, which is not signed and is answered as ever.
pub(crate) fn tell(
    zone: &Zone,
    signed: &Signed,
    wanted: Wanted<'_>,
    writer: &mut Writer<'_>,
) -> Option<Told> {
    let is_cut = wanted.name.key() == REFLECT && wanted.kind == RecordType::DS;
    if is_in_child(wanted.name) && !is_cut {
        return None;
    }
    Some(Teller { zone, signed, wanted, writer }.tell())
}

/// The addresses of a service for this client, where it has some and they are signed: what nearly
/// all questions with the DO bit are for. Everything else is [`tell`]'s.
pub(crate) fn signed_addresses<'z>(
    zone: &'z Zone,
    signed: &'z Signed,
    (name, kind): (Relative<'_>, RecordType),
    client: &Client,
) -> Option<(&'z SignedSet, Told)> {
    if name.count() != 3 || signed.fixed(name.key()).is_some() {
        return None;
    }
    let service = signed.service(name.key())?;
    let (target, told) = choose(zone, service, client);
    if told.is_refused() {
        return None;
    }
    Some((service.addresses(target, kind.into())?, told))
}

/// Who this client is sent to, and what is said beside the records.
fn choose(zone: &Zone, service: &SignedService, client: &Client) -> (Target, Told) {
    if zone.is_over(service.entry().fixed()) {
        return (Target::Refused, Told::code(ResponseCode::NoError));
    }
    let topology = zone.topology();
    let located = topology.locate(client);
    let choice = service.entry().plan().choose(topology, client, &located);
    let site = match choice.target {
        Target::Site(at) => service.entry().fixed().sites.get(at),
        Target::Address(_) | Target::Refused => None,
    };
    let steered = Some(Steered {
        client: located.found.map(|(site, _)| site),
        target: site.and_then(|s| topology.index(&s.site)),
    });
    let (rcode, error) = match choice.target {
        Target::Refused => (ResponseCode::Refused, Some(ExtendedError::ALL_DOWN)),
        Target::Site(_) | Target::Address(_) => (ResponseCode::NoError, None),
    };
    (choice.target, Told { rcode, scope: choice.scope, steered, error })
}

/// Bytes of the question's name between the zone and the zone that `reflect` is in a signed one.
pub(crate) const CHILD_LEN: u16 = 8;
const _: () = assert!(REFLECT.len() == CHILD_LEN as usize);

/// Whether the name is `reflect` or below it, and not one that only ends in the same bytes.
pub(crate) fn is_in_child(mut name: Relative<'_>) -> bool {
    if !name.key().ends_with(REFLECT) {
        return false;
    }
    while name.key() != REFLECT {
        match name.parent() {
            Some(parent) => name = parent,
            None => return false,
        }
    }
    true
}

/// Whether a type tells of ports: its answers carry addresses.
fn is_about_ports(kind: u16) -> bool {
    matches!(RecordType::from(kind), RecordType::SRV | RecordType::SVCB | RecordType::HTTPS)
}

fn has_port(sets: &[SignedSet]) -> bool {
    sets.iter().any(|s| is_about_ports(s.kind()))
}

impl Teller<'_, '_> {
    fn tell(&mut self) -> Told {
        let (name, count) = (self.wanted.name, self.wanted.name.count());
        if let Some(sets) = self.signed.fixed(name.key()) {
            return self.fixed(sets);
        }
        if count == 3
            && let Some(service) = self.signed.service(name.key())
        {
            return self.service(service);
        }
        // Sites and ports lie below a service.
        let mut above = name;
        while above.count() > 3 {
            above = above.parent().expect("it has labels");
        }
        let service = self.signed.service(above.key()).filter(|_| count > 3);
        match service.and_then(|service| Some((service, service.told(name.key())?))) {
            Some((service, sets)) if has_port(sets) => self.port(service, above.key(), sets),
            Some((_, sets)) => self.found(sets, None),
            None => self.nothing(),
        }
    }

    fn code(rcode: ResponseCode) -> Told {
        Told::code(rcode)
    }

    /// The apex, or a name server.
    fn fixed(&mut self, sets: &[SignedSet]) -> Told {
        let at_apex = self.wanted.name.count() == 0;
        if at_apex && matches!(self.wanted.kind, RecordType::SOA | RecordType::ANY) {
            self.writer.authoritative();
            let soa = self.signed.soa();
            let signatures = self.wanted.signatures;
            self.writer.set(Section::Answer, Owner::Question, (soa, SOA_TTL), signatures);
            return Self::code(ResponseCode::NoError);
        }
        self.found(sets, None)
    }

    /// The set that is asked for, if it is among these, else a proof that it is not.
    fn found(&mut self, sets: &[SignedSet], types: Option<&[u16]>) -> Told {
        let kind = u16::from(self.wanted.kind);
        let any = matches!(self.wanted.kind, RecordType::ANY | RecordType::RRSIG);
        let set = match any {
            true => sets.first(),
            false => sets.iter().find(|s| s.kind() == kind),
        };
        self.writer.authoritative();
        match set {
            Some(set) => self.answer(set),
            None => return self.no_data(types, Self::code(ResponseCode::NoError)),
        }
        Self::code(ResponseCode::NoError)
    }

    fn answer(&mut self, set: &SignedSet) {
        let signatures = self.wanted.signatures || self.wanted.kind == RecordType::RRSIG;
        self.writer.set(Section::Answer, Owner::Question, (set, u32::MAX), signatures);
    }

    fn service(&mut self, service: &SignedService) -> Told {
        let key = self.wanted.name.key();
        let (target, told) = choose(self.zone, service, self.wanted.client);
        if !matches!(self.wanted.kind, RecordType::A | RecordType::AAAA) {
            let sets = service.told(key).unwrap_or_default();
            if self.wanted.kind == RecordType::HTTPS && has_port(sets) {
                return self.port(service, key, sets);
            }
            return self.found(sets, Some(&service.types_at(key, target)));
        }
        if told.rcode == ResponseCode::Refused {
            return told;
        }
        self.writer.authoritative();
        match service.addresses(target, self.wanted.kind.into()) {
            Some(set) => self.answer(set),
            None => return self.no_data(Some(&service.types_at(key, target)), told),
        }
        told
    }

    /// A record about a port, and the addresses of the service for this client beside it.
    fn port(&mut self, service: &SignedService, key: &[u8], sets: &[SignedSet]) -> Told {
        let kind = u16::from(self.wanted.kind);
        if !is_about_ports(kind) || !sets.iter().any(|s| s.kind() == kind) {
            return self.found(sets, None);
        }
        let (target, told) = choose(self.zone, service, self.wanted.client);
        if told.rcode == ResponseCode::Refused {
            return told;
        }
        let found = self.found(sets, None);
        if found.rcode != ResponseCode::NoError {
            return found;
        }
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(set) = service.addresses(target, kind.into()) {
                let signatures = self.wanted.signatures;
                let set = (set, u32::MAX);
                self.writer.set(Section::Additional, Owner::Below(key), set, signatures);
            }
        }
        told
    }

    /// A name with records, none of which is of this type.
    fn no_data(&mut self, types: Option<&[u16]>, told: Told) -> Told {
        if !self.signed.was_complete() {
            return self.not_ready();
        }
        let link = self.signed.chain().find(self.wanted.name.key());
        if self.wanted.kind == RecordType::NSEC
            && let Some(link) = link
        {
            self.answer(link.set(types));
            return told;
        }
        self.soa();
        if let (true, Some(link)) = (self.wanted.signatures, link) {
            let owner = Owner::Question;
            self.writer.set(Section::Authority, owner, (link.set(types), MINIMUM), true);
        }
        told
    }

    /// At the start the chain leaps over names that are not signed yet, and resolvers would
    /// remember that they do not exist.
    fn not_ready(&mut self) -> Told {
        self.writer.not_authoritative();
        Told::not_ready()
    }

    /// A name without records.
    fn nothing(&mut self) -> Told {
        if !self.signed.was_complete() {
            return self.not_ready();
        }
        self.writer.authoritative();
        match self.signed.chain().spot(self.wanted.name.key()) {
            Spot::Here => self.no_data(None, Self::code(ResponseCode::NoError)),
            Spot::Between(link) => {
                self.soa();
                self.proof(link);
                Self::code(ResponseCode::NoError)
            }
            Spot::Nowhere(link) => {
                self.soa();
                self.proof(link);
                self.no_wildcard(link);
                Self::code(ResponseCode::NXDomain)
            }
        }
    }

    /// That no wildcard stands in for the name, directly below the closest name that exists.
    fn no_wildcard(&mut self, over: &Link) {
        let mut closest = self.wanted.name;
        while let Some(parent) = closest.parent() {
            closest = parent;
            if !matches!(self.signed.chain().spot(closest.key()), Spot::Nowhere(_)) {
                break;
            }
        }
        let wildcard = [b"\x01*", closest.key()].concat();
        if let Spot::Nowhere(link) | Spot::Between(link) = self.signed.chain().spot(&wildcard)
            && link.owner() != over.owner()
        {
            self.proof(link);
        }
    }

    fn soa(&mut self) {
        let (soa, signatures) = (self.signed.soa(), self.wanted.signatures);
        self.writer.set(Section::Authority, Owner::Apex, (soa, NEGATIVE_TTL), signatures);
    }

    fn proof(&mut self, link: &Link) {
        if self.wanted.signatures {
            let owner = Owner::Below(link.owner());
            self.writer.set(Section::Authority, owner, (link.set(None), MINIMUM), true);
        }
    }
}
