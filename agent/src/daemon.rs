//! What each subcommand of `nett-agent` does, and its exit status.
//!
//! Exit status: 0 done; 1 it ran and failed, or preflight refuses; 2 usage or configuration.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the subcommands speak to a person")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nett_dns::{Limits, Profile, Serial, Server, Setup, Stats, Zone, ZoneSource, publish};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::log::intent::{Intent, World};
use nett_policy::place::place;

use crate::app::{self, AppError};
use crate::config::{EXIT_CONFIG, Loaded, load, read_zone_keys};
use crate::kernel::preflight::{self, Finding};
use crate::kernel::{LinuxKernel, sysctl};

const EXIT_FAILED: u8 = 1;

/// Arguments of `nett-agent dns`.
#[derive(Debug, clap::Args)]
pub struct DnsArguments {
    #[arg(long, value_name = "FILE")]
    pub fabric: PathBuf,
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
    /// Address and port to serve on; may be given several times.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    pub listen: Vec<SocketAddr>,
    /// UDP threads per address.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Directory of the keys of a signed zone; without it the zone is served unsigned.
    #[arg(long, value_name = "DIR")]
    pub key_dir: Option<PathBuf>,
}

/// How large the stack of the agent's own thread is: as the first thread's commonly is.
const STACK: usize = 8 << 20;

/// Runs the agent on a thread that has all of its stack from the start. That of a process's first
/// thread grows when it is needed: under a limit on memory the process would die there, without a
/// word.
pub fn run(path: &Path) -> ExitCode {
    let ended = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("nett-agent".to_owned()).stack_size(STACK);
        Ok(thread.spawn_scoped(scope, || run_here(path))?.join())
    });
    match ended {
        Ok(Ok(status)) => status,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            let error: std::io::Error = error;
            eprintln!("nett-agent: cannot start its thread: {error}; {LIMITS}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run_here(path: &Path) -> ExitCode {
    let Some(runtime) = runtime() else { return ExitCode::from(EXIT_FAILED) };
    match runtime.block_on(app::run(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AppError::Config(diagnostics)) => {
            diagnostics.iter().for_each(|d| eprintln!("{d}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(AppError::Preflight(findings)) => {
            findings.iter().for_each(|f| eprintln!("{f}"));
            eprintln!("nett-agent does not start; `nett-agent preflight` shows everything");
            ExitCode::from(EXIT_FAILED)
        }
        Err(AppError::Other(error)) => {
            eprintln!("nett-agent: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

pub fn check(path: &Path) -> ExitCode {
    match crate::config::check(path, &mut std::io::stdout()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => failed(&error.into()),
    }
}

pub fn preflight(path: &Path) -> ExitCode {
    let loaded = match loaded(path) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    let allowed = preflight::capabilities(&loaded.config.ports());
    allowed.iter().for_each(|finding| println!("{finding}"));
    let may = !allowed.iter().any(Finding::refuses);
    // Whoever lacks one can hardly read the kernel; what can be read is told.
    let looked = with_kernel(loaded, async |loaded, kernel| {
        let node = loaded.fabric.node(&loaded.config.node).expect("checked: the node exists");
        let interfaces = app::interfaces(&loaded.fabric, node);
        let mut findings = preflight::preflight(kernel, &interfaces).await?;
        findings.extend(sysctl::check(&interfaces));
        findings.iter().for_each(|finding| println!("{finding}"));
        Ok(if findings.iter().any(Finding::refuses) { EXIT_FAILED } else { 0 })
    });
    if may { looked } else { ExitCode::from(EXIT_FAILED) }
}

pub fn purge(path: &Path) -> ExitCode {
    let loaded = match loaded(path) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    with_kernel(loaded, async |_, kernel| {
        let purged = crate::kernel::purge::purge(kernel).await?;
        purged.removed.iter().for_each(|line| println!("- {line}"));
        for error in &purged.failed {
            eprintln!("{:#}", anyhow::anyhow!(error.to_string()));
        }
        Ok(if purged.failed.is_empty() { 0 } else { EXIT_FAILED })
    })
}

pub fn keygen(out: &Path) -> ExitCode {
    match crate::config::keygen(out) {
        Ok(public) => {
            println!("{public}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.into()),
    }
}

/// Serves the zone of the files until the process is ended.
pub fn dns(arguments: &DnsArguments) -> ExitCode {
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(SourceFile::new(path.display().to_string(), text)),
        Err(error) => Err(anyhow::anyhow!("cannot read {}: {error}", path.display())),
    };
    let files = read(&arguments.fabric).and_then(|f| Ok((f, read(&arguments.services)?)));
    let (fabric, services) = match files {
        Ok(files) => files,
        Err(error) => {
            eprintln!("nett-agent: {error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let (fabric, catalog) = match compile(&fabric, &services) {
        Ok(compiled) => compiled,
        Err(diagnostics) => {
            diagnostics.iter().for_each(|d| eprintln!("{d}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let world = World { fabric: &fabric, catalog: &catalog };
    let placement = place(world, &Intent::default());
    let answers = nett_policy::lower::answers(world, &placement);
    let serial = Serial::of_snapshot(1);
    let source =
        ZoneSource { zone: &fabric.zone, fabric: &fabric, home: None, serial, services: &answers };
    let serve = || -> anyhow::Result<()> {
        let stats = Arc::new(Stats::default());
        let zone = signed(Zone::build(source)?, arguments, &fabric, &stats)?;
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        if arguments.key_dir.is_some() {
            let zone = Arc::clone(&zone);
            std::thread::Builder::new()
                .name("nett-zone-signer".to_owned())
                .spawn(move || keep_signed(&zone))?;
        }
        let limits = Limits { udp_threads: usize::from(arguments.threads), ..Limits::default() };
        let profile = Profile {
            cookies: Some(crate::name_server::own_cookies()?),
            tcp_idle: limits.tcp_idle,
            ..Profile::default()
        };
        let (listen, profile) = (arguments.listen.clone(), Arc::new(profile));
        let server =
            Server::start(Setup { listen, encrypted: None, zone, limits, profile, stats })?;
        for address in server.addresses() {
            println!("serving {} on {address}", fabric.zone.name);
        }
        let runtime = runtime().ok_or_else(|| anyhow::anyhow!("no runtime"))?;
        runtime.block_on(async {
            let kind = tokio::signal::unix::SignalKind::terminate();
            let mut terminate = tokio::signal::unix::signal(kind)?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            Ok(())
        })
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// The zone with keys, if there are any, and as many signatures as are made quickly.
fn signed(
    zone: Zone,
    arguments: &DnsArguments,
    fabric: &Fabric,
    stats: &Stats,
) -> anyhow::Result<Zone> {
    let Some(directory) = &arguments.key_dir else {
        return Ok(zone);
    };
    let Some(keys) = read_zone_keys(Some(directory), &fabric.zone, &stats.signing)? else {
        anyhow::bail!("--key-dir is given, and the fabric has no `dnssec` in [zone]");
    };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let (serial, now) = (zone.serial(), since.as_secs());
    Ok(zone.with_keys(Arc::new(keys), now).caught_up(serial, PORTION, now))
}

/// Services that are signed in one snapshot, and how often signatures are looked at that grow old.
const PORTION: usize = 500;
const LOOK: Duration = Duration::from_secs(600);

/// Signs what is not signed yet and what grows old, for as long as the process lives.
fn keep_signed(zone: &ArcSwap<Zone>) {
    loop {
        let current = zone.load_full();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        if !current.is_behind() && !current.has_signing_work(now) {
            std::thread::sleep(LOOK);
            continue;
        }
        let next = current.caught_up(current.serial().next(), PORTION, now);
        publish(zone, next).expect("nobody else publishes");
    }
}

/// The files, or the exit status after saying what is wrong with them.
fn loaded(path: &Path) -> Result<Loaded, ExitCode> {
    load(path).map_err(|refused| {
        refused.diagnostics.iter().for_each(|d| eprintln!("{d}"));
        ExitCode::from(EXIT_CONFIG)
    })
}

fn with_kernel(
    loaded: Loaded,
    work: impl AsyncFnOnce(&Loaded, &mut LinuxKernel) -> anyhow::Result<u8>,
) -> ExitCode {
    let Some(runtime) = runtime() else { return ExitCode::from(EXIT_FAILED) };
    let done = runtime.block_on(async {
        let mut kernel = LinuxKernel::open(loaded.config.kernel.layout.clone())?;
        work(&loaded, &mut kernel).await
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => failed(&error),
    }
}

/// `None`, after saying why, where the runtime cannot be built.
///
/// When the system refuses its threads, tokio panics, and while it unwinds waits for ever for
/// threads that never were. So a panic in here ends the process before anything unwinds.
fn runtime() -> Option<tokio::runtime::Runtime> {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let said = text.unwrap_or("no reason is known");
        eprintln!("nett-agent: cannot start its threads: {said}; {LIMITS}");
        std::process::exit(i32::from(EXIT_FAILED));
    }));
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    std::panic::set_hook(usual);
    built.inspect_err(|error| eprintln!("nett-agent: cannot start its threads: {error}")).ok()
}

/// What keeps a process from starting a thread.
const LIMITS: &str = "raise what limits its memory or its threads: ulimit -v and -u, or MemoryMax, \
                      LimitAS and TasksMax of its unit";

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("nett-agent: {error:#}");
    ExitCode::from(EXIT_FAILED)
}
