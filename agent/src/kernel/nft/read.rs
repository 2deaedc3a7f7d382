//! The guard, recovered from the table in the kernel, and whether the table is what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nett_policy::failover::WayOut;
use nett_policy::lower::object::{
    ClassNumber, Guard, GuardElement, GuardKind, GuardMark, GuardSet, Subject,
};
use nett_policy::plan::Classes;

use super::super::error::KernelError;
use super::super::netlink::attr::{
    Attributes, Malformed, Message, read_address, read_be64, read_text, read_u32,
};
use super::classes::ClassMaps;
use super::comment::{parse_failover_comment, parse_mark_comment, parse_table_comment};
use super::expr::{IFNAME, same_expressions};
use super::message::{self, ELEMENT_END, Fields, TABLE_OWNER, read_comment};
use super::program::{Element, Form, Key, SETS, counters, guard_set, program};
use super::{Header, Nft, OBJECT, classes, failover, interval, transit};

/// The table as a readback found it.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct GuardRead {
    pub(in super::super) guard: Option<Guard>,
    pub(in super::super) damage: Option<String>,
    pub(in super::super) complete: bool,
    /// A table of our name that is not ours.
    pub(in super::super) foreign: bool,
    /// Ours, but no living socket owns it.
    pub(super) adopt: bool,
    pub(super) comment: Option<String>,
}

#[derive(Debug)]
struct ChainRow {
    name: String,
    base: Option<(u32, i32)>,
}

#[derive(Debug)]
struct RuleRow {
    chain: String,
    comment: Option<String>,
    expressions: Vec<u8>,
}

#[derive(Debug)]
struct SetRow {
    name: String,
    flags: u32,
    key_type: u32,
}

/// Everything that was listed about the table.
#[derive(Debug, Default)]
struct Listing {
    chains: Vec<ChainRow>,
    rules: Vec<RuleRow>,
    sets: Vec<SetRow>,
    counters: BTreeSet<String>,
    elements: BTreeMap<&'static str, Vec<Element>>,
    /// `None` when the maps hold something that Nett does not write.
    classes: Option<Classes>,
    complete: bool,
}

pub(super) async fn read(nft: &mut Nft) -> Result<GuardRead, KernelError> {
    let whole = GuardRead { complete: true, ..GuardRead::default() };
    let Some(header) = nft.header().await? else {
        return Ok(whole);
    };
    if !header.is_ours() {
        return Ok(GuardRead { foreign: true, ..whole });
    }
    let Header { comment, flags } = header;
    // Nobody else can change a table that we own: what was read of its longest maps still holds.
    let owned = nft.flags & TABLE_OWNER != 0 && flags & TABLE_OWNER != 0;
    let known = nft.classes.take().filter(|(port, _)| owned && *port == nft.connection.port());
    let listing = list(nft, known.map(|(_, classes)| classes)).await?;
    if let (Some(classes), true, true) = (&listing.classes, owned, listing.complete) {
        nft.classes = Some((nft.connection.port(), classes.clone()));
    }
    let text = comment.clone().unwrap_or_default();
    let (guard, damage) = judge(&text, &listing);
    Ok(GuardRead {
        guard: Some(guard),
        damage,
        complete: listing.complete,
        foreign: false,
        adopt: nft.flags & TABLE_OWNER != 0 && !owned,
        comment,
    })
}

/// Every set that a table of ours may have.
fn known_sets() -> impl Iterator<Item = (&'static str, Key, Form)> {
    SETS.into_iter().chain(failover::SETS).chain(transit::SETS)
}

async fn list(nft: &mut Nft, known: Option<Classes>) -> Result<Listing, KernelError> {
    let mut listing = Listing { complete: true, ..Listing::default() };
    let chains = message::message(message::GETCHAIN, 0);
    listing.chains = dump(nft, chains, &mut listing.complete, chain).await?;
    let rules = message::about_table(message::GETRULE, 0);
    listing.rules = dump(nft, rules, &mut listing.complete, rule).await?;
    let sets = message::about_table(message::GETSET, 0);
    listing.sets = dump(nft, sets, &mut listing.complete, set).await?;
    listing.counters = nft.counters().await?.into_keys().collect();
    for (name, _, form) in known_sets() {
        if form == Form::Chains {
            continue;
        }
        if listing.sets.iter().all(|set| set.name != name) {
            continue;
        }
        let get = message::get_elements(name);
        let lists = dump(nft, get, &mut listing.complete, |_, payload| elements(payload));
        let all = lists.await?.into_iter().flatten().collect();
        listing.elements.insert(name, all);
    }
    listing.classes = match known {
        Some(known) => Some(known),
        None => list_classes(nft, &mut listing).await?.map(Arc::new),
    };
    Ok(listing)
}

async fn list_classes(
    nft: &mut Nft,
    listing: &mut Listing,
) -> Result<Option<BTreeMap<std::net::IpAddr, ClassNumber>>, KernelError> {
    let classes = list_maps(nft, listing, classes::STEERING).await?;
    if listing.sets.iter().all(|set| set.name != failover::COUNTERS) {
        return Ok(classes);
    }
    // Those of the marks say the same.
    let [to, from] = failover::MAPS;
    let [to, from] = [list_maps(nft, listing, to).await?, list_maps(nft, listing, from).await?];
    Ok(classes.filter(|all| to.as_ref() == Some(all) && from.as_ref() == Some(all)))
}

/// VIPs with their classes, of a map of each family; `None` when one holds something that Nett does
/// not write.
async fn list_maps(
    nft: &mut Nft,
    listing: &mut Listing,
    maps: ClassMaps,
) -> Result<Option<BTreeMap<std::net::IpAddr, ClassNumber>>, KernelError> {
    let mut all = Vec::new();
    for map in maps.names {
        if listing.sets.iter().any(|set| set.name == map) {
            let get = message::get_elements(map);
            let lists = dump(nft, get, &mut listing.complete, |_, payload| maps.decode(payload));
            all.extend(lists.await?.into_iter().flatten());
        }
    }
    Ok(all.into_iter().collect())
}

async fn dump<T>(
    nft: &mut Nft,
    message: Message,
    complete: &mut bool,
    decode: impl Fn(&Fields<'_>, &[u8]) -> Result<Option<T>, Malformed>,
) -> Result<Vec<T>, KernelError> {
    let dump = nft.connection.dump(message, |_, payload| {
        let fields = Fields::of_message(payload)?;
        if fields.is_about_table(payload) { decode(&fields, payload) } else { Ok(None) }
    });
    let dump = dump.await.map_err(|e| KernelError::of(OBJECT, e))?;
    *complete &= dump.complete;
    Ok(dump.items)
}

fn chain(fields: &Fields<'_>, _: &[u8]) -> Result<Option<ChainRow>, Malformed> {
    let name = fields.text(3).ok_or(Malformed("a chain without name"))?;
    let base = match fields.get(4) {
        None => None,
        Some(hook) => {
            let hook = Fields::of(hook)?;
            hook.be32(1).zip(hook.be32(2).map(u32::cast_signed))
        }
    };
    Ok(Some(ChainRow { name, base }))
}

fn rule(fields: &Fields<'_>, _: &[u8]) -> Result<Option<RuleRow>, Malformed> {
    Ok(Some(RuleRow {
        chain: fields.text(2).ok_or(Malformed("a rule without chain"))?,
        comment: fields.get(7).and_then(read_comment),
        expressions: fields.get(4).unwrap_or(&[]).to_vec(),
    }))
}

fn set(fields: &Fields<'_>, _: &[u8]) -> Result<Option<SetRow>, Malformed> {
    Ok(Some(SetRow {
        name: fields.text(2).ok_or(Malformed("a set without name"))?,
        flags: fields.be32(3).unwrap_or(0),
        key_type: fields.be32(4).unwrap_or(0),
    }))
}

fn elements(payload: &[u8]) -> Result<Option<Vec<Element>>, Malformed> {
    let fields = Fields::of_message(payload)?;
    let mut elements = Vec::new();
    for item in Attributes::of(fields.get(3).unwrap_or(&[])) {
        elements.push(read_element(item?.1)?);
    }
    Ok(Some(elements))
}

fn read_element(item: &[u8]) -> Result<Element, Malformed> {
    let item = Fields::of(item)?;
    let key = item.get(1).ok_or(Malformed("an element without key"))?;
    let key = Fields::of(key)?;
    Ok(Element {
        key: key.get(1).ok_or(Malformed("an empty key"))?.to_vec(),
        end: item.be32(3).unwrap_or(0) & ELEMENT_END != 0,
        counter: item.text(9),
        comment: item.get(6).and_then(read_comment),
    })
}

/// The keys in a list of elements of a table.
pub(super) fn element_keys(payload: &[u8], table: &str) -> Result<Option<Vec<Vec<u8>>>, Malformed> {
    if Fields::of_message(payload)?.text(1).as_deref() != Some(table) {
        return Ok(None);
    }
    Ok(elements(payload)?.map(|all| all.into_iter().map(|element| element.key).collect()))
}

/// The packets that the elements of a counting set have counted.
pub(super) fn counts(
    set: &str,
    payload: &[u8],
) -> Result<Option<Vec<(GuardElement, u64)>>, Malformed> {
    let fields = Fields::of_message(payload)?;
    if !fields.is_about_table(payload) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for item in Attributes::of(fields.get(3).unwrap_or(&[])) {
        let item = item?.1;
        let elements = refused(set, &[read_element(item)?]).unwrap_or_default();
        let Some(element) = elements.first().copied() else { continue };
        let expression = Fields::of(Fields::of(item)?.get(7).unwrap_or(&[]))?;
        let counter = Fields::of(expression.get(2).unwrap_or(&[]))?;
        let packets = counter.get(2).map(read_be64).transpose()?;
        found.extend(packets.map(|packets| (element, packets)));
    }
    Ok(Some(found))
}

/// The guard that the table's inputs mean, or one with mask 0 and the first thing that is wrong.
fn judge(comment: &str, listing: &Listing) -> (Guard, Option<String>) {
    let mut guard = Guard {
        kind: GuardKind::Border,
        mark_mask: 0,
        marks: BTreeSet::new(),
        outer: BTreeSet::new(),
        ways: BTreeSet::new(),
        site: BTreeSet::new(),
        remote: BTreeSet::new(),
        vips: BTreeSet::new(),
        classes: Classes::default(),
        failover: BTreeMap::new(),
        transit: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let Some((kind, mask)) = parse_table_comment(comment) else {
        let damage = format!("the table is of another version: \"{comment}\"");
        return (guard, Some(damage));
    };
    guard.kind = kind;
    guard.marks = marks(listing);
    let marking = listing.rules.iter().filter(|r| r.chain == failover::CHAIN);
    let marks = marking.filter_map(|r| parse_failover_comment(r.comment.as_deref()?));
    guard.failover = marks.collect();
    match &listing.classes {
        Some(classes) => guard.classes = classes.clone(),
        None => {
            let damage = "a map of classes has elements that Nett does not write";
            return (guard, Some(damage.to_owned()));
        }
    }
    let inputs = inputs(&mut guard, listing);
    let damage = inputs.or_else(|| {
        let whole = Guard { mark_mask: mask, ..guard.clone() };
        damage(&whole, listing)
    });
    if damage.is_none() {
        guard.mark_mask = mask;
    }
    (guard, damage)
}

fn marks(listing: &Listing) -> BTreeSet<GuardMark> {
    let rules = listing.rules.iter().filter(|r| r.chain == "pre_mark");
    rules.filter_map(|r| parse_mark_comment(r.comment.as_deref()?)).collect()
}

/// Fills the guard from the sets; says which set is not as Nett writes it.
fn inputs(guard: &mut Guard, listing: &Listing) -> Option<String> {
    for (name, elements) in &listing.elements {
        if known_sets().any(|(set, _, form)| set == *name && form == Form::Counters) {
            continue;
        }
        let elements = elements.clone();
        let names = || elements.iter().map(|e| read_text(&e.key)).collect();
        let read = match name.trim_end_matches(['4', '6']) {
            "outer" => {
                guard.outer = names();
                Some(())
            }
            "ways" => {
                guard.ways = names();
                Some(())
            }
            transit::PAIRS => {
                let pairs = elements.iter().map(|e| transit::pair_of(&e.key));
                pairs.collect::<Option<_>>().map(|pairs| guard.transit = pairs)
            }
            "site" => interval::prefixes(elements).map(|nets| guard.site.extend(nets)),
            "remote" => interval::prefixes(elements).map(|nets| guard.remote.extend(nets)),
            "vip" => interval::prefixes(elements).map(|nets| guard.vips.extend(nets)),
            _ => refused(name, &elements).map(|all| guard.refused.extend(all)),
        };
        if read.is_none() {
            return Some(format!("set {name} has elements that Nett does not write"));
        }
    }
    None
}

/// Who is in one of the sets that refuse, count or mark.
fn refused(name: &str, elements: &[Element]) -> Option<Vec<GuardElement>> {
    if name.starts_with("failover_") || name.starts_with("carried") {
        return elements.iter().map(|element| by_interface(name, &element.key)).collect();
    }
    let (set, of_classes) = guard_set(name)?;
    let subject = |element: &Element| match of_classes {
        true => read_u32(&element.key).ok().map(|number| Subject::Class(ClassNumber(number))),
        false => read_address(&element.key).ok().map(Subject::Vip),
    };
    let element = |e| subject(e).map(|subject| GuardElement { set, subject });
    elements.iter().map(element).collect()
}

/// Whose packets are marked that leave by an interface, or go on that come in by it.
fn by_interface(name: &str, key: &[u8]) -> Option<GuardElement> {
    let (subject, interface) = key.split_at_checked(key.len().checked_sub(IFNAME)?)?;
    let by = WayOut::new(&read_text(interface));
    let (set, of) = match name.trim_end_matches(['4', '6']) {
        "failover_to" => (GuardSet::FailoverTo(by), subject),
        "failover_from" => (GuardSet::FailoverFrom(by), subject),
        "carried" => (GuardSet::Carried(by), subject),
        _ => return None,
    };
    let subject = match name.ends_with(['4', '6']) {
        true => Subject::Vip(read_address(of).ok()?),
        false => Subject::Class(ClassNumber(read_u32(of).ok()?)),
    };
    Some(GuardElement { set, subject })
}

/// The first difference between the table and the program of `guard`.
fn damage(guard: &Guard, listing: &Listing) -> Option<String> {
    let Ok(program) = program(guard) else {
        return Some("a set has elements that Nett does not write".to_owned());
    };
    for set in &program.sets {
        let Some(row) = listing.sets.iter().find(|row| row.name == set.name) else {
            return Some(format!("set {} is missing", set.name));
        };
        if row.key_type != set.key.shape().0 || row.flags != set.form.flags() {
            return Some(format!("set {} has another form", set.name));
        }
        let mapped = |elements: &[Element]| -> BTreeSet<(Vec<u8>, Option<String>)> {
            elements.iter().map(|e| (e.key.clone(), e.counter.clone())).collect()
        };
        let there = listing.elements.get(set.name).map(Vec::as_slice).unwrap_or_default();
        if set.form == Form::Counters && mapped(there) != mapped(&set.elements) {
            return Some(format!("map {} has other counters", set.name));
        }
    }
    let known = |row: &SetRow| program.sets.iter().any(|set| set.name == row.name);
    if let Some(row) = listing.sets.iter().find(|row| !known(row)) {
        return Some(format!("set {} is not of the program", row.name));
    }
    if listing.counters != counters(guard) {
        return Some("the named counters are not those of the program".to_owned());
    }
    for row in &listing.chains {
        if program.chains.iter().all(|chain| chain.name != row.name) {
            return Some(format!("chain {} is not of the program", row.name));
        }
    }
    for chain in &program.chains {
        let Some(row) = listing.chains.iter().find(|row| row.name == chain.name) else {
            return Some(format!("chain {} is missing", chain.name));
        };
        if row.base != chain.base {
            return Some(format!("chain {} has another hook", chain.name));
        }
        let there: Vec<_> = listing.rules.iter().filter(|r| r.chain == chain.name).collect();
        if there.len() != chain.rules.len() {
            let (is, should) = (there.len(), chain.rules.len());
            return Some(format!("chain {} has {is} rules, not {should}", chain.name));
        }
        for (row, rule) in there.iter().zip(&chain.rules) {
            let same = row.comment.as_ref() == Some(&rule.comment)
                && same_expressions(&row.expressions, &rule.expressions);
            if !same {
                return Some(format!("chain {}: rule \"{}\" differs", chain.name, rule.comment));
            }
        }
    }
    None
}
