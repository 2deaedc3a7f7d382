//! Entries in a word or two, for the trace of a failing seed.

use nett_agent::bus::wire::Sealed;

/// An entry in a word or two.
pub(crate) fn said(sealed: &Sealed) -> String {
    use nett_policy::log::entry::Body;
    match &sealed.entry.body {
        Body::Command(c) => format!("command {} {:?}", c.request.id, c.request.ask),
        Body::Refused(r) => format!("refused {} by {}", r.request.id, r.refused_by),
        Body::Wish(w) => format!("wish {:?}", w.request.ask),
        Body::Effective(f) => format!("effective {}", f.slot.task),
        Body::Step(f) => format!("step {} {} {:?}", f.slot.task, f.step, f.state),
        Body::Turn(f) => format!("turn {f:?}"),
        Body::Withdrawn(f) => format!("withdrawn {:?}", f.services),
        Body::Adopt(f) => format!("adopt {f:?}"),
        Body::End(f) => format!("end {} {:?} {}", f.slot.task, f.outcome, f.reason),
    }
}
