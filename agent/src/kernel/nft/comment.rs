//! Comments of the table and its rules that carry inputs of the guard, which no set holds.

use nett_policy::failover::FailoverMark;
use nett_policy::lower::object::{GuardKind, GuardMark};

/// Changes when the meaning of the program changes; a table of another version is loaded anew.
const VERSION: u32 = 8;

/// The table's comment: the mark of ownership, and what no set holds.
pub(super) fn table_comment(kind: GuardKind, mask: u32) -> String {
    let kind = match kind {
        GuardKind::Border => "border",
        GuardKind::Route => "route",
    };
    format!("Nett {VERSION} {kind} mask {mask:#x}")
}

/// True for the comment of any version: the table is ours.
pub(super) fn is_ours(comment: &str) -> bool {
    comment.starts_with("Nett ")
}

/// Kind and mask, if the table is of this version.
pub(super) fn parse_table_comment(comment: &str) -> Option<(GuardKind, u32)> {
    let words: Vec<&str> = comment.split(' ').collect();
    let [_, _, kind, _, mask] = words[..] else {
        return None;
    };
    let kind = match kind {
        "border" => GuardKind::Border,
        "route" => GuardKind::Route,
        _ => return None,
    };
    let mask = u32::from_str_radix(mask.strip_prefix("0x")?, 16).ok()?;
    (table_comment(kind, mask) == comment).then_some((kind, mask))
}

/// The beginning of the comments of a mark's rules.
pub(super) fn mark_comment(mark: &GuardMark) -> String {
    let GuardMark { interface, index, source } = mark;
    match source {
        Some(mac) => format!("mark {interface} {index} {mac}: "),
        None => format!("mark {interface} {index}: "),
    }
}

/// The mark that a rule's comment names.
pub(super) fn parse_mark_comment(comment: &str) -> Option<GuardMark> {
    let (mark, _) = comment.strip_prefix("mark ")?.split_once(": ")?;
    let mut words = mark.split(' ');
    let (interface, index) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let source = match words.next() {
        Some(mac) => Some(mac.parse().ok()?),
        None => None,
    };
    words.next().is_none().then_some(GuardMark { interface, index, source })
}

/// The beginning of the comments of the rules that mark failover traffic on its way out.
pub(super) fn failover_comment(interface: &str, mark: FailoverMark) -> String {
    format!("failover {interface} {mark}: ")
}

/// The interface and the mark that a rule's comment names.
pub(super) fn parse_failover_comment(comment: &str) -> Option<(String, FailoverMark)> {
    let (named, _) = comment.strip_prefix("failover ")?.rsplit_once(": ")?;
    let (interface, mark) = named.split_once(' ')?;
    Some((interface.to_owned(), mark.parse().ok()?))
}
