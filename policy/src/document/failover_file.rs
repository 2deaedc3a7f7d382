//! `failover` of the fabric or of a link, as written.

use super::code::Code;
use super::form::Flaw;
use super::read::{At, Reader, Section};
use super::tree::Value;
use crate::failover::{FailoverMark, TcClass, code_point};

/// What a section says under `failover`.
pub(super) fn failover(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<FailoverMark> {
    s.optional("failover").and_then(|v| r.section(v, "failover", |s| mark(r, s)))
}

fn mark(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<FailoverMark> {
    let (dscp, class) = (s.optional("dscp"), s.optional("class"));
    if dscp.is_none() && class.is_none() {
        let message = "failover lacks both `dscp` and `class`";
        let hint = "one of them at least, or leave `failover` out: then nothing is marked";
        r.report(r.mistake(Code::MissingKey, s.span, message).hint(hint));
    }
    let dscp = dscp.and_then(|v| code(r, v)).map(|dscp| dscp.value);
    let class = class.and_then(|v| r.parse_text(v, tc_class)).map(|class| class.value);
    Some(FailoverMark { dscp, class })
}

/// A name, or a number.
fn code(r: &Reader<'_>, v: &Value) -> Option<At<u8>> {
    if r.is_text(v) { r.parse_text(v, named) } else { r.integer(v, 0..=63) }
}

fn named(text: &str) -> Result<u8, Flaw> {
    code_point(text).ok_or_else(|| {
        let flaw = Flaw::new(Code::BadDscp, format!("`{text}` is not a DSCP"));
        flaw.hint("a number from 0 to 63, or `CS0` to `CS7`, `AF11` to `AF43`, `EF`, `VA`, `LE`")
    })
}

fn tc_class(text: &str) -> Result<TcClass, Flaw> {
    text.parse().map_err(|_| {
        let flaw = Flaw::new(Code::BadTcClass, format!("`{text}` is not a class of tc"));
        flaw.hint("`MAJOR:MINOR` in hexadecimal digits, 1:1 to fffe:ffff, such as `1:20`")
    })
}
