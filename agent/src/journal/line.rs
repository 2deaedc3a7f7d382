//! The lines of a journal: its header, and a record on each other one.

use super::{Loaded, Record};

/// What every release's header begins with.
const NAME: &str = "nett-journal ";
/// The header of a journal that was never written anew, as it always was.
const FIRST: &str = "nett-journal 2";
/// The header of one that was, which may begin with a checkpoint; its generation follows.
const LATER: &str = "nett-journal 3 ";

/// The first line of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Good(Known),
    /// Nothing, or the beginning of ours: nothing was ever recorded.
    Empty,
    /// Whole, and of another release.
    Other(String),
    Damaged,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Bytes of the header.
    pub(super) length: usize,
    pub(super) generation: u64,
}

pub(super) fn size(length: usize) -> u64 {
    u64::try_from(length).expect("what fits in memory")
}

/// The header with its check, as a line.
pub(super) fn header(generation: u64) -> String {
    let words = match generation {
        0 => FIRST.to_owned(),
        _ => format!("{LATER}{generation}"),
    };
    format!("{words} {:08x}\n", crc32c::crc32c(words.as_bytes()))
}

/// The words before a check, if it fits them.
pub(super) fn checked(line: &str) -> Option<&str> {
    let (words, check) = line.rsplit_once(' ')?;
    (check == format!("{:08x}", crc32c::crc32c(words.as_bytes()))).then_some(words)
}

pub(super) fn head(bytes: &[u8]) -> Head {
    let first = header(0);
    if first.as_bytes().starts_with(bytes) && bytes.len() < first.len() {
        return Head::Empty;
    }
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let whole = bytes.len() > line.len();
    let words = checked(&text).filter(|words| words.starts_with(NAME) && whole);
    let length = line.len() + 1;
    let generation = |words: &str| words.strip_prefix(LATER)?.parse::<u64>().ok();
    match words {
        Some(FIRST) => Head::Good(Known { length, generation: 0 }),
        Some(words) => match generation(words) {
            Some(generation) => Head::Good(Known { length, generation }),
            None => Head::Other(text.chars().take(40).collect()),
        },
        // The first format had no check.
        None if text == "nett-journal 1" => Head::Other(text.into_owned()),
        None => Head::Damaged,
    }
}

/// A record as one line, with its line break.
pub(super) fn line(record: &Record) -> Vec<u8> {
    let mut rest = record.stream_seq.to_string().into_bytes();
    rest.push(b' ');
    rest.extend_from_slice(&record.bytes);
    let mut line = format!("{:08x} ", crc32c::crc32c(&rest)).into_bytes();
    line.append(&mut rest);
    line.push(b'\n');
    line
}

/// The lines after the header. Only what follows the last good line may be torn.
pub(super) fn parse(body: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut tail_damage: Vec<u64> = Vec::new();
    let mut tail_bytes = 0u64;
    for (piece, number) in body.split_inclusive(|b| *b == b'\n').zip(2u64..) {
        match piece.strip_suffix(b"\n").and_then(record) {
            Some(record) => {
                loaded.damaged.append(&mut tail_damage);
                tail_bytes = 0;
                loaded.records.push(record);
            }
            None => {
                tail_damage.push(number);
                tail_bytes += size(piece.len());
            }
        }
    }
    loaded.torn = tail_bytes;
    loaded
}

fn record(line: &[u8]) -> Option<Record> {
    let (crc, rest) = (line.get(..8)?, line.get(9..)?);
    if line[8] != b' ' {
        return None;
    }
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    if crc != crc32c::crc32c(rest) {
        return None;
    }
    let space = rest.iter().position(|b| *b == b' ')?;
    let stream_seq = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    Some(Record { stream_seq, bytes: rest[space + 1..].to_vec() })
}
