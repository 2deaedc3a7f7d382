//! `plan`: the very operations that the command would carry out, and what an approver should know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Fabric, Node};
use nett_policy::id::{NodeId, ServiceId, SiteId};
use nett_policy::log::entry::{Terms, Verb};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::Layout;
use nett_policy::lower::{LinksUp, Neighbours};
use nett_policy::plan::Plan;
use nett_policy::plan::preview::{Before, NodeViews, PreviewStep, preview};
use nett_policy::service::Catalog;
use nett_policy::task::decide::{Proposal, Refusal, RefusalKind, propose};

use super::super::effect::Effect;
use super::super::event::{Now, Token};
use super::super::{Controller, Setting};
use super::task::LISTED;
use super::{bad_request, ms};
use crate::api::types::{
    ApiError, ApiResponse, ErrorCode, Outcome, Payload, PlanDoc, PlanNode, PlanStep, RefusalDoc,
    TermsDoc, VerbDoc, WarningDoc, ops_of,
};

/// How many lines a plan shows of each node in each step.
const SHOWN: usize = 500;
/// A view older than this is worth a warning.
const OLD_VIEW: Duration = Duration::from_secs(10);

// === impl Controller ===

impl Controller {
    /// Answers what a command would do. Its steps are worked out elsewhere: with very many services
    /// they take seconds, in which this agent would hear and say nothing.
    pub(super) fn plan(
        &mut self,
        token: Token,
        (doc, overrides, terms): (&VerbDoc, &BTreeSet<String>, Option<&TermsDoc>),
        now: Now,
    ) {
        match self.plan_doc(doc, overrides, terms, now) {
            Err(error) => self.respond(token, error.into(), now),
            Ok((doc, None)) => self.respond(token, Payload::Plan(doc).into(), now),
            Ok((doc, Some(proposal))) => {
                let response = self.envelope(Payload::Plan(doc).into(), now);
                let planning = self.planning(proposal);
                self.effects.push(Effect::Plan {
                    token,
                    response: Box::new(response),
                    planning: Box::new(planning),
                });
            }
        }
    }

    fn plan_doc(
        &self,
        doc: &VerbDoc,
        overrides: &BTreeSet<String>,
        terms: Option<&TermsDoc>,
        now: Now,
    ) -> Result<Planned, ApiError> {
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
        let (services, more_services) = listed(&proposal.services);
        let doc = PlanDoc {
            verb: doc.clone(),
            services,
            more_services,
            plan_hash: proposal.plan_hash.clone(),
            approvals_needed: proposal.approvals_needed,
            steps: Vec::new(),
            warnings: self.warnings(now),
            refusals: Vec::new(),
        };
        Ok((doc, Some(proposal)))
    }

    /// A rule refuses: the plan says so, and what it would be with that rule passed over, where the
    /// rule can be passed over.
    fn refused_plan(
        &self,
        asked: Asked<'_>,
        refusal: Refusal,
        now: Now,
    ) -> Result<Planned, ApiError> {
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
            message: match &refusal.hint {
                Some(hint) => format!("{}; {hint}", refusal.message),
                None => refusal.message.clone(),
            },
            override_with: passed.as_ref().map(|_| format!("--override {}", refusal.refused_by)),
        }];
        let (services, more_services) =
            passed.as_ref().map(|p| listed(&p.services)).unwrap_or_default();
        let doc = PlanDoc {
            verb: doc.clone(),
            services,
            more_services,
            plan_hash: passed.as_ref().map(|p| p.plan_hash.clone()).unwrap_or_default(),
            approvals_needed: passed.as_ref().map_or(0, |p| p.approvals_needed),
            steps: Vec::new(),
            warnings: self.warnings(now),
            refusals,
        };
        Ok((doc, passed))
    }

    /// Everything that the steps of the plan follow from, as it is now.
    fn planning(&self, proposal: Proposal) -> Planning {
        let Setting { fabric, catalog, layout, node, .. } = &self.setting;
        let of_node = |node: &Node| {
            let sees = (self.links_of(&node.id), self.neighbours_of(node));
            (node.id.clone(), sees)
        };
        Planning {
            fabric: Arc::clone(fabric),
            catalog: Arc::clone(catalog),
            intent: self.intent.clone(),
            home: node.site.clone(),
            layout: layout.clone(),
            views: fabric.nodes.iter().map(of_node).collect(),
            proposal,
        }
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

/// A plan that has no steps yet, and what they follow from.
type Planned = (PlanDoc, Option<Proposal>);

/// The steps of a plan that are still to be worked out.
#[derive(Debug)]
pub struct Planning {
    fabric: Arc<Fabric>,
    catalog: Arc<Catalog>,
    intent: Intent,
    home: SiteId,
    layout: Layout,
    /// What each node sees.
    views: BTreeMap<NodeId, (LinksUp, Neighbours)>,
    proposal: Proposal,
}

impl Planning {
    /// Puts the steps into the answer. With very many services this takes seconds.
    pub fn finish(self, response: &mut ApiResponse) {
        let Outcome::Ok(payload) = &mut response.outcome else { return };
        let Payload::Plan(doc) = &mut **payload else { return };
        let world = World { fabric: &self.fabric, catalog: &self.catalog };
        let before = Before { world, intent: &self.intent, home: &self.home };
        let view = |node: &NodeId| self.views.get(node).cloned().unwrap_or_default();
        let views = NodeViews {
            layout: &self.layout,
            links_up: &|node| view(node).0,
            neighbours: &|node| view(&node.id).1,
        };
        let steps = preview(before, &self.proposal, &views).steps;
        doc.steps = steps.into_iter().map(|step| step_doc(step, &self.fabric)).collect();
    }
}

/// The first ones by name, and how many more there are.
fn listed<'a>(
    services: impl IntoIterator<Item = &'a ServiceId, IntoIter: ExactSizeIterator>,
) -> (Vec<String>, u64) {
    let services = services.into_iter();
    let more = services.len().saturating_sub(LISTED);
    let shown = services.take(LISTED).map(ToString::to_string).collect();
    (shown, u64::try_from(more).unwrap_or(u64::MAX))
}

fn step_doc(step: PreviewStep, fabric: &Fabric) -> PlanStep {
    let PreviewStep {
        number,
        kind,
        services,
        delay,
        required,
        owed,
        gates,
        old_answers,
        remarks,
        nodes,
    } = step;
    let mut kind = kind.map_or("effect", |k| k.as_str()).to_owned();
    if !delay.is_zero() {
        kind = format!("{kind} after {} ms", ms(delay));
    }
    if let Some(old) = old_answers {
        kind = format!("{kind}; old DNS answers may live {} ms", ms(old));
    }
    let site_of: BTreeMap<&NodeId, String> =
        fabric.nodes.iter().map(|n| (&n.id, n.site.to_string())).collect();
    let (services, more_services) = listed(&services);
    let node_doc = |(node, plan): (&NodeId, &Plan)| {
        let (ops, more_ops) = ops_of(plan, SHOWN);
        let site = site_of.get(node).cloned().unwrap_or_default();
        PlanNode { node: node.to_string(), site, ops, more_ops }
    };
    PlanStep {
        number,
        kind,
        services,
        more_services,
        acknowledge: required.iter().map(ToString::to_string).collect(),
        owed: owed.iter().map(ToString::to_string).collect(),
        gates: gates.into_iter().collect(),
        remarks,
        nodes: nodes.iter().map(node_doc).collect(),
    }
}
