//! What a program asks of the kernel over netlink, as `strace` sees it at the system call.
//!
//! The bytes are decoded here from the kernel's own headers (`linux/netlink.h`,
//! `linux/rtnetlink.h`, `linux/nexthop.h`, `linux/netfilter/nf_tables.h`), since strace 6.1 does
//! not know nexthop messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::changes::{Change, Kind};
use crate::eventually::eventually_true;
use crate::netns::Netns;
use crate::process::{Process, Spec};

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

/// A strace attached to every thread of a process.
#[derive(Debug)]
pub struct Calls {
    trace: PathBuf,
    process: Process,
}

// === impl Calls ===

impl Calls {
    /// Attaches to the process `pid` in `ns`. `trace.THREAD` gets the calls of each thread, so that
    /// no call is torn apart by another thread's, and `trace.log` strace's own words.
    pub fn start(ns: &Netns, pid: i32, trace: PathBuf) -> Result<Self> {
        let log = trace.with_extension("log");
        let options = ["-ff", "-yy", "-s", "0", "-e", "trace=sendto,sendmsg", "-e", "write=all"];
        let mut args: Vec<String> = options.map(str::to_owned).to_vec();
        let place = ["-o".to_owned(), trace.display().to_string(), "-p".into(), pid.to_string()];
        args.extend(place);
        let name = format!("strace-{}", ns.name());
        let spec = Spec { name, program: "strace".into(), args, env: Vec::new(), log: log.clone() };
        let mut process = Process::start(ns, spec)?;
        let attached = || {
            process.check_alive()?;
            Ok(std::fs::read_to_string(&log)?.contains("attached"))
        };
        eventually_true(Duration::from_secs(5), "strace attaches", attached)?;
        Ok(Self { trace, process })
    }

    /// Detaches and returns the changes that were asked for, in order for each thread.
    pub fn finish(self) -> Result<Vec<Change>> {
        let Self { trace, process } = self;
        process.stop(Duration::from_secs(5))?;
        let dir = trace.parent().context("a trace lies in a directory")?;
        let mut changes = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let thread = path.extension().and_then(|e| e.to_str()?.parse::<u32>().ok());
            if path.file_stem() == trace.file_name() && thread.is_some() {
                let text = std::fs::read_to_string(&path).context("cannot read the trace")?;
                let calls = sent(&text);
                changes.extend(calls.iter().flat_map(|(family, bytes)| messages(family, bytes)));
            }
        }
        Ok(changes)
    }
}

/// Netlink family and bytes of every call: a line that names the socket, then lines of a dump.
fn sent(trace: &str) -> Vec<(String, Vec<u8>)> {
    let mut calls: Vec<(String, Vec<u8>)> = Vec::new();
    let mut inside = false;
    for line in trace.lines() {
        if let Some(dump) = line.strip_prefix(" | ") {
            if let (true, Some((_, bytes))) = (inside, calls.last_mut()) {
                let digits = dump.get(7..56).unwrap_or_default().split_whitespace();
                bytes.extend(digits.filter_map(|d| u8::from_str_radix(d, 16).ok()));
            }
            continue;
        }
        let family = line.split_once("<NETLINK:[").and_then(|(_, rest)| rest.split_once(':'));
        inside = family.is_some();
        if let Some((family, _)) = family {
            calls.push((family.to_owned(), Vec::new()));
        }
    }
    calls
}

/// The changes asked for by the messages of one call; questions are none.
fn messages(family: &str, mut bytes: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let (Some(length), Some(kind), Some(flags)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u16_at(bytes, 6))
    {
        let Some(message) = bytes.get(..length as usize).filter(|m| m.len() >= 16) else { break };
        let payload = &message[16..];
        match family {
            "ROUTE" => changes.extend(route_message(kind, flags, payload)),
            "NETFILTER" => changes.extend(nft_message(kind, payload)),
            _ => {}
        }
        bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

fn route_message(kind: u16, flags: u16, payload: &[u8]) -> Option<Change> {
    let put = match (flags & NLM_F_CREATE != 0, flags & NLM_F_REPLACE != 0) {
        (true, false) => Some(Kind::Add),
        (false, true) => Some(Kind::Replace),
        // Create-or-replace overwrites what is not its own: no plan says that.
        _ => None,
    };
    match kind {
        24 => Some(told(put, route(payload)?, route_value(payload))),
        25 => Some(Change::new(Kind::Delete, route(payload)?, String::new())),
        104 => Some(told(put, nexthop(payload)?, nexthop_value(payload))),
        105 => Some(Change::new(Kind::Delete, nexthop(payload)?, String::new())),
        // Links, addresses and rules: no plan of a command changes them.
        16 | 17 | 20 | 21 | 32 | 33 => {
            Some(Change::new(Kind::Add, format!("message {kind}"), String::new()))
        }
        _ => None,
    }
}

fn told(kind: Option<Kind>, object: String, value: String) -> Change {
    match kind {
        Some(kind) => Change::new(kind, object, value),
        None => Change::new(Kind::Add, format!("{object}, blindly"), value),
    }
}

/// `struct rtmsg` is 12 bytes; RTA_DST 1, RTA_TABLE 15, RTA_NH_ID 30.
fn route(payload: &[u8]) -> Option<String> {
    let length = *payload.get(1)?;
    let attributes = attributes(payload.get(12..)?);
    let to = attributes.iter().find(|(kind, _)| *kind == 1).and_then(|(_, v)| address(v))?;
    let table = number(&attributes, 15)?;
    let host = length == if to.is_ipv4() { 32 } else { 128 };
    let to = if host { to.to_string() } else { format!("{to}/{length}") };
    Some(format!("route {to} table {table}"))
}

fn route_value(payload: &[u8]) -> String {
    let list = attributes(payload.get(12..).unwrap_or_default());
    match (number(&list, 30), payload.get(7)) {
        (Some(id), _) => format!("nhid {id}"),
        // RTN_UNREACHABLE
        (None, Some(7)) => "unreachable".to_owned(),
        (None, kind) => format!("type {kind:?}"),
    }
}

/// `struct nhmsg` is 8 bytes; NHA_ID 1, NHA_GROUP 2.
fn nexthop(payload: &[u8]) -> Option<String> {
    let id = number(&attributes(payload.get(8..)?), 1)?;
    Some(format!("nexthop {id}"))
}

/// Members of a group are `struct nexthop_grp`, 8 bytes: id, weight less one. A single one is
/// told without its interface's name, which the message does not carry: `via GATEWAY`.
fn nexthop_value(payload: &[u8]) -> String {
    let list = attributes(payload.get(8..).unwrap_or_default());
    if let Some((_, members)) = list.iter().find(|(kind, _)| *kind == 2) {
        let member = |m: &[u8]| match (u32_at(m, 0), m.get(4)) {
            (Some(id), Some(0)) => format!("{id}"),
            (Some(id), Some(less)) => format!("{id},{}", u16::from(*less) + 1),
            _ => "?".to_owned(),
        };
        return format!("group {}", members.chunks(8).map(member).collect::<Vec<_>>().join("/"));
    }
    let gateway = list.iter().find(|(kind, _)| *kind == 6).and_then(|(_, v)| address(v));
    gateway.map_or_else(String::new, |g| format!("via {g}"))
}

/// `struct nfgenmsg` is 4 bytes. Subsystem 10 is nf_tables; 12 and 14 are NEWSETELEM and
/// DELSETELEM, whose attributes are the table 1, the set 2 and the elements 3.
fn nft_message(kind: u16, payload: &[u8]) -> Vec<Change> {
    if kind >> 8 != 10 {
        return Vec::new();
    }
    let list = attributes(payload.get(4..).unwrap_or_default());
    let verb = match kind & 0xff {
        12 => Kind::Add,
        14 => Kind::Delete,
        // The GETs of nf_tables, up to GETFLOWTABLE: questions.
        1 | 4 | 7 | 10 | 13 | 16 | 19 | 21 | 23 => return Vec::new(),
        other => return vec![Change::new(Kind::Add, format!("nft {other}"), String::new())],
    };
    let find = |wanted: u16| list.iter().find(|(kind, _)| *kind == wanted).map(|(_, v)| *v);
    let set = String::from_utf8_lossy(find(2).unwrap_or_default()).replace('\0', "");
    let elements = attributes(find(3).unwrap_or_default());
    let change = |element: &[u8]| {
        // NFTA_LIST_ELEM holds NFTA_SET_ELEM_KEY (1), that holds NFTA_DATA_VALUE (1).
        let key = attributes(element).into_iter().find(|(kind, _)| *kind == 1)?.1;
        let value = attributes(key).into_iter().find(|(kind, _)| *kind == 1)?.1;
        let subject = match set.ends_with(['4', '6']) {
            true => address(value)?.to_string(),
            // The number of a class, as nft prints it.
            false => format!("{:#010x}", u32_at(value, 0)?),
        };
        Some(Change::new(verb, format!("{set} {subject}"), String::new()))
    };
    let unreadable = || Change::new(verb, format!("{set} unreadable"), String::new());
    elements.iter().map(|(_, e)| change(e).unwrap_or_else(unreadable)).collect()
}

/// Type (without its flag bits) and value of each attribute.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let Some(value) = bytes.get(4..usize::from(length)) else { break };
        all.push((kind & 0x3fff, value));
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn number(attributes: &[(u16, &[u8])], wanted: u16) -> Option<u32> {
    attributes.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, v)| u32_at(v, 0))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
5430  sendto(9<NETLINK:[ROUTE:5423]>, ..., 52, 0, NULL, 0) = 52
 | 00000  34 00 00 00 18 00 05 01  d9 07 00 00 00 00 00 00  4............... |
 | 00010  02 20 00 00 00 d9 00 07  00 00 00 00 08 00 01 00  . .............. |
 | 00020  0a 63 00 28 08 00 0f 00  59 1b 00 00 08 00 06 00  .c.(....Y....... |
 | 00030  64 00 00 00                                       d...             |
5431  sendto(7<TCP:[10.1.1.2:5]>, ..., 4, 0, NULL, 0) = 4
 | 00000  50 49 4e 47                                       PING             |
5430  sendto(11<NETLINK:[NETFILTER:5423]>, ..., 108, 0, NULL, 0) = 108
 | 00000  14 00 00 00 10 00 01 00  6c 00 00 00 00 00 00 00  ........l....... |
 | 00010  00 00 00 0a 44 00 00 00  0c 0a 01 04 6d 00 00 00  ....D.......m... |
 | 00020  00 00 00 00 01 00 00 00  09 00 01 00 6e 65 74 74  ............nett |
 | 00030  00 00 00 00 0d 00 02 00  64 72 61 69 6e 65 64 34  ........drained4 |
 | 00040  00 00 00 00 14 00 03 80  10 00 01 80 0c 00 01 80  ................ |
 | 00050  08 00 01 00 0a 63 00 14  14 00 00 00 11 00 01 00  .....c.......... |
 | 00060  6f 00 00 00 00 00 00 00  00 00 00 0a              o...........     |
";

    #[test]
    fn decodes_a_route_and_a_set_element_from_a_trace() {
        let calls = sent(TRACE);
        let all = calls.iter().flat_map(|(family, bytes)| messages(family, bytes));
        let all: Vec<String> = all.map(|c| c.to_string()).collect();
        let expected = ["~ route 10.99.0.40 table 7001 unreachable", "+ drained4 10.99.0.20 "];
        assert_eq!(all, expected);
    }
}
