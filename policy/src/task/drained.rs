//! The words in which a step says whether the sites that were left are measured to be quiet.
//!
//! Pure. Numbers come from the nodes that count (their acknowledgements and, until they give one,
//! what they tell); here they only become one verdict: measured, unmeasured, or not drained. It is
//! the first line of the step's evidence, so that the log itself says which it was. See
//! adr/0043.

use std::fmt;
use std::time::Duration;

use crate::id::{EntryId, NodeId};
use crate::log::entry::{StepKind, StepState};
use crate::log::fold::{Fact, Fold};

/// The verdict and a node's line where the counters moved once, and are below the limit now.
pub const MEASURED: &str = "measured:";
/// Where no counter ever moved, or nobody counted: nothing is known.
pub const UNMEASURED: &str = "unmeasured:";
/// Where the waiting ended before the traffic did.
pub const NOT_DRAINED: &str = "not drained:";

/// A node that counts, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    pub node: NodeId,
    /// The lines of its acknowledgement.
    pub acknowledged: Option<Vec<String>>,
    /// What it tells while it gives none.
    pub told: Option<Vec<String>>,
    /// Present when it was not heard for too long: what it told before is no verdict.
    pub silent: Option<Silence>,
}

/// For how long a node has said nothing, while it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It has not reported since the step began, so long ago.
    SinceStart(Duration),
    /// It has reported since, the last time so long ago.
    Since(Duration),
}

/// A report that is older than this is no verdict on what comes now. Nodes report every 2 s.
pub const STALE: Duration = Duration::from_secs(10);

/// For how long nodes are waited for that do not report, behind sites that are closed.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The same where closing them ends connections: longer than an agent takes to be replaced.
pub const SOFT_SILENCE: Duration = Duration::from_secs(5 * 60);

// === impl Silence ===

impl Silence {
    /// What a node's last report, which is so old, means for a step that began so long ago.
    pub fn of(heard: Option<Duration>, since_start: Duration) -> Option<Self> {
        match heard {
            Some(age) if age <= since_start => (age > STALE).then_some(Self::Since(age)),
            Some(_) | None => Some(Self::SinceStart(since_start)),
        }
    }

    pub fn time(self) -> Duration {
        match self {
            Self::SinceStart(time) | Self::Since(time) => time,
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SinceStart(_) => f.write_str("has not reported since the step began"),
            Self::Since(time) => write!(f, "has not reported for {} s", time.as_secs()),
        }
    }
}

/// What a node tells while it measures, in packets per second to what is left and from it.
pub fn told(to: u64, from: u64, rest: &str) -> String {
    format!("{to}/s to it, {from}/s from it, {rest}")
}

/// The two rates of what a node tells.
pub fn rates(told: &str) -> Option<(u64, u64)> {
    let (to, rest) = told.split_once("/s to it, ")?;
    let (from, _) = rest.split_once("/s from it")?;
    Some((to.parse().ok()?, from.parse().ok()?))
}

/// The evidence of the step: the verdict, then each node in its own words.
pub fn evidence(nodes: &[Counting], owed: &[&NodeId], waited: Duration) -> Vec<String> {
    let mut lines = vec![verdict(nodes, owed, waited)];
    for Counting { node, acknowledged, told, silent } in nodes {
        let words = acknowledged.as_ref().or(told.as_ref());
        let age = silent.filter(|_| acknowledged.is_none());
        let age = age.map_or(String::new(), |silence| format!(", which {silence}"));
        lines.extend(words.into_iter().flatten().map(|line| format!("{node}{age}: {line}")));
    }
    if !owed.is_empty() {
        lines.push(format!("owed by {}, which is said to be off", names(owed)));
    }
    lines
}

fn verdict(nodes: &[Counting], owed: &[&NodeId], waited: Duration) -> String {
    let waited = waited.as_secs();
    let coming: Vec<String> = nodes.iter().filter_map(still_comes).collect();
    let unknown = unknown(nodes, owed);
    if !coming.is_empty() {
        let unknown = if unknown.is_empty() { String::new() } else { format!("; {unknown}") };
        return format!("{NOT_DRAINED} {} after {waited} s{unknown}", coming.join(", "));
    }
    if !unknown.is_empty() {
        return format!("{UNMEASURED} {unknown}");
    }
    let moved = |n: &Counting| {
        let mut lines = n.acknowledged.iter().flatten();
        lines.any(|line| line.starts_with(MEASURED))
    };
    match nodes.iter().any(moved) {
        true => format!("{MEASURED} what was left is quiet"),
        false => format!("{UNMEASURED} no counter of what was left has ever moved"),
    }
}

/// Who says nothing of what still comes, in words.
fn unknown(nodes: &[Counting], owed: &[&NodeId]) -> String {
    let open = || nodes.iter().filter(|n| n.acknowledged.is_none());
    let silent = |n: &Counting| n.silent.map(|silence| format!("{} {silence}", n.node));
    let mut words: Vec<String> = open().filter_map(silent).collect();
    let mute = open().filter(|n| n.silent.is_none() && n.told.is_none());
    let mute: Vec<&NodeId> = mute.map(|n| &n.node).chain(owed.iter().copied()).collect();
    if !mute.is_empty() {
        words.push(format!("{} does not say what still comes", names(&mute)));
    }
    words.join(", ")
}

/// Of a node that has not acknowledged, what it tells.
fn still_comes(node: &Counting) -> Option<String> {
    let open = node.acknowledged.is_none() && node.silent.is_none();
    let told = node.told.as_ref().filter(|_| open)?;
    Some(format!("{} {}", node.node, told.join(", ")))
}

fn names(nodes: &[&NodeId]) -> String {
    nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ")
}

/// The verdicts of what the task does now that are no measurement of quiet: what its end says
/// beside `done`.
pub fn remarks(fold: &Fold, task: &EntryId) -> Vec<String> {
    let mut steps = Vec::new();
    let mut said: Vec<String> = Vec::new();
    for (_, _, fact) in fold.task(task).into_iter().flat_map(|record| record.facts(task)) {
        match &fact.what {
            Fact::Effective { effect, .. } => {
                steps.clear();
                said.clear();
                let drained = effect.steps.iter().filter(|s| s.kind == StepKind::Drained);
                steps.extend(drained.map(|s| s.number));
            }
            Fact::Step(step) if steps.contains(&step.step) => {
                let StepState::Done { evidence } = &step.state else { continue };
                let verdict = evidence.first().filter(|line| !line.starts_with(MEASURED));
                said.extend(verdict.cloned());
            }
            Fact::Step(_) | Fact::Turn(_) | Fact::End(_) => {}
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, acknowledged: Option<&str>, told: Option<&str>) -> Counting {
        let lines = |text: Option<&str>| text.map(|text| vec![text.to_owned()]);
        let node = name.parse().expect("a valid id");
        Counting { node, acknowledged: lines(acknowledged), told: lines(told), silent: None }
    }

    #[test]
    fn what_still_comes_outweighs_what_is_quiet() {
        let quiet = node("osl-r1", Some("measured: 9 packets before"), None);
        let comes = node("osl-b1", None, Some("12/s to it, 0/s from it"));
        let said = evidence(&[quiet.clone(), comes], &[], Duration::from_secs(70));
        assert_eq!(said[0], "not drained: osl-b1 12/s to it, 0/s from it after 70 s");
        let never = node("osl-b1", Some("unmeasured: nothing was ever counted"), None);
        let said = evidence(&[quiet, never], &[], Duration::from_secs(10));
        assert!(said[0].starts_with(MEASURED), "{said:?}");
    }

    #[test]
    fn nobody_who_counted_is_no_measurement() {
        let never = node("osl-b1", Some("unmeasured: nothing was ever counted"), None);
        let said = evidence(std::slice::from_ref(&never), &[], Duration::ZERO);
        assert!(said[0].starts_with(UNMEASURED), "{said:?}");
        let silent = node("osl-r1", None, None);
        let said = evidence(&[never, silent.clone()], &[], Duration::ZERO);
        assert_eq!(said[0], "unmeasured: osl-r1 does not say what still comes");
        let said = evidence(&[], &[&silent.node], Duration::ZERO);
        assert!(said[0].starts_with(UNMEASURED), "{said:?}");
    }

    #[test]
    fn rates_are_read_as_they_are_told() {
        assert_eq!(rates(&told(12, 3, "quiet for 0 s of 3 s")), Some((12, 3)));
        assert_eq!(rates("12/s to it, 3/s from it"), Some((12, 3)));
        assert_eq!(rates("has not reported for 40 s"), None);
    }

    #[test]
    fn what_was_told_long_ago_is_no_verdict() {
        let secs = Duration::from_secs;
        let mut quiet = node("osl-r1", Some("measured: 9 packets before"), None);
        // Its word stands, whatever became of it.
        quiet.silent = Silence::of(Some(secs(60)), secs(70));
        let mut gone = node("osl-b1", None, Some("12/s to it, 0/s from it"));
        gone.silent = Silence::of(Some(secs(40)), secs(70));
        let said = evidence(&[quiet.clone(), gone.clone()], &[], secs(70));
        assert_eq!(said[0], "unmeasured: osl-b1 has not reported for 40 s");
        assert!(said[2].starts_with("osl-b1, which has not reported for 40 s: 12/s"), "{said:?}");
        gone.silent = Silence::of(Some(secs(80)), secs(70));
        let comes = node("osl-r2", None, Some("3/s to it, 0/s from it"));
        let said = evidence(&[quiet, gone, comes], &[], secs(70));
        let words = "not drained: osl-r2 3/s to it, 0/s from it after 70 s; \
                     osl-b1 has not reported since the step began";
        assert_eq!(said[0], words);
    }

    #[test]
    fn a_node_is_silent_when_its_last_report_is_old_or_of_before_the_step() {
        let secs = Duration::from_secs;
        assert_eq!(Silence::of(Some(secs(2)), secs(60)), None);
        assert_eq!(Silence::of(Some(secs(12)), secs(60)), Some(Silence::Since(secs(12))));
        assert_eq!(Silence::of(Some(secs(12)), secs(8)), Some(Silence::SinceStart(secs(8))));
        // It may have reported a moment before the step began: it has time to report again.
        assert_eq!(Silence::of(Some(secs(2)), secs(1)), Some(Silence::SinceStart(secs(1))));
        assert_eq!(Silence::of(None, secs(8)), Some(Silence::SinceStart(secs(8))));
    }
}
