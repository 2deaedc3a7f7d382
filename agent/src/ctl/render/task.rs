//! Tasks, and replies to commands.

use nett_policy::log::entry::WishKind;

use super::table::{Cell, Table, facts};
use super::{Style, age_note, be, or_dash, short};
use crate::api::types::{
    ApprovalDoc, CommandReply, CostDoc, ExternalDoc, StepDoc, StepStateDoc, TaskDoc, TaskLine,
    TaskStateDoc,
};

pub(super) fn list(tasks: &[TaskLine], style: Style) -> String {
    let mut header = vec!["TASK", "VERB", "SUBJECT", "STATE", "STEPS", "BY"];
    if style.wide {
        header.push("OPENED");
    }
    let mut table = Table::new(&header);
    for task in tasks {
        let mut cells: Vec<Cell> = vec![
            task.id.clone().into(),
            task.verb.clone().into(),
            task.subject.clone().into(),
            Cell::state(task.state.as_str()),
            or_dash(&task.progress).into(),
            task.person.clone().into(),
        ];
        if style.wide {
            cells.push(task.opened_at.to_string().into());
        }
        table.row(cells);
    }
    table.text(style)
}

pub(super) fn show(task: &TaskDoc, style: Style) -> String {
    let time = |at: Option<crate::api::types::Stamp>| at.map_or(String::new(), |t| t.to_string());
    let given = task.approvals.iter().filter(|a| a.approve && a.counts);
    let approvals = match task.approvals_needed {
        0 => "none needed".to_owned(),
        needed => format!("{} of {needed}", given.count()),
    };
    let without = match (task.without.is_empty(), task.unprotected) {
        (true, _) => String::new(),
        (false, 0) => format!("{} said to be off", be(&task.without, ["was", "were"])),
        (false, count) => {
            let off = be(&task.without, ["is", "are"]);
            let services = if count == 1 { "service" } else { "services" };
            format!("{off} said to be off; {count} {services} UNPROTECTED")
        }
    };
    let mut out = facts(&[
        ("task", task.id.clone()),
        ("what", format!("{} {}", task.verb, task.subject)),
        ("by", task.person.clone()),
        ("reason", task.reason.clone()),
        ("state", task.state.as_str().to_owned()),
        ("because", task.outcome_reason.clone()),
        ("home site", task.home.clone()),
        ("plan", task.plan_hash.clone()),
        ("services", services(&task.services, task.more_services)),
        ("sites off", without),
        ("approvals", approvals),
        ("opened", task.opened_at.to_string()),
        ("effective", time(task.effective_at)),
        ("first bad", time(task.times.bad)),
        ("verified", time(task.times.verified)),
        ("withdrawn", time(task.times.withdrawn)),
        ("drained", time(task.times.drained)),
        ("ended", time(task.ended_at)),
    ]);
    out.extend(task.costs.iter().map(cost_text));
    for approval in &task.approvals {
        out += &format!("  {}\n", approval_text(approval));
    }
    for wish in &task.wishes {
        out += &format!("  {} by {} at {}: {}\n", wish.wish, wish.person, wish.at, wish.reason);
    }
    let lines = [("waits", &task.stands_still), ("ended", &task.supersedes)];
    for (title, lines) in lines.into_iter().chain([("split decision", &task.conflicts)]) {
        out.extend(lines.iter().map(|line| format!("{title}: {line}\n")));
    }
    if !task.steps.is_empty() {
        out.push('\n');
        out += &steps_text(&task.steps, task.ended_at.is_some(), style);
    }
    for (title, lines) in [("To continue:", &task.continue_with), ("To revert:", &task.revert_with)]
    {
        if !lines.is_empty() {
            out += &format!("\n{title}\n");
            out.extend(lines.iter().map(|line| format!("  {line}\n")));
        }
    }
    out
}

/// What a task has cost a service, and whether that is what was promised.
fn cost_text(cost: &CostDoc) -> String {
    let CostDoc { service, rto_ms, rto_goal_ms, rpo_ms, rpo_goal_ms } = cost;
    let one = |name: &str, is: Option<u64>, goal: Option<u64>| {
        let said = is.map_or_else(|| "unknown".to_owned(), |ms| format!("{} s", seconds(ms)));
        let goal = goal.map_or_else(String::new, |goal| {
            let met = match is {
                None => "",
                Some(is) if is <= goal => ": met",
                Some(_) => ": MISSED",
            };
            format!(" (goal {} s{met})", seconds(goal))
        });
        format!("{name} {said}{goal}")
    };
    let rto = one("rto", *rto_ms, *rto_goal_ms);
    format!("  {service}: {rto}, {}\n", one("rpo", *rpo_ms, *rpo_goal_ms))
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

fn approval_text(approval: &ApprovalDoc) -> String {
    let ApprovalDoc { person, at, reason, approve, counts, note } = approval;
    let what = if *approve { "approved" } else { "rejected" };
    let void = match (counts, note.is_empty()) {
        (true, _) => String::new(),
        (false, true) => " (does not count)".to_owned(),
        (false, false) => format!(" (does not count: {note})"),
    };
    format!("{what} by {person} at {at}: {reason}{void}")
}

/// The steps of a task, which has ended or goes on.
fn steps_text(steps: &[StepDoc], ended: bool, style: Style) -> String {
    let header = ["STEP", "KIND", "STATE", "STARTED", "DONE", "ACKNOWLEDGED"];
    let mut table = Table::new(&header);
    let mut below = String::new();
    for step in steps {
        let time =
            |at: Option<crate::api::types::Stamp>| at.map_or("-".to_owned(), |t| t.to_string());
        let asked = step.external.iter().map(|_| step.state == StepStateDoc::Done);
        let acked = step.acknowledge.iter().map(|ack| ack.acked).chain(asked);
        let (all, acked) = (acked.clone().count(), acked.filter(|acked| *acked).count());
        // Nodes acknowledge what is open: of a step that failed nothing new is heard, and its
        // reason names who was missing.
        let given_up = match step.state {
            StepStateDoc::Waiting | StepStateDoc::Done => false,
            StepStateDoc::Started => ended,
            StepStateDoc::Failed => true,
        };
        table.row(vec![
            step.number.to_string().into(),
            step.kind.clone().into(),
            Cell::state(step.state.as_str()),
            time(step.started_at).into(),
            time(step.done_at).into(),
            if given_up { "-".into() } else { format!("{acked}/{all}").into() },
        ]);
        let number = step.number;
        let open = step.state == StepStateDoc::Started && !given_up;
        for ack in step.acknowledge.iter().filter(|ack| open && !ack.acked) {
            let note = age_note(ack.age_ms).map_or(String::new(), |note| format!(" {note}"));
            let told = ack.told.iter().map(|line| format!(": {line}")).collect::<String>();
            below += &format!("step {number} waits for {}{note}{told}\n", ack.node);
        }
        if let Some(external) = &step.external {
            below += &format!("step {number} {}\n", external_text(external, step.state));
        }
        for node in &step.owed {
            let done = if node.acked { "read by" } else { "owed by" };
            below += &format!("step {number} {done} {}, which is said to be off\n", node.node);
        }
        for line in &step.evidence {
            below += &format!("step {number}: {line}\n");
        }
        if !step.failure.is_empty() {
            below += &format!("step {number} failed: {}\n", step.failure);
        }
    }
    let mut out = table.text(style);
    if !below.is_empty() {
        out.push('\n');
        out += &below;
    }
    out
}

/// Who is asked outside, and what.
fn external_text(external: &ExternalDoc, state: StepStateDoc) -> String {
    let ExternalDoc { party, verb, when, timeout_ms, request } = external;
    let does = match state {
        StepStateDoc::Waiting => "will ask",
        StepStateDoc::Started => "waits for",
        StepStateDoc::Done | StepStateDoc::Failed => "asked",
    };
    let request = request.as_ref().map_or(String::new(), |id| format!(", request {id}"));
    format!("{does} {party} outside: {verb} ({when}), within {} s{request}", seconds(*timeout_ms))
}

/// What is said of those that are not listed.
pub(super) fn and_more(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" and {more} more") }
}

/// One service by its name, more of them with their number; `more` are not listed.
pub(super) fn services(listed: &[String], more: u64) -> String {
    match (listed, more) {
        ([], _) => "none".to_owned(),
        ([one], 0) => one.clone(),
        (many, more) => {
            format!("{}: {}{}", total(many, more), many.join(", "), and_more(more))
        }
    }
}

/// How many there are, of which `more` are not listed.
pub(super) fn total(listed: &[String], more: u64) -> u64 {
    more.saturating_add(u64::try_from(listed.len()).unwrap_or(u64::MAX))
}

/// One line about an accepted command.
pub(super) fn reply_text(reply: &CommandReply) -> String {
    let task = reply.task.as_deref().unwrap_or("-");
    let state = reply.state.as_deref().unwrap_or("accepted");
    let mut line = format!("{task} {state}");
    if let Some(hash) = &reply.plan_hash {
        line += &format!(" plan {}", short(hash));
    }
    if !reply.message.is_empty() {
        line += &format!(": {}", reply.message);
    }
    if reply.state.as_deref() == Some(TaskStateDoc::WaitingApproval.as_str()) {
        line += &format!("\nTo approve: nettctl approve {task} --reason TEXT");
    }
    line
}

/// What somebody is asked about before a wish is sent.
pub(in crate::ctl) fn wish_text(task: &TaskDoc, kind: &WishKind) -> String {
    let what = match kind {
        WishKind::Approve { .. } => "Approve".to_owned(),
        WishKind::Reject => "Reject".to_owned(),
        WishKind::Cancel => "Cancel".to_owned(),
        WishKind::Pause => "Pause".to_owned(),
        WishKind::Resume => "Resume".to_owned(),
        WishKind::Confirm => "Confirm".to_owned(),
        WishKind::Gate { name } => format!("Say that {name} holds for"),
        WishKind::Adopt { asserted } if asserted.is_empty() => "Adopt".to_owned(),
        WishKind::Adopt { asserted } => {
            let names: Vec<&str> = asserted.iter().map(|node| node.as_str()).collect();
            format!("Say that {} off, and adopt", be(&names, ["is", "are"]))
        }
    };
    let mut out = format!(
        "{what} task {}: {} {}, by {}: {}\n",
        task.id, task.verb, task.subject, task.person, task.reason
    );
    out += &format!("  plan {}\n", task.plan_hash);
    let all = total(&task.services, task.more_services);
    out += &format!("  {all} {}:\n", if all == 1 { "service" } else { "services" });
    out.extend(task.services.iter().map(|id| format!("    {id}\n")));
    if task.more_services > 0 {
        out += &format!("    and {} more\n", task.more_services);
    }
    out
}
