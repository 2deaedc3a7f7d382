//! The one home of every subject, stream and header name on the bus.
//!
//! A subject's first two tokens are its class: `nett.l` never leaves a site, `nett.r` moves only by
//! mirror, `nett.x` crosses live. Server permissions bind to whole tokens, so every name is built
//! here from ids that are valid tokens by construction, and nowhere else.

use nett_policy::id::{NodeId, Selector, ServiceId, SiteId};
use nett_policy::log::conflict::Contested;
use nett_policy::log::entry::{Ask, Body, Object, Request, Slot, Verb};

/// Commands to the agents of a site share this queue group: one of them answers.
pub const QUEUE_GROUP: &str = "nett";
/// The inbox prefix of operators, on every site.
pub const OPERATOR_INBOX: &str = "_INBOX.op";
/// The site-local key-value bucket.
pub const LOCAL_BUCKET: &str = "nett_local";

/// The kind of a checkpoint, where entries have theirs.
pub const CHECKPOINT: &str = "checkpoint";

/// Header: the author's site.
pub const HEADER_SITE: &str = "Nett-Site";
/// Header: the entry's kind.
pub const HEADER_KIND: &str = "Nett-Kind";
/// Header: the highest epoch the entry writes; absent when it writes none.
pub const HEADER_EPOCH: &str = "Nett-Epoch";
/// Header: when the embedded request expires; absent without a request.
pub const HEADER_EXPIRES: &str = "Nett-Expires";
/// Header: the lowest envelope version whose reader understands the entry.
pub const HEADER_MIN_READER: &str = "Nett-Min-Reader";

/// The replicated streams of a site. Each has one writer site and a mirror at every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replicated {
    Log,
    Vote,
    State,
}

impl Replicated {
    pub const ALL: [Self; 3] = [Self::Log, Self::Vote, Self::State];

    fn tag(self) -> &'static str {
        match self {
            Self::Log => "LOG",
            Self::Vote => "VOTE",
            Self::State => "STATE",
        }
    }

    /// `NETT_LOG_OSL`: the same name at the origin and at every mirror.
    pub fn stream(self, site: &SiteId) -> String {
        format!("NETT_{}_{}", self.tag(), upper(site))
    }

    /// What the origin's stream stores.
    pub fn subjects(self, site: &SiteId) -> String {
        match self {
            Self::Log => format!("nett.r.log.{site}.>"),
            Self::Vote => format!("nett.r.vote.{site}"),
            Self::State => format!("nett.r.state.{site}.>"),
        }
    }
}

fn upper(site: &SiteId) -> String {
    site.as_str().to_ascii_uppercase()
}

/// Commands from other sites, stored where they are to be executed.
pub fn command_stream(site: &SiteId) -> String {
    format!("NETT_CMD_{}", upper(site))
}

/// Observations of a site: memory, one hour.
pub fn observation_stream(site: &SiteId) -> String {
    format!("NETT_OBS_{}", upper(site))
}

/// The stream behind [`LOCAL_BUCKET`].
pub fn local_bucket_stream() -> String {
    format!("KV_{LOCAL_BUCKET}")
}

/// The prefix of the JetStream API in the domain of `site`, reached over leaf connections.
pub fn domain_api(site: &SiteId) -> String {
    format!("$JS.{site}.API")
}

/// Where outside reporters say what they measured, to all agents of `site`.
pub fn facts(site: &SiteId) -> String {
    format!("nett.l.fact.{site}.>")
}

/// One fact, about a service or about none: `nett.l.fact.SITE.SERVICE.NAME`.
pub fn fact(site: &SiteId, service: Option<&ServiceId>, name: &str) -> String {
    let about = service.map_or_else(|| "all".to_owned(), ServiceId::token);
    format!("nett.l.fact.{site}.{about}.{name}")
}

/// Where an operator who takes part in tasks from outside is asked at `site`.
pub fn outside(site: &SiteId, party: &str) -> String {
    format!("nett.l.ext.{site}.{party}")
}

/// Where an agent of `site` receives replies.
pub fn inbox(site: &SiteId) -> String {
    format!("_INBOX.{site}")
}

/// Where agents of `site` take commands.
pub fn commands(site: &SiteId) -> String {
    format!("nett.l.cmd.{site}.>")
}

/// Where one agent answers questions.
pub fn rpc_of(site: &SiteId, node: &NodeId) -> String {
    format!("nett.l.rpc.{site}.{node}.>")
}

/// Where any one agent of `site` answers questions: they share a queue group.
pub fn rpc_any(site: &SiteId) -> String {
    format!("nett.l.rpc.{site}.any.>")
}

/// One question to one agent, for example `status`.
pub fn rpc(site: &SiteId, node: &NodeId, operation: &str) -> String {
    format!("nett.l.rpc.{site}.{node}.{operation}")
}

/// The checkpoint of a site's log, written by one of its nodes into the log's own stream.
pub fn preface(site: &SiteId, node: &NodeId) -> String {
    format!("nett.r.log.{site}.{CHECKPOINT}.{node}")
}

/// The checkpoints of a site's log, whoever wrote them.
pub fn prefaces(site: &SiteId) -> String {
    format!("nett.r.log.{site}.{CHECKPOINT}.*")
}

/// True when what is stored under this subject of a log is no entry but a checkpoint.
pub fn is_preface(subject: &str) -> bool {
    subject.split('.').nth(4) == Some(CHECKPOINT)
}

/// The last state of one node.
pub fn report(site: &SiteId, node: &NodeId) -> String {
    format!("nett.r.state.{site}.{node}")
}

/// The votes of a site's voter.
pub fn votes(site: &SiteId) -> String {
    Replicated::Vote.subjects(site)
}

/// What a node of `from` asks the voter of `to`.
pub fn beacon(to: &SiteId, from: &SiteId, voter: &NodeId) -> String {
    format!("nett.x.beacon.{to}.{from}.{voter}")
}

/// Where a request is sent at its own site: `nett.l.cmd.SITE.VERB.KIND.ID`.
pub fn request(request: &Request) -> String {
    format!("nett.l.cmd.{}.{}", request.site, request_tail(request))
}

/// `VERB.KIND.ID` of a request; the last tokens of every subject it may be sent to.
pub fn request_tail(request: &Request) -> String {
    match &request.ask {
        Ask::Command { verb, .. } => format!("{}.{}", verb.name(), about(verb)),
        Ask::Wish { task, kind } => format!("{}.task.{}", kind.name(), task.token()),
    }
}

/// `KIND.ID` of what a verb is about.
fn about(verb: &Verb) -> String {
    match verb {
        Verb::Failover { services, to: _ } | Verb::Steer { services, to: _ } => {
            format!("service.{}", selector_token(services))
        }
        Verb::Failback { services } | Verb::Hold { services } | Verb::Release { services } => {
            format!("service.{}", selector_token(services))
        }
        Verb::Drain { object } | Verb::Undrain { object } => about_object(object),
        Verb::Evacuate { site, to: _ } => format!("site.{site}"),
        Verb::Revert { task } => format!("task.{}", task.token()),
        Verb::Resolve { subject, to: _ } => match subject {
            Contested::Service(service) | Contested::Held(service) => {
                format!("service.{}", service.token())
            }
            Contested::Drained(object) => about_object(object),
            Contested::Revoked(key) => format!("key.{}", key.to_ascii_lowercase()),
        },
        // A name need not be a word of a subject.
        Verb::Revoke { person: _ } => "key.many".to_owned(),
    }
}

fn about_object(object: &Object) -> String {
    match object {
        Object::Site(site) => format!("site.{site}"),
        Object::ServiceAt(service, _) => format!("service.{}", service.token()),
        Object::Node(node) => format!("node.{node}"),
        Object::Link(link) => format!("link.{link}"),
        Object::Cluster(cluster) => {
            format!("cluster.{}", cluster.as_str().replace('/', "~"))
        }
    }
}

/// The id of the one service a selector names, or `many`: the members are in the body.
fn selector_token(selector: &Selector) -> String {
    if selector.is_exact() { selector.as_str().replace('/', "~") } else { "many".to_owned() }
}

/// The kind of an entry, as written in its envelope, its subject and its header.
pub fn entry_kind(body: &Body) -> &'static str {
    match body {
        Body::Command(_) => "command",
        Body::Refused(_) => "refused",
        Body::Wish(wish) => match &wish.request.ask {
            Ask::Wish { kind, .. } => kind.name(),
            Ask::Command { .. } => "wish",
        },
        Body::Effective(_) => "effective",
        Body::Step(_) => "step",
        Body::Turn(_) => "turn",
        Body::Withdrawn(_) => "withdrawn",
        Body::End(_) => "end",
        Body::Adopt(_) => "adopt",
    }
}

/// Where an entry is stored: `nett.r.log.SITE.KIND.SUBJECT`.
pub fn entry(site: &SiteId, body: &Body) -> String {
    format!("nett.r.log.{site}.{}.{}", entry_kind(body), entry_about(body))
}

fn entry_about(body: &Body) -> String {
    let of_slot = |slot: &Slot| slot.task.token();
    match body {
        Body::Command(command) => request_about(&command.request),
        Body::Refused(refused) => request_about(&refused.request),
        Body::Wish(wish) => request_about(&wish.request),
        Body::Effective(fact) => of_slot(&fact.slot),
        Body::Step(fact) => of_slot(&fact.slot),
        Body::Turn(fact) => of_slot(&fact.slot),
        Body::Withdrawn(withdrawn) => one_or_many(withdrawn.services.keys()),
        Body::End(fact) => of_slot(&fact.slot),
        Body::Adopt(fact) => of_slot(&fact.slot),
    }
}

/// The id of a lone service, or `many`: the members are in the body.
fn one_or_many<'a>(mut services: impl Iterator<Item = &'a ServiceId>) -> String {
    match (services.next(), services.next()) {
        (Some(one), None) => one.token(),
        _ => "many".to_owned(),
    }
}

fn request_about(request: &Request) -> String {
    let tail = request_tail(request);
    let (_, id) = tail.rsplit_once('.').expect("a tail has three tokens");
    id.to_owned()
}

/// The highest epoch an entry writes.
pub fn entry_epoch(body: &Body) -> Option<u64> {
    let effect = match body {
        Body::Command(command) => command.effect.as_ref()?,
        Body::Effective(fact) => &fact.effect,
        Body::Refused(_)
        | Body::Wish(_)
        | Body::Step(_)
        | Body::Turn(_)
        | Body::Withdrawn(_)
        | Body::End(_)
        | Body::Adopt(_) => return None,
    };
    effect.writes.iter().map(|write| write.epoch.0).max()
}
