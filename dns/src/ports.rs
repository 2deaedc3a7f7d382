//! Records that name a service's ports: SRV (RFC 2782), SVCB and HTTPS (RFC 9460).
//!
//! They point to the service's own name, and the addresses this client would get there come along
//! in the additional section: a client that understands both needs one question. The records
//! themselves are the same for everybody; the addresses, and so the scope, are not.
//!
//! Names in the data of these records are never compressed (RFC 2782, RFC 9460 section 2.2).

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::answer::{Chosen, Told, choose};
use crate::client::Client;
use crate::entry::Entry;
use crate::message::{HEADER_LEN, Query};
use crate::write::Writer;
use crate::zone::{PortName, Zone};

/// The port of the scheme of an HTTPS record's question (RFC 9460 section 9).
pub(crate) const HTTPS_PORT: u16 = 443;
/// The root as target: the owner itself (RFC 9460 section 2.5.2).
pub(crate) const OWNER: &[u8] = &[0];

/// A question for `_NAME._tcp` or `_NAME` of a service.
pub(crate) fn tell(
    zone: &Zone,
    query: &Query<'_>,
    client: &Client,
    (entry, at, form): (Entry<'_>, usize, PortName),
    writer: &mut Writer<'_>,
) -> (Told, bool) {
    let fits = match form {
        PortName::Srv => query.kind == RecordType::SRV,
        PortName::Svcb => query.kind == RecordType::SVCB,
    };
    if !fits {
        return (Told::code(ResponseCode::NoError), false);
    }
    let labels = match form {
        PortName::Srv => 2,
        PortName::Svcb => 1,
    };
    let service = skip_labels(query.name.wire(), labels);
    let target = &query.name.wire()[service..];
    let (port, ttl) = (entry.fixed().ports[at].port, entry.ttls().lasting);
    with_addresses(zone, client, (entry, service), writer, |writer| match form {
        PortName::Srv => writer.srv(ttl, port, target),
        PortName::Svcb => writer.svcb(RecordType::SVCB, ttl, target, Some(port)),
    })
}

/// An HTTPS question for the service's own name: there is an answer when a port is called `https`.
pub(crate) fn tell_https(
    zone: &Zone,
    client: &Client,
    entry: Entry<'_>,
    writer: &mut Writer<'_>,
) -> (Told, bool) {
    let Some(port) = entry.fixed().ports.iter().find(|p| p.name == "https") else {
        return (Told::code(ResponseCode::NoError), false);
    };
    let port = (port.port != HTTPS_PORT).then_some(port.port);
    with_addresses(zone, client, (entry, 0), writer, |writer| {
        writer.svcb(RecordType::HTTPS, entry.ttls().lasting, OWNER, port);
    })
}

/// The record, and behind it the addresses of the service, whose name begins at `service` in the
/// name that was asked for. Refused where the service's own name is: nobody is to keep a record of
/// a service that nobody may reach.
fn with_addresses(
    zone: &Zone,
    client: &Client,
    (entry, service): (Entry<'_>, usize),
    writer: &mut Writer<'_>,
    record: impl FnOnce(&mut Writer<'_>),
) -> (Told, bool) {
    let Chosen { addresses, told } = choose(zone, entry, client);
    if told.is_refused() {
        return (told, false);
    }
    record(writer);
    let owner = u16::try_from(HEADER_LEN + service).expect("a name has at most 255 bytes");
    for (at, address) in addresses.iter().enumerate() {
        if !addresses[..at].contains(address) {
            writer.additional_address(owner, entry.ttls().steered, *address);
        }
    }
    (told, true)
}

/// Where the name begins without its first labels.
fn skip_labels(name: &[u8], labels: usize) -> usize {
    (0..labels).fold(0, |at, _| at + 1 + usize::from(name[at]))
}
