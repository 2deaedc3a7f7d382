//! What reporters outside of Nett measured, and the gates that compare it with something.
//!
//! Pure. A fact is good until it expires; who may report is judged at the agent's edge. A gate is a
//! word that somebody says (`data-ready`), or a comparison with a fact (`data-lag <= 5s`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::id::{EntryId, ServiceId, WallMs};

/// A number with up to three decimals, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(pub i64);

/// What was measured, when, and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Of the signed message.
    pub id: EntryId,
    pub value: Thousandths,
    /// `s`, `%` and the like; empty for plain numbers.
    pub unit: String,
    pub measured_at: WallMs,
    /// The first moment in which it is not good any more.
    pub expires_at: WallMs,
    /// Who reported it.
    pub person: String,
}

/// The name of a fact, and the service it is about; `None` where it is about none.
pub type FactKey = (Option<ServiceId>, String);

/// The newest fact of each name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<FactKey, Fact>);

/// A fact as a step has used it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub id: EntryId,
    pub service: ServiceId,
    pub name: String,
    pub value: Thousandths,
    pub unit: String,
    pub measured_at: WallMs,
}

/// How much of its newest data a service would lose, by convention.
pub const DATA_LAG: &str = "data-lag";

/// A gate as a service names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Somebody with the role `gate` says that it holds.
    Word(String),
    Compare {
        fact: String,
        with: Comparison,
        value: Thousandths,
        unit: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// Not a gate: neither a word nor `NAME <= NUMBER UNIT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no gate: a word such as `data-ready`, or a comparison such as `data-lag <= 5s`")]
pub struct NotAGate(String);

/// Not a number with at most three decimals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number with at most three decimals")]
pub struct NotANumber(String);

// === impl Thousandths ===

impl Thousandths {
    /// As a floating-point number, for metrics: exact up to 2^53 thousandths.
    #[expect(clippy::cast_precision_loss, reason = "nothing is decided by it")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl FromStr for Thousandths {
    type Err = NotANumber;

    fn from_str(text: &str) -> Result<Self, NotANumber> {
        let bad = || NotANumber(text.to_owned());
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let complete = !whole.is_empty() && (digits == whole || !decimals.is_empty());
        if !complete || decimals.len() > 3 || !plain(whole) || !plain(decimals) {
            return Err(bad());
        }
        let whole: i64 = whole.parse().map_err(|_| bad())?;
        let part: i64 = format!("{decimals:0<3}").parse().map_err(|_| bad())?;
        let sum = whole.checked_mul(1000).and_then(|w| w.checked_add(part)).ok_or_else(bad)?;
        Ok(Self(sign * sum))
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = self.0.unsigned_abs();
        let text = format!("{sign}{}.{:03}", all / 1000, all % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The factor to milliseconds of a unit of time.
fn milliseconds(unit: &str) -> Option<i128> {
    match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    }
}

/// Two values in one unit; `None` where the units have nothing to do with each other.
fn in_one_unit(a: (Thousandths, &str), b: (Thousandths, &str)) -> Option<(i128, i128)> {
    let value = |value: Thousandths| i128::from(value.0);
    match (milliseconds(a.1), milliseconds(b.1)) {
        (Some(of_a), Some(of_b)) => Some((value(a.0) * of_a, value(b.0) * of_b)),
        _ if a.1 == b.1 => Some((value(a.0), value(b.0))),
        _ => None,
    }
}

// === impl Measured ===

impl Measured {
    /// As milliseconds, where it is a time of zero or more.
    pub fn milliseconds(&self) -> Option<u64> {
        let factor = milliseconds(&self.unit)?;
        u64::try_from(i128::from(self.value.0) * factor / 1000).ok()
    }
}

// === impl Facts ===

impl Facts {
    /// Takes a fact in, unless a newer one is known. True when it was.
    pub fn take(&mut self, key: FactKey, fact: Fact) -> bool {
        let newer = |old: &Fact| (old.measured_at, &old.id) >= (fact.measured_at, &fact.id);
        if self.0.get(&key).is_some_and(newer) {
            return false;
        }
        self.0.insert(key, fact);
        true
    }

    /// What is good at a time.
    pub fn good(&self, key: &FactKey, now: WallMs) -> Option<&Fact> {
        self.0.get(key).filter(|fact| now < fact.expires_at)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&FactKey, &Fact)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what is not good any more.
    pub fn forget(&mut self, now: WallMs) {
        self.0.retain(|_, fact| now < fact.expires_at);
    }

    /// Forgets what anybody else than this person said of one thing.
    pub fn believe_only_of(&mut self, key: &FactKey, person: &str) {
        if self.0.get(key).is_some_and(|fact| fact.person != person) {
            self.0.remove(key);
        }
    }

    /// Forgets what was said by anybody else than these people.
    pub fn believe_only(&mut self, counts: impl Fn(&str) -> bool) {
        self.0.retain(|_, fact| counts(&fact.person));
    }

    /// Whether somebody says now that a switch is on: by any number but 0.
    pub fn is_on(&self, name: &str, now: WallMs) -> bool {
        let fact = self.good(&(None, name.to_owned()), now);
        fact.is_some_and(|fact| fact.value != Thousandths(0))
    }

    /// The fact of a service by its name, as a step would use it now.
    pub fn measured(&self, service: &ServiceId, name: &str, now: WallMs) -> Option<Measured> {
        let fact = self.good(&(Some(service.clone()), name.to_owned()), now)?;
        let Fact { id, value, unit, measured_at, expires_at: _, person: _ } = fact.clone();
        let (service, name) = (service.clone(), name.to_owned());
        Some(Measured { id, service, name, value, unit, measured_at })
    }
}

// === impl Gate ===

const COMPARISONS: [(&str, Comparison); 5] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

impl Gate {
    /// Whether a fact is on the right side; the units must fit.
    pub fn holds(&self, fact: &Measured) -> bool {
        let Self::Compare { fact: _, with, value, unit } = self else { return false };
        let Some((is, wanted)) = in_one_unit((fact.value, &fact.unit), (*value, unit)) else {
            return false;
        };
        match with {
            Comparison::Less => is < wanted,
            Comparison::AtMost => is <= wanted,
            Comparison::Equal => is == wanted,
            Comparison::AtLeast => is >= wanted,
            Comparison::More => is > wanted,
        }
    }
}

impl FromStr for Gate {
    type Err = NotAGate;

    fn from_str(text: &str) -> Result<Self, NotAGate> {
        let bad = || NotAGate(text.to_owned());
        let word = |word: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !word.is_empty() && word.len() <= 63 && word.bytes().all(allowed)
        };
        let Some((sign, with)) = COMPARISONS.iter().find(|(sign, _)| text.contains(sign)) else {
            return if word(text) { Ok(Self::Word(text.to_owned())) } else { Err(bad()) };
        };
        let (fact, limit) = text.split_once(sign).ok_or_else(bad)?;
        let (fact, limit) = (fact.trim(), limit.trim());
        let number = |b: u8| b.is_ascii_digit() || b"-.".contains(&b);
        let digits = limit.bytes().take_while(|b| number(*b)).count();
        let (value, unit) = limit.split_at(digits);
        let value: Thousandths = value.parse().map_err(|_| bad())?;
        let unit = unit.trim();
        let plain =
            unit.len() <= 16 && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'%');
        match word(fact) && plain {
            true => Ok(Self::Compare {
                fact: fact.to_owned(),
                with: *with,
                value,
                unit: unit.to_owned(),
            }),
            false => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: &str, unit: &str) -> Measured {
        Measured {
            id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".parse().expect("valid"),
            service: "shop/prod/api".parse().expect("valid"),
            name: DATA_LAG.to_owned(),
            value: value.parse().expect("a number"),
            unit: unit.to_owned(),
            measured_at: WallMs(0),
        }
    }

    #[test]
    fn numbers_have_three_decimals_and_one_form() {
        for (text, thousandths) in [("5", 5000), ("-0.25", -250), ("1.001", 1001), ("0", 0)] {
            let number: Thousandths = text.parse().expect(text);
            assert_eq!(number.0, thousandths, "{text}");
            assert_eq!(number.to_string(), text);
        }
        for bad in ["", "1.", ".5", "1.0001", "1e3", "--1", "+1", "9999999999999999999"] {
            assert!(bad.parse::<Thousandths>().is_err(), "{bad}");
        }
    }

    #[test]
    fn gates_compare_over_units_of_time() {
        let gate: Gate = "data-lag <= 5s".parse().expect("a gate");
        assert!(gate.holds(&measured("5000", "ms")));
        assert!(!gate.holds(&measured("5001", "ms")));
        assert!(!gate.holds(&measured("0.1", "min")));
        assert!(!gate.holds(&measured("1", "%")), "that is no time");
        assert!(!gate.holds(&measured("1", "")), "nor is that");
        let more: Gate = "replicas>2".parse().expect("a gate");
        assert!(more.holds(&measured("3", "")) && !more.holds(&measured("2", "")));
        assert_eq!("data-ready".parse(), Ok(Gate::Word("data-ready".to_owned())));
        for bad in ["", "data ready", "a <= ", "<= 5", "a <= b", "a <= 5 s s", "a = 5"] {
            assert!(bad.parse::<Gate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_newest_fact_counts_until_it_expires() {
        let fact = |at: u64, value: i64| Fact {
            id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".parse().expect("valid"),
            value: Thousandths(value),
            unit: "s".to_owned(),
            measured_at: WallMs(at),
            expires_at: WallMs(at + 10),
            person: "probe".to_owned(),
        };
        let key: FactKey = (None, "changes-allowed".to_owned());
        let mut facts = Facts::default();
        assert!(facts.take(key.clone(), fact(10, 1)));
        assert!(!facts.take(key.clone(), fact(9, 0)), "older");
        assert!(facts.is_on("changes-allowed", WallMs(19)));
        assert!(!facts.is_on("changes-allowed", WallMs(20)), "expired");
        assert!(facts.take(key, fact(12, 0)));
        assert!(!facts.is_on("changes-allowed", WallMs(19)), "off");
    }
}
