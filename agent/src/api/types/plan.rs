//! A plan as users see it: per step and node, the lines the agent logs when it acts.

use nett_policy::plan::{Op, Plan};
use serde::{Deserialize, Serialize};

use super::VerbDoc;
use super::task::is_zero;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanDoc {
    #[serde(rename = "request")]
    pub verb: VerbDoc,
    /// The first of the services that it moves, in order.
    pub services: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_services: u64,
    /// What an approval binds to.
    pub plan_hash: String,
    pub approvals_needed: u8,
    pub steps: Vec<PlanStep>,
    pub warnings: Vec<WarningDoc>,
    /// Rules that would refuse it; empty when it would be accepted now.
    pub refusals: Vec<RefusalDoc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// 1 is the first.
    pub number: u32,
    pub kind: String,
    /// The first of them, in order.
    pub services: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_services: u64,
    /// The nodes that must acknowledge before the next step.
    pub acknowledge: Vec<String>,
    /// Nodes that are said to be off and have a part in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<String>,
    /// Facts from outside without which it does not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<String>,
    /// What it means for connections: which stay, until when, and which end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    pub nodes: Vec<PlanNode>,
}

/// What one step does on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    pub node: String,
    pub site: String,
    /// The first of them, in the order in which they are done.
    pub ops: Vec<OpDoc>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_ops: u64,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpDoc {
    pub op: OpKind,
    /// `nexthop`, `route`, `rule`, `guard`, `drained` or `answers`.
    pub object: String,
    /// As the agent logs it.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpKind {
    Add,
    Replace,
    Delete,
}

/// Something to know that does not stop the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningDoc {
    /// `drift`, `view-age`, `fabric-mismatch` ...
    pub kind: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDoc {
    pub rule: String,
    /// Whom to ask; empty for built-in rules.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    pub message: String,
    /// The exact option that passes over the rule; absent when nothing does.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub override_with: Option<String>,
}

/// The lines of a plan. An operation on several set elements gives a line for each.
/// The first `most` lines of a plan, and how many more there are.
pub fn ops_of(plan: &Plan, most: usize) -> (Vec<OpDoc>, u64) {
    let mut ops = Vec::new();
    let mut more = 0;
    for op in &plan.ops {
        match most - ops.len() {
            0 => more += count(op),
            left => {
                let mut lines = lines(op);
                more += lines.len().saturating_sub(left);
                lines.truncate(left);
                ops.extend(lines);
            }
        }
    }
    (ops, u64::try_from(more).unwrap_or(u64::MAX))
}

/// How many lines [`lines`] would give.
fn count(op: &Op) -> usize {
    match op {
        Op::Elements { add, delete } => add.len() + delete.len(),
        Op::Classes { .. } => op.to_string().lines().count(),
        _ => 1,
    }
}

fn lines(op: &Op) -> Vec<OpDoc> {
    let object = match op {
        Op::AddNexthop(..) | Op::ReplaceNexthop { .. } | Op::DeleteNexthop(..) => "nexthop",
        Op::AddRoute(..) | Op::ReplaceRoute { .. } | Op::DeleteRoute(..) => "route",
        Op::AddRule(_) | Op::DeleteRule(_) => "rule",
        Op::LoadGuard { .. } | Op::DeleteGuard(_) => "guard",
        Op::Elements { .. } | Op::Classes { .. } => "element",
        Op::Answers { .. } => "answers",
    };
    let line = |text: &str| {
        let op = match text.as_bytes().first() {
            Some(b'+') => OpKind::Add,
            Some(b'-') => OpKind::Delete,
            _ => OpKind::Replace,
        };
        OpDoc { op, object: object.to_owned(), text: text.to_owned() }
    };
    op.to_string().lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use nett_policy::lower::object::{ClassNumber, GuardElement, GuardSet, Subject};

    use super::*;

    #[test]
    fn a_line_per_set_element_with_its_own_sign() {
        let vip = |text: &str| Subject::Vip(text.parse().expect("valid"));
        let element = |set, subject| GuardElement { set, subject };
        let plan = Plan {
            ops: vec![Op::Elements {
                add: [element(GuardSet::Drained, vip("10.99.0.1"))].into(),
                delete: [
                    element(GuardSet::ShutIn, vip("fd00:99::1")),
                    element(GuardSet::ShutOut, Subject::Class(ClassNumber(0xa3c))),
                ]
                .into(),
            }],
        };
        let (lines, more) = ops_of(&plan, 3);
        assert_eq!(more, 0);
        let found: Vec<(OpKind, &str)> = lines.iter().map(|l| (l.op, l.text.as_str())).collect();
        assert_eq!(
            found,
            [
                (OpKind::Add, "+ nft element inet nett drained4 { 10.99.0.1 }"),
                (OpKind::Delete, "- nft element inet nett shut_in6 { fd00:99::1 }"),
                (OpKind::Delete, "- nft element inet nett shut_out { 0x00000a3c }"),
            ]
        );
        let twice = Plan { ops: [plan.ops.clone(), plan.ops].concat() };
        assert_eq!(ops_of(&twice, 2), (lines[..2].to_vec(), 4), "what is left out is counted");
    }
}
