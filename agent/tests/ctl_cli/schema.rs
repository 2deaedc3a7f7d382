//! The printed schema fits what is printed: judged by a small validator of the words it uses.

use nett_agent::api::codec;
use nett_agent::api::types::{ApiRequest, ObjectDoc, TermsDoc, VerbDoc};
use serde_json::{Value, json};

use crate::harness::{Ran, World, canned, nettctl};

fn schema() -> Value {
    let mut command = nettctl();
    command.arg("schema");
    let ran = Ran::of(command);
    ran.exits(0);
    serde_json::from_str(&ran.out).expect("the schema is JSON")
}

/// The first way in which `value` does not fit; members the schema does not name are a misfit too,
/// so that a member nobody described is found here.
fn misfit(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").expect("a local reference");
        assert!(!root["$defs"][name].is_null(), "no definition {name}");
        return misfit(root, &root["$defs"][name], value, at);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let found: Vec<String> =
            options.iter().filter_map(|option| misfit(root, option, value, at)).collect();
        let fits = options.len() - found.len();
        return (fits != 1).then(|| format!("{at}: {fits} of oneOf fit: {found:?}"));
    }
    if schema.get("const").is_some_and(|c| c != value) {
        return Some(format!("{at}: {value} is not {}", schema["const"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Some(format!("{at}: {value} is not one of {words:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.contains(&json!(kind)),
        one => *one == kind,
    };
    if !allowed {
        return Some(format!("{at}: {kind} where {} is due", schema["type"]));
    }
    match value {
        Value::Array(items) => {
            let check = |(nth, item): (usize, &Value)| {
                misfit(root, &schema["items"], item, &format!("{at}[{nth}]"))
            };
            items.iter().enumerate().find_map(check)
        }
        Value::Object(members) if schema["properties"].is_object() => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let missing = required.iter().find(|name| {
                let name = name.as_str().expect("names are texts");
                !members.contains_key(name)
            });
            if let Some(name) = missing {
                return Some(format!("{at}: no {name}"));
            }
            members.iter().find_map(|(name, member)| {
                let below = format!("{at}.{name}");
                match schema["properties"].get(name) {
                    None => Some(format!("{below}: not described")),
                    Some(schema) => misfit(root, schema, member, &below),
                }
            })
        }
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            let below = format!("{at}.{name}");
            misfit(root, &schema["additionalProperties"], member, &below)
        }),
        _ => None,
    }
}

#[test]
fn every_answer_fits_the_schema() {
    let schema = schema();
    let answer = json!({"$ref": "#/$defs/answer"});
    let ops = [
        "identify",
        "status",
        "services",
        "service",
        "sites",
        "site",
        "nodes",
        "links",
        "tasks",
        "task",
        "plan",
        "plan-refused",
        "explain-name",
        "audit",
        "command",
        "error",
    ];
    for op in ops {
        let value = canned(op);
        assert_eq!(misfit(&schema, &answer, &value, op), None);
        // And the types lose nothing of it.
        let read = crate::harness::response(value.clone());
        let again = serde_json::to_value(&read).expect("JSON");
        assert_eq!(again, value, "{op}");
    }
    let mut wrong = canned("status");
    wrong["ok"]["sites"][0]["rank"] = json!("first");
    assert!(misfit(&schema, &answer, &wrong, "status").is_some());
}

#[test]
fn every_call_fits_the_schema() {
    let schema = schema();
    let text = || "shop/prod/api".to_owned();
    let verbs = [
        VerbDoc::Failover { services: text(), to: "svg".to_owned() },
        VerbDoc::Failback { services: text() },
        VerbDoc::Steer { services: text(), to: [("osl".to_owned(), 70)].into() },
        VerbDoc::Drain {
            object: ObjectDoc { site: Some("osl".to_owned()), ..ObjectDoc::default() },
        },
        VerbDoc::Undrain {
            object: ObjectDoc {
                site: Some("osl".to_owned()),
                service: Some(text()),
                ..ObjectDoc::default()
            },
        },
        VerbDoc::Evacuate { site: "osl".to_owned(), to: Some("svg".to_owned()) },
        VerbDoc::Hold { services: text() },
        VerbDoc::Release { services: text() },
        VerbDoc::Revert { task: text() },
        VerbDoc::Resolve { subject: text(), to: None },
        VerbDoc::Revoke { person: text() },
    ];
    let mut requests = vec![
        ApiRequest::Identify { key: Some(text()) },
        ApiRequest::Identify { key: None },
        ApiRequest::Status {},
        ApiRequest::Services { selector: Some(text()) },
        ApiRequest::Service { id: text() },
        ApiRequest::Sites {},
        ApiRequest::Site { id: text() },
        ApiRequest::Nodes {},
        ApiRequest::Links {},
        ApiRequest::Tasks {},
        ApiRequest::Task { id: text() },
        ApiRequest::ExplainName { name: text(), client: Some(text()), subnet: None },
        ApiRequest::Audit { since: None, service: Some(text()), limit: 3 },
        ApiRequest::WatchTask { id: text(), after_revision: 1, timeout_ms: 2 },
        ApiRequest::Command { subject: text(), envelope: json!({"v": 1}) },
    ];
    requests.extend([ApiRequest::Conflicts {}, ApiRequest::AuditVerify {}]);
    let fact = ApiRequest::Fact { subject: text(), envelope: json!({"v": 1}) };
    requests.extend([ApiRequest::Facts {}, fact]);
    let terms = Some(TermsDoc { confirm_within_ms: Some(1), ..TermsDoc::default() });
    requests.extend(verbs.map(|verb| {
        let (overrides, terms) = ([text()].into(), terms.clone());
        ApiRequest::Plan { verb, overrides, terms }
    }));
    for request in requests {
        let bytes = codec::encode_call(&request);
        let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
        if let Some(envelope) = value["request"].get_mut("envelope") {
            *envelope = json!({});
        }
        let call = json!({"$ref": "#/$defs/call"});
        assert_eq!(misfit(&schema, &call, &value, "call"), None, "{request:?}");
    }
}

#[test]
fn a_reply_as_printed_fits_the_schema() {
    let world = World::new();
    let line = ["undrain", "site", "svg", "--yes", "--reason", "x", "-o", "json"];
    let ran = world.run_signed(&line);
    ran.exits(0);
    let printed: Value = serde_json::from_str(&ran.out).expect("JSON");
    let reply = json!({"$ref": "#/$defs/commandReply"});
    assert_eq!(misfit(&schema(), &reply, &printed, "reply"), None);
}
