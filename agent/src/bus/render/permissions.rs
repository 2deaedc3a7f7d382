//! Who may publish and subscribe what at a site's server.
//!
//! Exactly what the adapter, `nettctl` and the mirrors use. Agents may make consumers, since they
//! read streams; operators may not, because the right to make one is the right to have the server
//! send stored messages to any subject. Permissions bind to whole tokens of a subject.

use nett_policy::fabric::{Fabric, Node, Operator, OperatorRole};
use nett_policy::id::SiteId;

use crate::bus::subject::{self, LOCAL_BUCKET, Replicated};

/// What never crosses a leaf connection: local subjects, and replicated ones, which move by mirror
/// only. Without this a message published here would be stored by another site's stream.
pub(super) const SITE_LOCAL: [&str; 4] = ["nett.l.>", "nett.r.>", "$KV.>", "$OBJ.>"];

/// Replies, mirrors, flow control and loop detection on a leaf connection.
const LEAF_PLUMBING: [&str; 8] =
    ["_INBOX.>", "_R_.>", "$JSC.R.>", "$JS.M.>", "$JS.S.>", "$JS.FC.>", "$JS.ACK.>", "$LDS.>"];

/// What a mirror asks of its origin.
const MIRROR_API: [&str; 6] = [
    "STREAM.INFO.{}",
    "CONSUMER.CREATE.{}",
    "CONSUMER.CREATE.{}.>",
    "CONSUMER.DELETE.{}.>",
    "CONSUMER.INFO.{}.>",
    "CONSUMER.MSG.NEXT.{}.>",
];

pub(in crate::bus) struct Permissions {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
    pub(super) subscribe_deny: Vec<String>,
    /// May answer what it was asked, wherever the answer goes.
    pub(super) responses: bool,
}

impl Permissions {
    /// All of it in one line, to be compared.
    pub(in crate::bus) fn line(&self) -> String {
        let Self { publish, subscribe, subscribe_deny, responses } = self;
        format!("{publish:?} {subscribe:?} {subscribe_deny:?} {responses}")
    }
}

/// What an agent asks of another site's streams, to read at the origin while the mirror lags.
const TAIL_API: [&str; 3] = ["STREAM.INFO.{}", "CONSUMER.CREATE.{}", "CONSUMER.CREATE.{}.>"];

/// One node's agent: speaks as its own site, and in `nett.r.state` as itself.
pub(in crate::bus) fn agent(fabric: &Fabric, node: &Node) -> Permissions {
    let (site, id) = (&node.site, &node.id);
    let mut publish = vec![
        format!("nett.l.hb.{site}.{id}"),
        format!("nett.l.obs.{site}.{id}.>"),
        format!("nett.l.evt.{site}.>"),
        subject::outside(site, "*"),
        Replicated::Log.subjects(site),
        subject::report(site, id),
        format!("$KV.{LOCAL_BUCKET}.>"),
    ];
    let mut subscribe = vec!["nett.l.>".to_owned(), format!("{}.>", subject::inbox(site))];
    if fabric.voters().next().is_some() {
        publish.push(format!("nett.x.beacon.*.{site}.*"));
    }
    if node.voter {
        publish.push(Replicated::Vote.subjects(site));
        subscribe.push(format!("nett.x.beacon.{site}.*.{id}"));
    }
    let api = ["STREAM.INFO.*", "CONSUMER.CREATE.*", "CONSUMER.CREATE.*.>"];
    publish.extend(api.map(|call| format!("$JS.API.{call}")));
    let own_log = Replicated::Log.stream(site);
    publish.push(format!("$JS.API.STREAM.MSG.GET.{own_log}"));
    publish.push("$JS.FC.>".to_owned());
    for other in fabric.other_sites(site) {
        let prefix = subject::domain_api(&other.id);
        for stream in [Replicated::Log, Replicated::State].map(|r| r.stream(&other.id)) {
            let call = |call: &str| format!("{prefix}.{}", call.replace("{}", &stream));
            publish.extend(TAIL_API.map(call));
        }
    }
    Permissions {
        publish,
        subscribe,
        subscribe_deny: vec![format!("{}.>", subject::OPERATOR_INBOX)],
        responses: true,
    }
}

/// An operator at this site: commands (not for viewers), facts and what it is asked from outside
/// (role gate), questions, and how the streams are.
pub(in crate::bus) fn operator(operator: &Operator, site: &SiteId) -> Permissions {
    let may_ask = operator.roles.iter().any(|role| *role != OperatorRole::Viewer);
    let mut publish = Vec::new();
    if may_ask {
        publish.push(subject::commands(site));
    }
    if operator.roles.contains(&OperatorRole::Gate) {
        publish.push(subject::facts(site));
    }
    publish.push(format!("nett.l.rpc.{site}.>"));
    publish.push("$JS.API.STREAM.INFO.*".to_owned());
    let mut subscribe =
        vec![format!("{}.>", subject::OPERATOR_INBOX), format!("nett.l.evt.{site}.>")];
    // What this one is asked and nobody else; a name that is no word of a subject is never asked.
    let word = operator.name.parse::<SiteId>().is_ok();
    if operator.roles.contains(&OperatorRole::Gate) && word {
        subscribe.push(subject::outside(site, &operator.name));
    }
    Permissions { publish, subscribe, subscribe_deny: Vec::new(), responses: false }
}

/// Another site's leaf connection, as accepted here: may speak as any site but this one, because
/// in a tree it relays for others; signatures stop it from using that.
pub(super) fn leaf(fabric: &Fabric, own: &SiteId) -> Permissions {
    let mut publish: Vec<String> =
        fabric.other_sites(own).map(|s| format!("nett.x.*.*.{}.>", s.id)).collect();
    let mut subscribe = vec!["nett.x.>".to_owned()];
    let mut shared: Vec<String> = LEAF_PLUMBING.map(str::to_owned).to_vec();
    for site in &fabric.sites {
        for stream in Replicated::ALL.map(|r| r.stream(&site.id)) {
            let prefix = subject::domain_api(&site.id);
            let call = |call: &str| format!("{prefix}.{}", call.replace("{}", &stream));
            shared.extend(MIRROR_API.map(call));
        }
    }
    publish.extend(shared.iter().cloned());
    subscribe.extend(shared);
    Permissions { publish, subscribe, subscribe_deny: Vec::new(), responses: false }
}

/// A list as the server's file format writes it. Subjects are made of ids and need no escapes.
pub(super) fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[ {} ]", quoted.join(", "))
}
