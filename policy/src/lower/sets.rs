//! The names that guard sets and what is in them have in the nft table.

use std::fmt;

use super::object::{ClassNumber, GuardElement, GuardSet, Subject};
use crate::fabric::Family;

// === impl GuardSet ===

impl GuardSet {
    /// Those because of which a packet is refused.
    pub const REFUSING: [Self; 3] = [Self::Drained, Self::ShutIn, Self::ShutOut];
    /// Those whose elements count the packets that are found in them.
    pub const COUNTED: [Self; 3] = [Self::CountTo, Self::CountIn, Self::CountFrom];

    /// Its name in the nft table for single VIPs of a family, or for classes of both.
    pub const fn name(self, of: Option<Family>) -> &'static str {
        match (self, of) {
            (Self::Apart, Some(Family::V4)) => "apart4",
            (Self::Apart, Some(Family::V6)) => "apart6",
            (Self::Apart, None) => "apart",
            (Self::Drained, Some(Family::V4)) => "drained4",
            (Self::Drained, Some(Family::V6)) => "drained6",
            (Self::Drained, None) => "drained",
            (Self::ShutIn, Some(Family::V4)) => "shut_in4",
            (Self::ShutIn, Some(Family::V6)) => "shut_in6",
            (Self::ShutIn, None) => "shut_in",
            (Self::ShutOut, Some(Family::V4)) => "shut_out4",
            (Self::ShutOut, Some(Family::V6)) => "shut_out6",
            (Self::ShutOut, None) => "shut_out",
            (Self::Keep, Some(Family::V4)) => "keep4",
            (Self::Keep, Some(Family::V6)) => "keep6",
            (Self::Keep, None) => "keep",
            (Self::KeepHere, Some(Family::V4)) => "keep_here4",
            (Self::KeepHere, Some(Family::V6)) => "keep_here6",
            (Self::KeepHere, None) => "keep_here",
            (Self::Counting, _) => "counting",
            (Self::CountTo, Some(Family::V4)) => "count_to4",
            (Self::CountTo, Some(Family::V6)) => "count_to6",
            (Self::CountTo, None) => "count_to",
            (Self::CountIn, Some(Family::V4)) => "count_in4",
            (Self::CountIn, Some(Family::V6)) => "count_in6",
            (Self::CountIn, None) => "count_in",
            (Self::CountFrom, Some(Family::V4)) => "count_from4",
            (Self::CountFrom, Some(Family::V6)) => "count_from6",
            (Self::CountFrom, None) => "count_from",
            (Self::FailoverTo(_), Some(Family::V4)) => "failover_to4",
            (Self::FailoverTo(_), Some(Family::V6)) => "failover_to6",
            (Self::FailoverTo(_), None) => "failover_to",
            (Self::FailoverFrom(_), Some(Family::V4)) => "failover_from4",
            (Self::FailoverFrom(_), Some(Family::V6)) => "failover_from6",
            (Self::FailoverFrom(_), None) => "failover_from",
            (Self::Carried(_), Some(Family::V4)) => "carried4",
            (Self::Carried(_), Some(Family::V6)) => "carried6",
            (Self::Carried(_), None) => "carried",
        }
    }
}

impl GuardElement {
    /// What makes the table look at who answers: no class has this number.
    pub const COUNTING: Self =
        Self { set: GuardSet::Counting, subject: Subject::Class(ClassNumber(u32::MAX)) };

    /// The name of the set in the nft table.
    pub fn set_name(&self) -> &'static str {
        match self.subject {
            Subject::Class(_) => self.set.name(None),
            Subject::Vip(vip) => self.set.name(Some(Family::of(vip))),
        }
    }

    /// Its key in the set, as nft prints it.
    pub fn key(&self) -> String {
        match self.set {
            GuardSet::FailoverTo(by) | GuardSet::FailoverFrom(by) | GuardSet::Carried(by) => {
                format!("{} . \"{by}\"", self.subject)
            }
            _ => self.subject.to_string(),
        }
    }
}

impl fmt::Display for Subject {
    /// As nft prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(ClassNumber(number)) => write!(f, "{number:#010x}"),
            Self::Vip(vip) => vip.fmt(f),
        }
    }
}
