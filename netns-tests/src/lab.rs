//! A running lab: its namespaces, processes, files and the handles to disturb it.
//!
//! Dropping a [`Lab`] removes everything but its directory; [`Lab::keep`] leaves it running for
//! `lab-down`. Both go through the state file, so a lab that died is removed the same way.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually::{eventually, patience};
use crate::files::{self, Layout, Node};
use crate::keys::{Authority, Keys, private_dir};
use crate::netns::{Netns, missing_privilege};
use crate::observe::counters::{self, Leaks};
use crate::process::{Process, Spec};
use crate::state::{self, State};
use crate::topology::{Link, NET_BUS, SITES, Shape, Site, Topology, vip_routes};
use crate::{bus, routing, services, wiring};

/// The built programs the lab runs.
#[derive(Debug, Clone)]
pub struct Programs {
    pub agent: PathBuf,
    pub nettctl: PathBuf,
    pub lab: PathBuf,
    /// The environment with the Python packages of `make deps`.
    pub python: PathBuf,
}

#[derive(Debug)]
pub struct Lab {
    shape: Shape,
    server: bus::Server,
    /// How large a message its servers let through, where it is not what Nett rendered.
    payload: Option<&'static str>,
    prefix: String,
    layout: Layout,
    programs: Programs,
    /// What one site runs instead.
    other: Option<(Site, Programs)>,
    keys: Keys,
    state: State,
    processes: BTreeMap<String, Process>,
    keep: bool,
    /// Removes a test's directory after everything else.
    temporary: Option<tempfile::TempDir>,
}

/// What `nettctl` printed and how it ended.
#[derive(Debug, Clone)]
pub struct Told {
    pub line: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

// === impl Programs ===

impl Programs {
    /// Beside the running program, or one directory up for a test (`target/debug/deps/..`).
    pub fn beside_this_one() -> Result<Self> {
        let me = std::env::current_exe().context("cannot tell where this program lies")?;
        let mut dir = me.parent().context("a program lies in a directory")?;
        if dir.ends_with("deps") {
            dir = dir.parent().context("deps lies in a directory")?;
        }
        let at = |name: &str| dir.join(name);
        Ok(Self {
            agent: at("nett-agent"),
            nettctl: at("nettctl"),
            lab: at("nett-lab"),
            python: at("../python"),
        })
    }

    /// Agent and `nettctl` of another build, which lie in `dir`.
    pub fn of_release(dir: &Path) -> Result<Self> {
        let [agent, nettctl] = ["nett-agent", "nettctl"].map(|name| dir.join(name));
        if let Some(missing) = [&agent, &nettctl].into_iter().find(|path| !path.exists()) {
            bail!("no {}", missing.display());
        }
        Ok(Self { agent, nettctl, ..Self::beside_this_one()? })
    }
}

// === impl Lab ===

impl Lab {
    /// A lab of a test, with a prefix and a directory nobody else has: wires and echo servers
    /// only. `None`, after saying SKIPPED, where namespaces cannot be made; an error instead when
    /// `NETT_NETNS=required`.
    pub fn for_test(story: &str, shape: Shape) -> Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !may_run(story)? {
            return Ok(None);
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("nt{}x{number}", std::process::id());
        let temporary = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir()
            .context("cannot make a directory for the lab")?;
        let mut lab = Self::create(shape, &prefix, temporary.path())?;
        lab.temporary = Some(temporary);
        Ok(Some(lab))
    }

    /// Namespaces, wires, files, keys and echo servers; no nats-server and no agent yet.
    pub fn create(shape: Shape, prefix: &str, dir: &Path) -> Result<Self> {
        private_dir(dir)?;
        let root =
            dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
        refuse_second(&root)?;
        let layout = Layout { root };
        forget_former(&layout)?;
        let topology = Topology::new(shape, services::loopback);
        let names = topology.hosts.iter().map(|h| wiring::namespace(prefix, &h.name));
        let state =
            State { prefix: prefix.to_owned(), namespaces: names.collect(), processes: Vec::new() };
        refuse_taken(&state.namespaces)?;
        let keys = write_files(shape, &layout)?;
        state.save(&layout.root)?;
        let mut lab = Self {
            shape,
            server: bus::Server::default(),
            payload: None,
            prefix: prefix.to_owned(),
            layout,
            programs: Programs::beside_this_one()?,
            other: None,
            keys,
            state,
            processes: BTreeMap::new(),
            keep: false,
            temporary: None,
        };
        wiring::create(prefix, &topology, shape)?;
        routing::start(&mut lab)?;
        for site in shape.sites {
            lab.start_echo(*site)?;
        }
        lab.wait_for_echo()?;
        Ok(lab)
    }

    /// Renders and starts the nats-servers, makes their streams, starts every agent.
    ///
    /// Streams are made before the sites can reach each other, since Nett itself routes the way
    /// between the servers: mirrors catch up once the agents have laid it.
    pub fn start_nett(&mut self) -> Result<()> {
        for site in self.shape.sites {
            let config = bus::render(self, *site)?;
            bus::start(self, *site, &config)?;
            bus::init(self, *site)?;
        }
        let nodes = self.nodes();
        for node in &nodes {
            self.start_agent(&node.name)?;
        }
        for node in &nodes {
            self.wait_for_agent(&node.name)?;
        }
        nodes.iter().try_for_each(|node| self.wait_for_contact(&node.name))
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn server(&self) -> bus::Server {
        self.server
    }

    /// Before [`Self::start_nett`].
    pub fn set_server(&mut self, server: bus::Server) {
        self.server = server;
    }

    /// How large a message the servers let through, as their configuration says it.
    pub fn payload(&self) -> Option<&'static str> {
        self.payload
    }

    /// Before [`Self::start_nett`]: servers of somebody who has changed what Nett rendered.
    pub fn set_payload(&mut self, size: &'static str) {
        self.payload = Some(size);
    }

    /// Every node with an agent, in the order of the fabric file.
    pub fn nodes(&self) -> Vec<Node> {
        Node::of_shape(self.shape)
    }

    /// Waits until a node's agent has heard of every other site: the servers have found each other
    /// over the way that the agents laid.
    pub fn wait_for_contact(&mut self, node: &str) -> Result<()> {
        let ns = self.ns(node)?;
        let what = format!("the agent on {node} hears of the other sites");
        let others = self.shape.sites.len() as f64 - 1.0;
        let heard = || match crate::observe::http::metric(&ns, "nett_sites_connected")? {
            Some(sites) if sites >= others => Ok(()),
            sites => bail!("nett_sites_connected is {sites:?}"),
        };
        self.while_alive(&agent_name(node), patience() * 4, &what, heard).map(drop)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Agents that are started at `site`, and `nettctl` there, are of another build from now on;
    /// `None`: of the lab's own.
    pub fn set_release(&mut self, site: Site, programs: Option<Programs>) {
        self.other = programs.map(|programs| (site, programs));
    }

    fn programs_at(&self, host: &str) -> &Programs {
        match &self.other {
            Some((site, programs)) if host.starts_with(&format!("{}-", site.id)) => programs,
            Some(_) | None => &self.programs,
        }
    }

    /// The namespace of a host such as `osl-b1`, `inet` or `outside`.
    pub fn ns(&self, host: &str) -> Result<Netns> {
        let name = wiring::namespace(&self.prefix, host);
        if self.state.namespaces.contains(&name) {
            Ok(Netns::named(name))
        } else {
            bail!("the lab has no host {host}")
        }
    }

    /// Leaves the lab running and its directory in place when this value is dropped.
    pub fn keep(mut self) {
        self.keep = true;
        self.processes.values_mut().for_each(Process::keep);
    }

    // --- processes

    /// Starts a process on a host and records it.
    pub fn start_process(&mut self, host: &str, spec: Spec) -> Result<()> {
        let process = Process::start(&self.ns(host)?, spec)?;
        let name = process.spec().name.clone();
        self.state.processes.retain(|p| p.name != name);
        self.state.processes.push(process.record().clone());
        self.processes.insert(name, process);
        self.state.save(&self.layout.root)
    }

    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        let process = self.processes.get_mut(name);
        process.with_context(|| format!("the lab runs no {name}"))
    }

    /// Hands a process out to be stopped or killed by the caller.
    pub fn take_process(&mut self, name: &str) -> Result<Process> {
        let process = self.processes.remove(name);
        process.with_context(|| format!("the lab runs no {name}"))
    }

    /// Starts the agent of a node, without waiting for it.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let config = self.layout.agent_config(node);
        let spec = Spec {
            name: agent_name(node),
            program: self.programs_at(node).agent.clone(),
            args: vec!["run".into(), "--config".into(), config.display().to_string()],
            env: Vec::new(),
            log: self.layout.log(&agent_name(node)),
        };
        self.start_process(node, spec)
    }

    /// Waits until `/readyz` of a node's agent says yes.
    pub fn wait_for_agent(&mut self, node: &str) -> Result<Duration> {
        let ns = self.ns(node)?;
        let what = format!("the agent on {node} is ready");
        let ready = || crate::observe::http::ready(&ns);
        self.while_alive(&agent_name(node), patience() * 4, &what, ready)
    }

    /// Looks until `look` succeeds; gives up at once when the process has ended.
    pub fn while_alive(
        &mut self,
        process: &str,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<Duration> {
        let process = self.process(process)?;
        let (alive, took) = eventually(patience, what, || match process.check_alive() {
            Ok(()) => look().map(Ok),
            Err(dead) => Ok(Err(dead)),
        })?;
        alive.map(|()| took)
    }

    fn start_echo(&mut self, site: Site) -> Result<()> {
        let name = echo_name(site);
        let ready = self.echo_ready(site);
        let mut args: Vec<String> =
            ["serve", "--name", site.id, "--ready"].map(str::to_owned).to_vec();
        args.push(ready.display().to_string());
        args.extend(services::loopback(site));
        let spec = Spec {
            name: name.clone(),
            program: self.programs.lab.clone(),
            args,
            env: Vec::new(),
            log: self.layout.log(&name),
        };
        self.start_process(&site.service_host(), spec)
    }

    fn wait_for_echo(&mut self) -> Result<()> {
        for site in self.shape.sites {
            let ready = self.echo_ready(*site);
            let bound = || fs::metadata(&ready).map(drop).context("not bound yet");
            let what = "the echo server is ready";
            self.while_alive(&echo_name(*site), patience(), what, bound)?;
        }
        Ok(())
    }

    fn echo_ready(&self, site: Site) -> PathBuf {
        self.layout.host(&site.service_host()).join("ready")
    }

    // --- nettctl

    /// Runs `nettctl` against a node's agent as an operator of the lab.
    pub fn nettctl(&self, node: &str, operator: &str, args: &[&str]) -> Result<Told> {
        let mut all = vec![
            "--socket".to_owned(),
            self.layout.socket(node).display().to_string(),
            "--key".to_owned(),
            self.keys.seed(operator).display().to_string(),
        ];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        self.nettctl_in(node, &all)
    }

    /// Runs `nettctl` on a host with exactly these arguments.
    pub fn nettctl_in(&self, host: &str, args: &[String]) -> Result<Told> {
        let program = &self.programs_at(host).nettctl;
        let output = self.ns(host)?.run(|| {
            Command::new(program)
                .args(args)
                .stdin(std::process::Stdio::null())
                .output()
                .with_context(|| {
                    let program = program.display();
                    format!("cannot run {program}: build it with `cargo build --workspace`")
                })
        })?;
        Ok(Told::new(args, &output))
    }

    // --- faults and watching

    /// Cuts an inter-site link by taking its second end down: the first one loses its carrier.
    pub fn cut(&self, link: &str) -> Result<()> {
        self.set_link(link, "down")
    }

    /// Brings a cut link back.
    pub fn restore(&self, link: &str) -> Result<()> {
        self.set_link(link, "up")
    }

    pub fn cut_all(&self) -> Result<()> {
        self.shape.links.iter().try_for_each(|l| self.cut(l.id))
    }

    pub fn restore_all(&self) -> Result<()> {
        self.shape.links.iter().try_for_each(|l| self.restore(l.id))
    }

    /// Takes a machine away as a power cut would: nothing of it runs, and nothing of it is heard.
    pub fn power_off(&mut self, host: &str) -> Result<()> {
        let ns = self.ns(host)?;
        let ends = ns.ip("-o link show")?;
        let names = ends.lines().filter_map(|line| line.split([':', '@']).nth(1));
        let names = names.map(str::trim).filter(|name| *name != "lo");
        let down: Vec<String> = names.map(|n| format!("link set dev {n} down")).collect();
        ns.ip_batch(&down)?;
        for name in [agent_name(host), routing::process_name(host)] {
            if let Some(process) = self.processes.remove(&name) {
                process.kill();
            }
        }
        Ok(())
    }

    fn set_link(&self, id: &str, state: &str) -> Result<()> {
        let link = self.shape.links.iter().find(|l| l.id == id);
        let link = link.with_context(|| format!("no link {id}"))?;
        let border = self.ns(&link.node(1))?;
        border.ip(&format!("link set dev {} {state}", link.interface)).map(drop)
    }

    /// Makes `inet` route the VIPs over this site's uplink.
    pub fn route_vips_over(&self, site: Site) -> Result<()> {
        self.route_vips_over_border(site, 1)
    }

    /// Makes `inet` route the VIPs over the uplink of one border of a site in pairs.
    pub fn route_vips_over_border(&self, site: Site, border: u8) -> Result<()> {
        let routes = vip_routes(site, border);
        let lines = routes.iter().map(|r| wiring::route_line("replace", r));
        self.ns("inet")?.ip_batch(&lines.collect::<Vec<_>>())
    }

    /// What came out of the borders' uplinks towards VIPs, private and other sites' addresses.
    pub fn leaks(&self) -> Result<Leaks> {
        counters::named(&self.ns("inet")?, "watch").map(Leaks)
    }

    /// Takes every link of a site down, and its bus and clients with them.
    pub fn isolate(&self, site: Site) -> Result<()> {
        self.links_of(site).try_for_each(|l| self.cut(l.id))
    }

    pub fn rejoin(&self, site: Site) -> Result<()> {
        self.links_of(site).try_for_each(|l| self.restore(l.id))
    }

    fn links_of(&self, site: Site) -> impl Iterator<Item = &'static Link> {
        let links = self.shape.links.iter();
        links.filter(move |l| l.ends.iter().any(|(end, _)| *end == site))
    }

    /// Packets through both ends of every inter-site link of osl, as its borders count them.
    pub fn crossings(&self) -> Result<u64> {
        self.links_of(SITES[0]).try_fold(0, |sum, link| {
            let end = link.ends.iter().position(|(site, _)| *site == SITES[0]);
            let border = self.ns(&link.node(end.context("a link of this site")?))?;
            let seen = counters::interface(&border, link.interface)?;
            Ok(sum + seen.received + seen.sent)
        })
    }
}

/// Streams and journals of a former lab in this directory were signed with keys that are gone.
fn forget_former(layout: &Layout) -> Result<()> {
    for path in [layout.hosts(), layout.logs()] {
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            if let Some(dir) = self.temporary.take() {
                let _ = dir.keep();
            }
            return;
        }
        self.processes.clear();
        if let Err(problem) = state::down(&self.layout.root) {
            skipped("removing the lab", &format!("{problem:#}"));
        }
    }
}

// === impl Told ===

impl Told {
    fn new(args: &[String], output: &Output) -> Self {
        Self {
            line: format!("nettctl {}", args.join(" ")),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// An error with everything said unless the exit status is `code`.
    pub fn must_be(self, code: i32) -> Result<Self> {
        if self.code == Some(code) {
            return Ok(self);
        }
        let Self { line, code: was, out, err } = self;
        bail!("`{line}` ended with {was:?} instead of {code}:\n{out}{err}")
    }

    pub fn must_be_done(self) -> Result<()> {
        self.must_be(0).map(drop)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.out)
            .with_context(|| format!("`{}` printed no JSON:\n{}", self.line, self.out))
    }
}

/// The name of a node's agent process.
pub fn agent_name(node: &str) -> String {
    format!("agent-{node}")
}

fn echo_name(site: Site) -> String {
    format!("echo-{}", site.id)
}

/// Whether a test that needs root may run here; `NETT_NETNS=required` makes it an error not to.
pub(crate) fn may_run(test: &str) -> Result<bool> {
    let Some(why) = missing_privilege() else { return Ok(true) };
    if std::env::var("NETT_NETNS").is_ok_and(|v| v == "required") {
        bail!("{test} must run (NETT_NETNS=required), but {why}");
    }
    skipped(test, &why);
    Ok(false)
}

#[expect(clippy::print_stderr, reason = "the test harness shows what a skipped test says")]
pub(crate) fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
}

fn refuse_second(root: &Path) -> Result<()> {
    let Some(old) = State::load(root)? else {
        return Ok(());
    };
    let existing = state::existing_namespaces();
    let lives = old.namespaces.iter().any(|n| existing.contains(n));
    if lives || old.processes.iter().any(crate::process::Record::is_running) {
        bail!(
            "a lab is up in {}: end it first with `nett-lab down --dir {0}` (`make lab-down`)",
            root.display()
        );
    }
    state::down(root).map(drop)
}

fn refuse_taken(namespaces: &[String]) -> Result<()> {
    let existing = state::existing_namespaces();
    if let Some(taken) = namespaces.iter().find(|n| existing.contains(*n)) {
        bail!(
            "a namespace {taken} exists already and belongs to somebody else: choose another \
             --prefix, or end the lab it belongs to"
        );
    }
    Ok(())
}

fn write_files(shape: Shape, layout: &Layout) -> Result<Keys> {
    let sites = shape.sites;
    fs::create_dir_all(layout.logs()).context("cannot create the log directory")?;
    let keys = Keys::generate(&layout.keys(), files::key_names(shape))?;
    let authority = Authority::generate(&layout.tls())?;
    fs::write(layout.fabric(), files::fabric(shape, &keys, layout)?)?;
    fs::write(layout.services(), files::services(sites))?;
    for node in Node::of_shape(shape) {
        authority.issue(&node.name, &[])?;
        fs::create_dir_all(layout.state(&node.name))?;
        let text = files::agent(&node, &keys, layout);
        fs::write(layout.agent_config(&node.name), text)?;
    }
    for (operator, _) in files::OPERATORS {
        authority.issue(operator, &[])?;
    }
    for site in sites {
        let addresses = site.addresses(NET_BUS, 2);
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        authority.issue(&site.bus_host(), &addresses)?;
        fs::create_dir_all(layout.host(&site.service_host()))?;
        // What an earlier lab in this directory left would look like readiness.
        let _ = fs::remove_file(layout.host(&site.service_host()).join("ready"));
    }
    Ok(keys)
}
