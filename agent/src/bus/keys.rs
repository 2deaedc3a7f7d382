//! Whose logins a nats-server knows, and whose it should.
//!
//! A server learns keys from its file alone, when it starts or reads the file again. The file that
//! `nettctl bus render` writes therefore carries a tag that stands for all keys and permissions in
//! it; the server repeats the tag of the file it last read to whoever may ask. So what a server
//! knows can be compared without a look at its disk. Nothing here changes anything.

use std::time::Duration;

use async_nats::Client;
use nett_policy::fabric::Fabric;
use nett_policy::id::{SiteId, sha256_hex};
use serde_json::Value;

use super::provision::{Finding, Outcome};
use super::render::permissions;

/// How the tag begins.
const TAG: &str = "nett-keys:";
/// For the server's answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Who is logged in, as the admin of the account may ask. Servers of the 2.9 line do not answer any
/// more once they have read their file again.
const OF_ACCOUNT: &str = "$SYS.REQ.ACCOUNT.PING.CONNZ";
/// The same, as the system account may ask.
const OF_SERVER: &str = "$SYS.REQ.SERVER.PING.CONNZ";

/// A key that counts no more, and whose it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub person: String,
    pub key: String,
}

/// The fabric without people whose keys count no more, for the files of servers.
pub fn without(fabric: &Fabric, gone: &[Gone]) -> Fabric {
    let counts = |key: &str| gone.iter().all(|one| one.key != key);
    let operators = fabric.operators.iter().filter(|one| counts(&one.key)).cloned().collect();
    Fabric { operators, ..fabric.clone() }
}

/// Stands for everything that decides who may log in at a site's server and do what.
pub fn tag(fabric: &Fabric, site: &SiteId) -> String {
    let mut lines = vec![
        format!("admin {}", fabric.bus.admin.as_deref().unwrap_or_default()),
        format!("system {}", fabric.bus.system.as_deref().unwrap_or_default()),
    ];
    for node in fabric.nodes.iter().filter(|node| node.site == *site) {
        lines.push(format!("{} {}", node.key, permissions::agent(fabric, node).line()));
    }
    for operator in &fabric.operators {
        lines.push(format!("{} {}", operator.key, permissions::operator(operator, site).line()));
    }
    for other in fabric.other_sites(site) {
        lines.push(format!("{} {}", other.id, other.leaf_key.as_deref().unwrap_or_default()));
    }
    lines.sort();
    format!("{TAG}{}", &sha256_hex(lines.join("\n").as_bytes())[..32])
}

/// Compares the keys that the server knows with those that count. `as_system`: the client is logged
/// in with the key of the system account.
pub async fn look(
    client: &Client,
    as_system: bool,
    (fabric, site): (&Fabric, &SiteId),
    gone: &[Gone],
) -> Finding {
    let subject = if as_system { OF_SERVER } else { OF_ACCOUNT };
    let body = r#"{"auth":true,"limit":4096}"#;
    let asked = tokio::time::timeout(ANSWER, client.request(subject, body.into())).await;
    let answer = match asked {
        Ok(Ok(answer)) => serde_json::from_slice::<Value>(&answer.payload).ok(),
        Ok(Err(_)) | Err(_) => None,
    };
    let finding = |outcome| Finding {
        stream: "(keys)".to_owned(),
        purpose: "who may log in".to_owned(),
        outcome,
    };
    let Some(answer) = answer else {
        let way = if as_system { "" } else { ": give --system-key" };
        return finding(Outcome::Stays(format!(
            "the server does not say which keys it knows{way}"
        )));
    };
    finding(judge(&answer, &tag(&without(fabric, gone), site), gone))
}

fn judge(answer: &Value, expected: &str, gone: &[Gone]) -> Outcome {
    let words = |value: &Value| value.as_str().map(str::to_owned);
    let tags = answer["server"]["tags"].as_array();
    let found = tags.into_iter().flatten().filter_map(words).find(|tag| tag.starts_with(TAG));
    let mut wrong = Vec::new();
    match found {
        Some(found) if found == expected => {}
        Some(_) => wrong.push(
            "the server knows other keys than those that count: write its file with `nettctl bus \
             render`, then `nats-server --signal reload`"
                .to_owned(),
        ),
        None => wrong.push(
            "the server's file does not say which keys are in it: write it with `nettctl bus \
             render` of this release, then `nats-server --signal reload`"
                .to_owned(),
        ),
    }
    for connection in answer["data"]["connections"].as_array().into_iter().flatten() {
        let user = connection["authorized_user"].as_str().unwrap_or_default();
        if let Some(Gone { person, key }) = gone.iter().find(|one| one.key == user) {
            let from = connection["ip"].as_str().unwrap_or("an unknown address");
            wrong.push(format!("{person} is logged in from {from} with the revoked key {key}"));
        }
    }
    if wrong.is_empty() { Outcome::Same } else { Outcome::Differs(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_held_against_what_counts() {
        let gone = [Gone { person: "mira".to_owned(), key: "UMIRA".to_owned() }];
        let says = |tags: &str, user: &str| {
            let connections = serde_json::json!([{ "authorized_user": user, "ip": "10.0.0.9" }]);
            let answer = serde_json::json!({
                "server": { "tags": [tags] }, "data": { "connections": connections },
            });
            match judge(&answer, "nett-keys:new", &gone) {
                Outcome::Same => Vec::new(),
                Outcome::Differs(what) => what,
                other => panic!("{other:?}"),
            }
        };
        assert!(says("nett-keys:new", "UJON").is_empty());
        assert!(says("nett-keys:old", "UJON")[0].contains("--signal reload"));
        assert!(says("rack:7", "UJON")[0].contains("does not say which keys"));
        let still = says("nett-keys:new", "UMIRA");
        assert_eq!(still, ["mira is logged in from 10.0.0.9 with the revoked key UMIRA"]);
    }
}
