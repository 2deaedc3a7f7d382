//! `plan`: the very operations that the command would carry out, and what an approver should know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::fabric::{Fabric, Node};
use nett_policy::id::NodeId;
use nett_policy::log::entry::{Terms, Verb};
use nett_policy::plan::preview::{NodeViews, PreviewStep, preview};
use nett_policy::task::decide::{Proposal, Refusal, RefusalKind, propose};

use super::super::Controller;
use super::super::event::Now;
use super::{bad_request, ms};
use crate::api::types::{
    ApiError, ErrorCode, Payload, PlanDoc, PlanNode, PlanStep, RefusalDoc, TermsDoc, VerbDoc,
    WarningDoc, ops_of,
};

/// A view older than this is worth a warning.
const OLD_VIEW: Duration = Duration::from_secs(10);

// === impl Controller ===

impl Controller {
    pub(super) fn plan_doc(
        &self,
        doc: &VerbDoc,
        overrides: &BTreeSet<String>,
        terms: Option<&TermsDoc>,
        now: Now,
    ) -> Result<Payload, ApiError> {
        let verb = Verb::try_from(doc).map_err(|e| bad_request(e.to_string()))?;
        let terms = terms.map(Terms::try_from).transpose();
        let terms = terms.map_err(|e| bad_request(e.to_string()))?.unwrap_or_default();
        let mut overrides = overrides.clone();
        overrides.remove(crate::controller::UNHEARD_TARGET);
        let overrides = &overrides;
        let proposal = match propose(self.present(), &verb, overrides, &terms) {
            Ok(proposal) => proposal,
            Err(refusal) => {
                let asked = Asked { doc, verb: &verb, overrides, terms: &terms };
                return self.refused_plan(asked, refusal, now);
            }
        };
        let steps = self.planned_steps(&proposal);
        Ok(Payload::Plan(PlanDoc {
            verb: doc.clone(),
            services: proposal.services.iter().map(ToString::to_string).collect(),
            plan_hash: proposal.plan_hash.clone(),
            approvals_needed: proposal.approvals_needed,
            steps,
            warnings: self.warnings(now),
            refusals: Vec::new(),
        }))
    }

    /// A rule refuses: the plan says so, and what it would be with that rule passed over, where the
    /// rule can be passed over.
    fn refused_plan(
        &self,
        asked: Asked<'_>,
        refusal: Refusal,
        now: Now,
    ) -> Result<Payload, ApiError> {
        let Asked { doc, verb, overrides, terms } = asked;
        if refusal.kind == RefusalKind::Usage {
            let hint = refusal.hint.clone().unwrap_or_default();
            return Err(ApiError::new(ErrorCode::NotFound, refusal.message, &hint));
        }
        let mut overrides = overrides.clone();
        overrides.insert(refusal.refused_by.clone());
        let passed = propose(self.present(), verb, &overrides, terms).ok();
        let rule = self.setting.fabric.safety.iter().find(|r| r.id.as_str() == refusal.refused_by);
        let refusals = vec![RefusalDoc {
            rule: refusal.refused_by.clone(),
            owner: rule.map(|r| r.owner.clone()).unwrap_or_default(),
            message: refusal.message.clone(),
            override_with: passed.as_ref().map(|_| format!("--override {}", refusal.refused_by)),
        }];
        let services = passed.iter().flat_map(|p| &p.services).map(ToString::to_string).collect();
        Ok(Payload::Plan(PlanDoc {
            verb: doc.clone(),
            services,
            plan_hash: passed.as_ref().map(|p| p.plan_hash.clone()).unwrap_or_default(),
            approvals_needed: passed.as_ref().map_or(0, |p| p.approvals_needed),
            steps: passed.as_ref().map(|p| self.planned_steps(p)).unwrap_or_default(),
            warnings: self.warnings(now),
            refusals,
        }))
    }

    fn planned_steps(&self, proposal: &Proposal) -> Vec<PlanStep> {
        let links_up = |node: &NodeId| self.links_of(node);
        let neighbours = |node: &Node| self.neighbours_of(node);
        let layout = &self.setting.layout;
        let views = NodeViews { layout, links_up: &links_up, neighbours: &neighbours };
        let steps = preview(self.present(), proposal, &views).steps;
        steps.into_iter().map(|step| step_doc(step, &self.setting.fabric)).collect()
    }

    fn warnings(&self, now: Now) -> Vec<WarningDoc> {
        let mut warnings = Vec::new();
        let mut warn = |kind: &str, message: String| {
            warnings.push(WarningDoc { kind: kind.to_owned(), message });
        };
        if !self.peers.bus_connected {
            warn("local", "NATS is away: this node alone would take it, for itself".to_owned());
        }
        let own = self.fabric_ref();
        for node in &self.setting.fabric.nodes {
            if node.id == self.setting.node.id {
                continue;
            }
            let Some(heard) = self.peers.reports.get(&node.id) else {
                warn("view-age", format!("{} has never reported", node.id));
                continue;
            };
            let age = now.mono.saturating_sub(heard.at);
            if age > OLD_VIEW {
                warn("view-age", format!("{} reported {} s ago", node.id, age.as_secs()));
            }
            if heard.report.fabric != own {
                warn("fabric-mismatch", format!("{} runs another fabric", node.id));
            }
            for line in &heard.report.drift {
                warn("drift", format!("{}: {line}", node.id));
            }
        }
        warnings
    }
}

/// What a plan was asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    doc: &'a VerbDoc,
    verb: &'a Verb,
    overrides: &'a BTreeSet<String>,
    terms: &'a Terms,
}

fn step_doc(step: PreviewStep, fabric: &Fabric) -> PlanStep {
    let PreviewStep { number, kind, services, delay, required, owed, gates, old_answers, nodes } =
        step;
    let mut kind = kind.map_or("effect", |k| k.as_str()).to_owned();
    if !delay.is_zero() {
        kind = format!("{kind} after {} ms", ms(delay));
    }
    if let Some(old) = old_answers {
        kind = format!("{kind}; old DNS answers may live {} ms", ms(old));
    }
    let site_of: BTreeMap<&NodeId, String> =
        fabric.nodes.iter().map(|n| (&n.id, n.site.to_string())).collect();
    PlanStep {
        number,
        kind,
        services: services.iter().map(ToString::to_string).collect(),
        acknowledge: required.iter().map(ToString::to_string).collect(),
        owed: owed.iter().map(ToString::to_string).collect(),
        gates: gates.into_iter().collect(),
        nodes: nodes
            .iter()
            .map(|(node, plan)| PlanNode {
                node: node.to_string(),
                site: site_of.get(node).cloned().unwrap_or_default(),
                ops: ops_of(plan),
            })
            .collect(),
    }
}
