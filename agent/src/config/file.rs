//! `agent.toml` as written, and its defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nett_policy::document::form::{self, Flaw};
use nett_policy::document::{At, Code, Reader, Section, Span, Value};
use nett_policy::fabric::Transit;
use nett_policy::id::NodeId;
use nett_policy::lower::object::{Layout, Table};

use super::dns::{self, Dns};
use super::{Config, DEFAULT_HTTP, DEFAULT_SOCKET, Kernel, Log, LogFormat, Nats, TlsFiles};
use crate::controller::Pace;

/// What could be read; a required key that could not is `None` and was reported.
#[derive(Debug)]
pub(super) struct AgentDoc {
    pub(super) directory: PathBuf,
    pub(super) node: Option<At<NodeId>>,
    pub(super) fabric: Option<At<PathBuf>>,
    pub(super) services: Option<At<PathBuf>>,
    pub(super) key_file: Option<At<PathBuf>>,
    state_dir: Option<At<PathBuf>>,
    socket: PathBuf,
    nats: Nats,
    dns: Dns,
    http_listen: Option<SocketAddr>,
    kernel: Kernel,
    log: Log,
    journal: Pace,
}

impl AgentDoc {
    pub(super) fn dns(&self) -> &Dns {
        &self.dns
    }

    /// `None` when a required key is missing; it was reported.
    pub(super) fn build(self) -> Option<Config> {
        let Self {
            directory,
            node,
            fabric,
            services,
            key_file,
            state_dir,
            socket,
            nats,
            dns,
            http_listen,
            kernel,
            log,
            journal,
        } = self;
        Some(Config {
            node: node?.value,
            fabric_path: directory.join(fabric?.value),
            services_path: directory.join(services?.value),
            state_dir: directory.join(state_dir?.value),
            key_file: directory.join(key_file?.value),
            nats,
            dns,
            http_listen,
            socket,
            kernel,
            log,
            journal,
        })
    }
}

/// Reads the file; `None` when its syntax is broken.
pub(super) fn read(r: &Reader<'_>, directory: &Path) -> Option<AgentDoc> {
    let root = r.parse()?;
    r.section(&root, "the agent file", |s| {
        let required = |key| s.required(key).and_then(|v| r.parse_text(v, path));
        let socket = s.optional("socket").and_then(|v| r.parse_text(v, path));
        let nats = s
            .optional("nats")
            .and_then(|v| r.section(v, "[nats]", |s| Some(nats(r, s, directory))));
        let dns = s.optional("dns");
        let dns = dns.and_then(|v| r.section(v, "[dns]", |s| Some(dns::read(r, s, directory))));
        let http = s.optional("http");
        let http = http.and_then(|v| r.section(v, "[http]", |s| http_listen(r, s)));
        let kernel = s.optional("kernel");
        let kernel = kernel.and_then(|v| r.section(v, "[kernel]", |s| Some(kernel_of(r, s))));
        let log = s.optional("log").and_then(|v| r.section(v, "[log]", |s| Some(log_of(r, s))));
        let journal = s.optional("journal");
        let journal = journal.and_then(|v| r.section(v, "[journal]", |s| Some(pace(r, s))));
        Some(AgentDoc {
            directory: directory.to_owned(),
            node: s.required("node").and_then(|v| r.parse_text(v, form::id)),
            fabric: required("fabric"),
            services: required("services"),
            key_file: required("key_file"),
            state_dir: required("state_dir"),
            socket: directory.join(socket.map_or(DEFAULT_SOCKET.into(), |s| s.value)),
            nats: nats.unwrap_or_default(),
            dns: dns.unwrap_or_default(),
            http_listen: http.unwrap_or(Some(DEFAULT_HTTP.parse().expect("a socket address"))),
            kernel: kernel.unwrap_or_default(),
            log: log.unwrap_or_default(),
            journal: journal.unwrap_or_default(),
        })
    })
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, Flaw> {
    if text.is_empty() || text.contains('\0') {
        return Err(Flaw::new(Code::BadValue, "this cannot be a path"));
    }
    Ok(PathBuf::from(text))
}

/// The three files of a client certificate come together or not at all.
fn nats(r: &Reader<'_>, s: &Section<'_, '_>, directory: &Path) -> Nats {
    let urls = s.optional("urls").map(|v| r.items(v, |v| r.parse_text(v, form::url)));
    let any = ["ca", "cert", "key"].into_iter().any(|key| s.optional(key).is_some());
    let file = |key| {
        let found = if any { s.required(key) } else { None };
        found.and_then(|v| r.parse_text(v, path)).map(|p| directory.join(p.value))
    };
    let files = (file("ca"), file("cert"), file("key"));
    let tls = match files {
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
        _ => None,
    };
    Nats { urls: urls.unwrap_or_default().into_iter().map(|u| u.value).collect(), tls }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Flaw> {
    text.parse().map_err(|_| {
        Flaw::new(Code::BadAddress, format!("`{text}` is not an address with a port"))
            .hint("write it like `127.0.0.1:9642` or `[::1]:53`")
    })
}

/// The outer `None` means the default.
fn http_listen(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<Option<SocketAddr>> {
    let form = |text: &str| match text {
        "off" => Ok(None),
        other => socket_address(other).map(Some),
    };
    s.optional("listen").and_then(|v| r.parse_text(v, form)).map(|l| l.value)
}

fn log_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Log {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = s.optional("format").and_then(|v| r.choice(v, &formats));
    let filter = |text: &str| match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            let message = format!("`{text}` is not a log filter: {error}");
            Err(Flaw::new(Code::BadFilter, message)
                .hint("a level, such as `info`, or `nett_agent::kernel=debug,info`"))
        }
    };
    let level = s.optional("level").and_then(|v| r.parse_text(v, filter));
    let default = Log::default();
    Log {
        format: format.map_or(default.format, |f| f.value),
        filter: level.map_or(default.filter, |l| l.value),
    }
}

/// The least of `journal.keep`: a clock that is 5 s behind takes a request for 5 s after it has
/// expired, and one that is 5 s ahead must not have forgotten it then.
const LEAST_KEEP: Duration = Duration::from_secs(15);

fn pace(r: &Reader<'_>, s: &Section<'_, '_>) -> Pace {
    let defaults = Pace::default();
    let records = s.optional("compact_after").and_then(|v| r.integer(v, 16..=1_000_000_u32));
    let keep = |text: &str| match form::duration(text)? {
        keep if keep < LEAST_KEEP => Err(Flaw::new(
            Code::BadDuration,
            format!("`{text}` is less than {} s: clocks may differ", LEAST_KEEP.as_secs()),
        )),
        keep => Ok(keep),
    };
    let settle = s.optional("settle").and_then(|v| r.parse_text(v, form::some_time));
    let kept = s.optional("keep").and_then(|v| r.parse_text(v, keep));
    Pace {
        records: records
            .map_or(defaults.records, |r| usize::try_from(r.value).unwrap_or(usize::MAX)),
        settle: settle.map_or(defaults.settle, |s| s.value),
        kept: kept.map_or(defaults.kept, |k| k.value),
    }
}

fn kernel_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Kernel {
    let defaults = Layout::default();
    // 0 to 4 are the kernel's own (`RTPROT_*`, linux/rtnetlink.h).
    let protocol = s.optional("protocol").and_then(|v| r.integer(v, 5..=u8::MAX));
    let priority = s.optional("priority").and_then(|v| r.integer(v, 1..=MOST_RULE_BASE));
    let mask = s.optional("mark_mask").and_then(|v| mark_mask(r, v));
    let returns = [("strict", true), ("loose", false)];
    let strict = s.optional("return").and_then(|v| r.choice(v, &returns));
    let tables = s.optional("tables");
    let tables = tables.and_then(|v| r.section(v, "tables", |s| Some(tables_of(r, s))));
    let yes = |key| s.optional(key).and_then(|v| r.boolean(v)).unwrap_or(false);
    let layout = Layout {
        protocol: protocol.map_or(defaults.protocol, |p| p.value),
        rule_base: priority.map_or(defaults.rule_base, |p| p.value),
        mark_mask: mask.unwrap_or(defaults.mark_mask),
        strict_return: strict.map_or(defaults.strict_return, |s| s.value),
        advertise: yes("advertise"),
        ..tables.unwrap_or(defaults)
    };
    Kernel { layout, manage_sysctl: yes("manage_sysctl"), dry_run: yes("dry_run") }
}

/// Ours are this one and the 99 above it, all before the kernel's `main` rule at 32766.
const MOST_RULE_BASE: u32 = 32_766 - 100;

/// An integer, or its hexadecimal text for JSON, which has no other way to write it.
fn mark_mask(r: &Reader<'_>, value: &Value) -> Option<u32> {
    let hex = |text: &str| {
        let digits = text.strip_prefix("0x").and_then(|d| u32::from_str_radix(d, 16).ok());
        digits.ok_or_else(|| {
            Flaw::new(Code::BadMarkMask, format!("`{text}` is not a mark mask"))
                .hint("write it like `0x307f`")
        })
    };
    let mask = match r.is_text(value) {
        true => r.parse_text(value, hex)?,
        false => r.integer(value, 0..=u32::MAX)?,
    };
    let needed = Layout::MARK_CLASS | u32::from(MOST_LINKS);
    if mask.value & needed == needed {
        return Some(mask.value);
    }
    let message = format!("the mark mask {:#x} lacks bits of {needed:#x}", mask.value);
    r.report(
        r.mistake(Code::BadMarkMask, mask.span, message)
            .hint("two bits hold the class of a flow and seven its link"),
    );
    None
}

const MOST_LINKS: u8 = 127;

/// The tables, all different from each other and from the kernel's own.
fn tables_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Layout {
    let defaults = Layout::default();
    let mut taken: Vec<(std::ops::RangeInclusive<u32>, &str, Span)> = Vec::new();
    let mut table = |key: &'static str, default: u32, many: u32| {
        let most = u32::MAX - u32::from(MOST_LINKS);
        let given = s.optional(key).and_then(|v| r.integer(v, 1..=most));
        let At { value, span } = given.unwrap_or(At { value: default, span: s.span });
        let ours = value + u32::from(many > 1)..=value + many - u32::from(many == 1);
        let clash = |other: &(std::ops::RangeInclusive<u32>, &str, Span)| {
            ours.start() <= other.0.end() && other.0.start() <= ours.end()
        };
        let kernels = (253..=255, "main, local or default", span);
        let advertised = (250..=250, "nett-adv", span);
        let others = taken.iter().chain([&kernels, &advertised]);
        if let Some((_, other, _)) = others.into_iter().find(|o| clash(o)) {
            let message = format!("the table {value} for `{key}` is also used by `{other}`");
            let hint = "`return` uses the 127 tables above its number, `via` the 16 above its own; \
                        all others use one";
            r.report(r.mistake(Code::TableOverlap, span, message).hint(hint));
        }
        taken.push((ours, key, span));
        value
    };
    let mut layout = Layout {
        table_svc: Table(table("svc", defaults.table_svc.0, 1)),
        table_in: Table(table("in", defaults.table_in.0, 1)),
        table_guard: Table(table("guard", defaults.table_guard.0, 1)),
        table_xs: Table(table("xs", defaults.table_xs.0, 1)),
        table_core: Table(table("core", defaults.table_core.0, 1)),
        table_return_base: table("return", defaults.table_return_base, MOST_LINKS.into()),
        ..defaults
    };
    let many = u32::from(Transit::MOST);
    layout.table_via_base = match s.optional("via") {
        Some(_) => table("via", layout.table_via_base, many),
        // Who chose the others before there were these keeps what he chose.
        None => free(&taken, layout.table_via_base, many),
    };
    layout
}

/// The first number from `base` on, in steps of [`STEP`], above which so many tables are free.
fn free(taken: &[(std::ops::RangeInclusive<u32>, &str, Span)], base: u32, many: u32) -> u32 {
    let is_free = |base: &u32| {
        taken.iter().all(|(theirs, ..)| base + many < *theirs.start() || *theirs.end() <= *base)
    };
    (base..).step_by(STEP).find(is_free).unwrap_or(base)
}

const STEP: usize = 100;
