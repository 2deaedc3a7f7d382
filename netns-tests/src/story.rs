//! What the stories share: a lab with Nett in it, operators who give commands, steady traffic.
//!
//! Stories of one test program run one after the other: a lab with agents and probes keeps a small
//! machine busy, and they measure times.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bus::Server;
use crate::eventually::{eventually, eventually_true};
use crate::files::Node;
use crate::lab::{Lab, Told};
use crate::observe::{counters, drops};
use crate::process::log_tail;
use crate::services::Service;
use crate::topology::Shape;
use crate::traffic::{Report, Running, Target, now};

/// The longest a task of the lab may take: its services are sticky for one second.
pub const TASK: Duration = Duration::from_secs(20);

/// Packets per second and family of steady traffic.
pub const RATE: u32 = 1000;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Tells a story in a lab with nats-servers and agents. A failure carries the end of every log.
pub fn tell(name: &str, story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    tell_of(name, Shape::TWO, story)
}

/// As [`tell`], in a lab of another shape.
pub fn tell_of(name: &str, shape: Shape, story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    from_wires(name, shape, |lab| {
        lab.start_nett()?;
        story(lab)
    })
}

/// As [`tell`], with another nats-server.
pub fn tell_with(
    name: &str,
    server: Server,
    story: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    from_wires(name, Shape::TWO, |lab| {
        lab.set_server(server);
        lab.start_nett()?;
        story(lab)
    })
}

/// As [`tell_from_wires`], in a lab of another shape.
pub fn tell_of_wires(
    name: &str,
    shape: Shape,
    story: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    from_wires(name, shape, story)
}

/// As [`tell`], beginning before Nett is started.
pub fn tell_from_wires(name: &str, story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    from_wires(name, Shape::TWO, story)
}

#[expect(clippy::print_stderr, reason = "a panic has no context that could carry the logs")]
fn from_wires(name: &str, shape: Shape, story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut lab) = Lab::for_test(name, shape)? else {
        return Ok(());
    };
    let listening = drops::listen();
    let ended = catch_unwind(AssertUnwindSafe(|| story(&mut lab)));
    let told = listening.and_then(|()| drops::heard());
    let told = told.unwrap_or_else(|e| format!("no trace of dropped packets: {e:#}\n"));
    let what_was_seen = |lab: &Lab| logs(lab) + "--- drops\n" + &told + &guards(lab);
    match ended {
        Ok(ended) => ended.map_err(|e| e.context(what_was_seen(&lab))),
        Err(panic) => {
            eprintln!("{}", what_was_seen(&lab));
            resume_unwind(panic)
        }
    }
}

/// What the guards of the nodes counted, to be printed with a failure.
fn guards(lab: &Lab) -> String {
    let mut text = String::from("--- counters of the guards\n");
    for Node { name: node, .. } in lab.nodes() {
        let counters = lab.ns(&node).and_then(|ns| counters::named(&ns, "nett"));
        let counted = counters.unwrap_or_default().into_iter().filter(|(_, count)| *count > 0);
        let lines: Vec<String> = counted.map(|(name, count)| format!("{name} {count}")).collect();
        text += &format!("{node}: {}\n", lines.join(", "));
    }
    text
}

/// The end of every log of the lab, to be printed with a failure.
pub fn logs(lab: &Lab) -> String {
    let mut text = String::from("the story failed; the ends of its logs:\n");
    let entries = std::fs::read_dir(lab.layout().logs()).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        text += &format!("--- {}\n{}\n", path.display(), log_tail(&path, 12));
    }
    text
}

/// Somebody at a keyboard: an operator's key and the agent it speaks to.
#[derive(Debug, Clone, Copy)]
pub struct Operator<'a> {
    pub lab: &'a Lab,
    /// The node whose socket is used.
    pub node: &'a str,
    /// A name of [`crate::files::OPERATORS`].
    pub name: &'a str,
}

// === impl Operator ===

impl Operator<'_> {
    pub fn run(&self, args: &[&str]) -> Result<Told> {
        self.lab.nettctl(self.node, self.name, args)
    }

    /// Gives a command that changes something and returns at once with what was said.
    pub fn order(&self, args: &[&str]) -> Result<Told> {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        all.extend(["--reason", "told in a story", "--yes"]);
        self.run(&all)
    }

    /// Gives a command that needs no approval and follows it to its end; returns the task.
    pub fn complete(&self, args: &[&str]) -> Result<String> {
        let task = task_of(&self.order(args)?.must_be(0)?)?;
        self.wait_for(&task, "done")?;
        Ok(task)
    }

    /// As [`Self::complete`], leaving the waiting to the agent, which disturbs a measurement less
    /// than asking again and again; returns the task as `task show` shows it.
    pub fn complete_quietly(&self, args: &[&str]) -> Result<Value> {
        let told = self.order(&[args, &["--wait"]].concat())?.must_be(0)?;
        let shown = told.json()?;
        Ok(shown["ok"].clone())
    }

    /// Gives a command that must wait for an approval; returns the task.
    pub fn propose(&self, args: &[&str]) -> Result<String> {
        task_of(&self.order(args)?.must_be(5)?)
    }

    /// Approves a task as soon as this operator's site has read of it.
    pub fn approve(&self, task: &str) -> Result<()> {
        eventually(TASK, "the task is known here", || self.state_of(task))?;
        self.run(&["approve", task, "--reason", "looks right", "--yes"])?.must_be_done()
    }

    /// Rejects a task as soon as this operator's site has read of it.
    pub fn reject(&self, task: &str) -> Result<()> {
        eventually(TASK, "the task is known here", || self.state_of(task))?;
        self.run(&["reject", task, "--reason", "looks wrong", "--yes"])?.must_be_done()
    }

    /// Waits until a task has ended, which must be in `state`.
    pub fn wait_for(&self, task: &str, state: &str) -> Result<Duration> {
        let open = ["waiting-approval", "running", "paused", "confirming"];
        let ended = |s: &str| !open.contains(&s);
        let what = format!("task {task} ends");
        let (last, took) = eventually(TASK, &what, || match self.state_of(task)? {
            last if ended(&last) => Ok(last),
            last => bail!("it is {last}"),
        })
        .or_else(|error| Err(error.context(self.run(&["task", "show", task])?.out)))?;
        if last != state {
            let shown = self.run(&["task", "show", task])?;
            bail!("task {task} ended as {last} instead of {state}:\n{}", shown.out);
        }
        Ok(took)
    }

    /// The state of a task as this node knows it.
    pub fn state_of(&self, task: &str) -> Result<String> {
        let told = self.run(&["-o", "json", "task", "show", task])?.must_be(0)?;
        let json = told.json()?;
        let state = json["ok"]["state"].as_str();
        Ok(state.context("a task has a state")?.to_owned())
    }
}

/// The task id in the answer to a command.
fn task_of(told: &Told) -> Result<String> {
    let json: Value = told.json()?;
    let task = json["task"].as_str();
    let task = task.with_context(|| format!("`{}` names no task: {json}", told.line))?;
    Ok(task.to_owned())
}

/// What a node says of everything that was ever asked: tasks, split decisions, services.
pub fn reading(lab: &Lab, node: &str) -> Result<[Vec<Value>; 3]> {
    let ask = |args: &[&str], kind: &str| -> Result<Vec<Value>> {
        let told = lab.nettctl(node, "mira", &[&["-o", "json"], args].concat())?.must_be(0)?;
        let said = told.json()?["ok"][kind].take();
        let Value::Array(mut list) = said else { bail!("no list of {kind}: {said}") };
        // How old the view is differs from moment to moment.
        let lines = list.iter_mut().filter_map(Value::as_object_mut);
        lines.for_each(|line| drop(line.remove("age_ms")));
        Ok(list)
    };
    let tasks = ask(&["task", "list"], "tasks")?;
    let conflicts = ask(&["conflicts"], "conflicts")?;
    Ok([tasks, conflicts, ask(&["service", "list"], "services")?])
}

/// Steady traffic from several hosts to one service, both families.
#[derive(Debug)]
pub struct Traffic {
    probes: Vec<Running>,
}

// === impl Traffic ===

impl Traffic {
    /// One flow per family from each host to the service's VIPs.
    pub fn to_vips(lab: &Lab, hosts: &[&str], service: Service) -> Result<Self> {
        Self::start(lab, hosts, &service.vips(), 1)
    }

    /// `flows` flows per address from each host, [`RATE`] packets a second per address in all.
    pub fn start(lab: &Lab, hosts: &[&str], to: &[String], flows: usize) -> Result<Self> {
        let mut probes = Vec::new();
        for host in hosts {
            for address in to {
                let address: IpAddr = address.parse()?;
                let target = Target::new(address, RATE).with_flows(flows);
                probes.push(Running::start(&lab.ns(host)?, target)?);
            }
        }
        let traffic = Self { probes };
        traffic.run_for(100)?;
        Ok(traffic)
    }

    /// Waits until every probe has sent `packets` more.
    pub fn run_for(&self, packets: usize) -> Result<()> {
        // All of them from now on, and not one after the other.
        let goals: Vec<_> =
            self.probes.iter().map(|probe| (probe, probe.sent() + packets)).collect();
        let patience = TASK + Duration::from_millis(packets as u64);
        let sent = || Ok(goals.iter().all(|(probe, goal)| probe.sent() >= *goal));
        eventually_true(patience, "packets are sent", sent).map(drop)
    }

    /// Waits until everything sent from some moment on is answered by `server` alone, for 50
    /// packets in a row, and returns that moment.
    pub fn settles_on(&self, server: &str) -> Result<u64> {
        let what = format!("all traffic is answered by {server}");
        let (moment, _) = eventually(TASK, &what, || {
            let from = now();
            self.run_for(50)?;
            let to = now() - Duration::from_millis(10).as_nanos() as u64;
            let seen = self.so_far().between(from, to);
            if seen.lost() == 0 && seen.answers_of(server) == seen.sent() && seen.sent() > 0 {
                Ok(from)
            } else {
                bail!("{}", seen.summary())
            }
        })?;
        Ok(moment)
    }

    /// All records so far, in one.
    pub fn so_far(&self) -> Report {
        Report::joined(self.probes.iter().map(Running::report))
    }

    /// The records so far, one per probe, in the order of hosts and addresses.
    pub fn each_so_far(&self) -> Vec<Report> {
        self.probes.iter().map(Running::report).collect()
    }

    /// Ends the traffic; one record per probe, in the order of hosts and addresses.
    pub fn finish_each(self) -> Vec<Report> {
        self.probes.into_iter().map(Running::finish).collect()
    }

    pub fn finish(self) -> Report {
        Report::joined(self.finish_each())
    }
}
