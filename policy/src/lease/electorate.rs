//! Who votes: the present generation of voters, and the one before it.
//!
//! A *generation* is a number for one set of voters with one pair of times (T, W). It changes by
//! one step at a time: a voter more, a voter less, or other times. So the generation before follows
//! from a file of the present one alone, and any majority of the one meets any majority of the
//! other (adr/0062). What a file says of its generation are its [`Terms`]; a node keeps them on
//! disk *before* it uses them, and uses no other terms of the same number ever after. Here is no
//! clock and no state, so a crash leaves nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Voters, quorum_of};
use crate::fabric::{Fabric, Lease, VoterChange};
use crate::id::{Generation, NodeId, SiteId};

/// The voters of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Electorate {
    pub generation: Generation,
    /// The sites; each has exactly one voter.
    pub voters: BTreeSet<SiteId>,
}

/// What a file says of the voters: those of its generation and those of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Electorates {
    pub present: Electorate,
    /// The generation before; `None` in generation 1.
    pub former: Option<Electorate>,
    /// How they differ.
    pub change: VoterChange,
    /// T and W of the present generation, as written.
    pub lease: Lease,
    /// The node that votes for each site of either generation.
    pub nodes: BTreeMap<SiteId, NodeId>,
}

/// What two files of one generation must agree in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub generation: Generation,
    pub voters: BTreeMap<SiteId, NodeId>,
    /// T and W as written, whatever they were before.
    pub lease: Lease,
}

/// How a file compares with terms that were used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The same generation on the same terms.
    Same,
    /// The generation after it, one step away.
    Next,
    /// Two generations or more after it; what was in between is not known here.
    Further,
    /// A generation before it.
    Older,
}

/// A file that must not be used beside terms that were used before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsRefused {
    #[error(
        "generation {generation} of the voters was used with other terms: then {was}, now {is}; \
         give this change the next number once all run that one"
    )]
    Other { generation: Generation, was: String, is: String },
    #[error(
        "generation {generation} of the voters does not follow the one before it: that had {was}, \
         and this file says that it had {says}; change one voter, or the lease, at a time"
    )]
    NotOneStep { generation: Generation, was: String, says: String },
}

// === impl Electorate ===

impl Electorate {
    pub fn quorum(&self) -> usize {
        quorum_of(self.voters.len())
    }

    /// These sites by their places; those without a voter have none.
    pub fn places(&self, sites: &BTreeSet<SiteId>) -> Voters {
        let places = (0..).zip(&self.voters).filter(|(_, voter)| sites.contains(*voter));
        Voters::of(places.map(|(place, _)| place))
    }

    /// The voters of all other sites.
    pub fn without(&self, sites: &BTreeSet<SiteId>) -> BTreeSet<SiteId> {
        self.voters.difference(sites).cloned().collect()
    }
}

// === impl Electorates ===

impl Electorates {
    /// Of a generation that none is known before.
    pub fn first(present: Electorate) -> Self {
        Self {
            present,
            former: None,
            change: VoterChange::First,
            lease: Lease::default(),
            nodes: BTreeMap::new(),
        }
    }

    pub fn of(fabric: &Fabric) -> Self {
        let step = &fabric.voter_step;
        let generation = step.generation;
        let mut nodes: BTreeMap<SiteId, NodeId> =
            fabric.voters().map(|node| (node.site.clone(), node.id.clone())).collect();
        let voters: BTreeSet<SiteId> = nodes.keys().cloned().collect();
        let mut before = voters.clone();
        let site_of = |node: &NodeId| fabric.node(node).map(|node| node.site.clone());
        match &step.change {
            VoterChange::Added(node) => {
                before.retain(|site| Some(site) != site_of(node).as_ref());
            }
            VoterChange::Removed(node) => {
                nodes.extend(site_of(node).map(|site| (site, node.clone())));
                before.extend(site_of(node));
            }
            VoterChange::First | VoterChange::Lease(_) => {}
        }
        let former = match &step.change {
            VoterChange::First => None,
            _ => Some(Electorate { generation: generation.before(), voters: before }),
        };
        Self {
            present: Electorate { generation, voters },
            former,
            change: step.change.clone(),
            lease: step.lease,
            nodes,
        }
    }

    /// The electorate of a generation, if it is one of the two.
    pub fn get(&self, generation: Generation) -> Option<&Electorate> {
        let mut both = std::iter::once(&self.present).chain(&self.former);
        both.find(|electorate| electorate.generation == generation)
    }

    /// Whether a site votes in either generation.
    pub fn has(&self, site: &SiteId) -> bool {
        let is_in = |electorate: &Electorate| electorate.voters.contains(site);
        is_in(&self.present) || self.former.as_ref().is_some_and(is_in)
    }

    /// The sites that vote in either generation: who is asked, and whose votes are read.
    pub fn all(&self) -> BTreeSet<SiteId> {
        let former = self.former.iter().flat_map(|former| &former.voters);
        self.present.voters.iter().chain(former).cloned().collect()
    }

    /// The sites that vote in both generations.
    pub fn both(&self) -> BTreeSet<SiteId> {
        let in_former =
            |site: &&SiteId| self.former.as_ref().is_none_or(|f| f.voters.contains(*site));
        self.present.voters.iter().filter(in_former).cloned().collect()
    }

    /// The node that votes for a site in either generation.
    pub fn node_of(&self, site: &SiteId) -> Option<&NodeId> {
        self.nodes.get(site)
    }

    /// The site that this generation added.
    pub fn added(&self) -> Option<&SiteId> {
        let VoterChange::Added(node) = &self.change else { return None };
        self.nodes.iter().find(|(_, voter)| *voter == node).map(|(site, _)| site)
    }

    /// The site that this generation removed.
    pub fn removed(&self) -> Option<&SiteId> {
        let VoterChange::Removed(node) = &self.change else { return None };
        self.nodes.iter().find(|(_, voter)| *voter == node).map(|(site, _)| site)
    }

    /// What belongs on the disk before anything of this is used.
    pub fn terms(&self) -> Terms {
        self.terms_of(&self.present, self.lease)
    }

    /// The terms of the generation before, as far as they follow from this file.
    pub fn terms_before(&self) -> Option<Terms> {
        let lease = match &self.change {
            VoterChange::Lease(before) => *before,
            _ => self.lease,
        };
        self.former.as_ref().map(|former| self.terms_of(former, lease))
    }

    fn terms_of(&self, electorate: &Electorate, lease: Lease) -> Terms {
        let is_one = |(site, _): &(&SiteId, &NodeId)| electorate.voters.contains(*site);
        let voters = self.nodes.iter().filter(is_one);
        let voters = voters.map(|(site, node)| (site.clone(), node.clone())).collect();
        Terms { generation: electorate.generation, voters, lease }
    }

    /// Compares the file with terms that were used before. To be called with every terms that the
    /// disk has. Errors: the file must not be used for leases.
    pub fn against(&self, used: &Terms) -> Result<Step, TermsRefused> {
        let (generation, terms) = (self.present.generation, self.terms());
        let before = self.terms_before();
        match before {
            _ if used.generation == generation && *used == terms => Ok(Step::Same),
            _ if used.generation == generation => {
                let (was, is) = (used.to_string(), terms.to_string());
                Err(TermsRefused::Other { generation, was, is })
            }
            Some(before) if used.generation == before.generation => match before == *used {
                true => Ok(Step::Next),
                false => {
                    let (was, says) = (used.to_string(), before.to_string());
                    Err(TermsRefused::NotOneStep { generation, was, says })
                }
            },
            _ if used.generation > generation => Ok(Step::Older),
            _ => Ok(Step::Further),
        }
    }
}

// === impl Terms ===

impl std::fmt::Display for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let voters: Vec<String> =
            self.voters.iter().map(|(site, node)| format!("{site}/{node}")).collect();
        let Lease { duration, wait } = self.lease;
        let (duration, wait) = (duration.as_millis(), wait.as_millis());
        write!(f, "voters {}, lease {duration} ms, wait {wait} ms", voters.join(", "))
    }
}
