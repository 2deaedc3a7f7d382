//! `agent.toml` with the files it names, as `nett-agent check` sees them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nett_agent::config::{
    Config, ConfigError, CookiePolicy, EXIT_CONFIG, KeygenError, Loaded, LogFormat, Nsid, check,
    keygen, load, read_secrets, read_seed,
};
use nett_fixtures::Mistake;
use nett_policy::document::Code;
use tempfile::TempDir;

/// The two-site fabric with its seed in a directory of its own.
fn directory() -> TempDir {
    let made = tempfile::tempdir().expect("a directory");
    for name in ["fabric.toml", "services.toml", "agent.toml", "osl-b1.seed"] {
        let from = nett_fixtures::fabric_dir("two-sites").join(name);
        std::fs::copy(from, made.path().join(name)).expect("a fixture");
    }
    made
}

fn edit(directory: &Path, name: &str, find: &str, put: &str) {
    let path = directory.join(name);
    let text = std::fs::read_to_string(&path).expect("readable");
    assert!(text.contains(find), "{find}");
    std::fs::write(path, text.replacen(find, put, 1)).expect("writable");
}

fn loaded(directory: &Path) -> Result<Loaded, ConfigError> {
    load(&directory.join("agent.toml"))
}

fn config(directory: &Path) -> Config {
    loaded(directory).expect("valid").config
}

fn written(mistake: &Mistake) -> TempDir {
    let made = directory();
    for text in [&mistake.fabric, &mistake.services, &mistake.agent] {
        std::fs::write(made.path().join(&text.name), &text.text).expect("writable");
    }
    made
}

#[test]
fn every_mistake_is_reported_as_written_down() {
    let update = std::env::var_os("NETT_UPDATE").is_some_and(|v| v == "1");
    let mistakes = nett_fixtures::mistakes("agent-mistakes").expect("readable fixtures");
    assert!(mistakes.len() >= 15);
    for mistake in &mistakes {
        let made = written(mistake);
        let mut out = Vec::new();
        let path = made.path().join("agent.toml");
        assert_eq!(check(&path, &mut out).expect("a vector takes all"), EXIT_CONFIG);
        let text = String::from_utf8(out).expect("text");
        let text = text.replace(&made.path().display().to_string(), "DIR");
        let golden = mistake.directory.join("expected.txt");
        if update {
            std::fs::write(&golden, &text).expect("writable");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(text, expected, "{} (NETT_UPDATE=1 rewrites it)", mistake.name);
    }
}

#[test]
fn every_code_of_the_agent_file_has_a_mistake() {
    let mistakes = nett_fixtures::mistakes("agent-mistakes").expect("readable fixtures");
    let mut shown: BTreeSet<Code> = BTreeSet::new();
    for mistake in &mistakes {
        let found = loaded(written(mistake).path()).expect_err("a mistake").diagnostics;
        let (_, code) = mistake.name.split_once('-').expect("number and code");
        let known = Code::ALL.iter().any(|c| c.as_str() == code);
        assert!(!known || found.iter().any(|d| d.code.as_str() == code), "{}", mistake.name);
        shown.extend(found.iter().map(|d| d.code));
    }
    for code in [
        Code::Unreadable,
        Code::TableOverlap,
        Code::BadMarkMask,
        Code::BadKeyFile,
        Code::KeyMismatch,
        Code::BadFilter,
    ] {
        assert!(shown.contains(&code), "no fixture shows {code}");
    }
}

#[test]
fn the_valid_files_load_and_check_says_what_they_are() {
    let made = directory();
    let loaded = loaded(made.path()).expect("valid");
    assert_eq!(loaded.config.node.as_str(), "osl-b1");
    assert_eq!(loaded.config.fabric_path, made.path().join("fabric.toml"));
    assert_eq!(loaded.config.socket, made.path().join("agent.sock"));
    assert_eq!(loaded.config.dns.listen.len(), 2);
    assert_eq!((loaded.fabric.nodes.len(), loaded.catalog.len()), (4, 3));
    let mut out = Vec::new();
    let status = check(&made.path().join("agent.toml"), &mut out).expect("a vector takes all");
    let text = String::from_utf8(out).expect("text");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("valid: node osl-b1, fabric nordic generation 1 (2 sites"), "{text}");
}

#[test]
fn the_name_server_is_told_what_to_say() {
    let made = directory();
    std::fs::write(made.path().join("secrets"), "00112233445566778899aabbccddeeff\n\n")
        .expect("writable");
    let settings = "[dns]\nrate_limit = 0\nnsid = \"off\"\nversion = \"1\"\n\
                    cookies = \"required\"\ncookie_secrets = \"secrets\"\n";
    edit(made.path(), "agent.toml", "[dns]\n", settings);
    let dns = config(made.path()).dns;
    assert_eq!((dns.rate_limit, dns.nsid, dns.cookies), (0, Nsid::Off, CookiePolicy::Required));
    assert_eq!((dns.version.as_deref(), dns.hostname), (Some("1"), None));
    let path = dns.cookie_secrets.expect("a path");
    assert!(read_secrets(&path).expect("one secret").1.is_none());
    std::fs::write(&path, "00112233445566778899aabbccddeeff\n".repeat(2)).expect("writable");
    assert!(read_secrets(&path).expect("two secrets").1.is_some());
    for wrong in ["", "0011", &"00112233445566778899aabbccddeeff\n".repeat(3)] {
        std::fs::write(&path, wrong).expect("writable");
        let error = loaded(made.path()).expect_err("no secret");
        assert_eq!(error.diagnostics[0].code, Code::BadKeyFile, "{wrong}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let made = directory();
    let text = "node = \"osl-b1\"\nfabric = \"fabric.toml\"\nservices = \"services.toml\"\n\
                state_dir = \"/var/lib/nett\"\nkey_file = \"osl-b1.seed\"\n";
    std::fs::write(made.path().join("agent.toml"), text).expect("writable");
    let config = config(made.path());
    assert_eq!(config.socket, Path::new("/run/nett/agent.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/nett"));
    assert_eq!(config.http_listen, "127.0.0.1:9642".parse().ok());
    assert_eq!(config.kernel.layout, nett_policy::lower::object::Layout::default());
    assert!(!config.kernel.manage_sysctl && !config.kernel.dry_run);
    assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Text, "info"));
    assert!(config.dns.listen.is_empty() && config.nats.urls.is_empty());
    assert_eq!(config.nats.tls, None);
}

#[test]
fn kernel_numbers_and_credentials_are_taken() {
    let made = directory();
    let put = "tables = { svc = 8000, in = 8001, guard = 8002, xs = 8003, core = 8004, \
               return = 8100 }\nprotocol = 200\npriority = 5000\nmark_mask = 0x0001_307f\n\
               return = \"loose\"\n";
    edit(made.path(), "agent.toml", "return = \"strict\"\n", put);
    edit(made.path(), "agent.toml", "listen = \"127.0.0.1:9642\"", "listen = \"off\"");
    let nats = "[nats]\nurls = [\"tls://[fd00:a::4]:4222\"]\nca = \"tls/ca.crt\"\n\
                cert = \"tls/a.crt\"\nkey = \"/etc/nett/a.key\"\n[log]";
    edit(made.path(), "agent.toml", "[log]", nats);
    let config = config(made.path());
    let layout = &config.kernel.layout;
    assert_eq!((layout.protocol, layout.rule_base, layout.mark_mask), (200, 5000, 0x1_307f));
    assert_eq!((layout.table_core.0, layout.table_return_base), (8004, 8100));
    assert!(!layout.strict_return);
    assert_eq!(config.http_listen, None);
    let tls = config.nats.tls.expect("credentials");
    assert_eq!(tls.ca, made.path().join("tls/ca.crt"));
    assert_eq!(tls.key, Path::new("/etc/nett/a.key"));
}

#[test]
fn tables_chosen_before_there_were_those_of_transit_are_kept() {
    for (put, via) in [("svc = 7000", 7050), ("svc = 7060", 7250), ("return = 7040", 7250)] {
        let made = directory();
        let put = format!("return = \"strict\"\ntables = {{ {put} }}\n");
        edit(made.path(), "agent.toml", "return = \"strict\"\n", &put);
        assert_eq!(config(made.path()).kernel.layout.table_via_base, via, "{put}");
    }
    let made = directory();
    let put = "return = \"strict\"\ntables = { svc = 7060, via = 7050 }\n";
    edit(made.path(), "agent.toml", "return = \"strict\"\n", put);
    let error = loaded(made.path()).expect_err("who names both is told");
    assert_eq!(error.diagnostics[0].code, Code::TableOverlap);
}

#[test]
fn keygen_makes_a_key_the_agent_can_use_and_never_overwrites() {
    let made = directory();
    let path = made.path().join("new.seed");
    let public = keygen(&path).expect("a new key");
    let mode = std::fs::metadata(&path).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(read_seed(&path).expect("a seed").public_key(), public);
    let before = std::fs::read(&path).expect("readable");
    assert!(matches!(keygen(&path), Err(KeygenError::Exists(_))));
    assert_eq!(std::fs::read(&path).expect("readable"), before);

    let fixture = read_seed(&made.path().join("osl-b1.seed")).expect("a seed").public_key();
    edit(made.path(), "fabric.toml", &fixture, &public);
    edit(made.path(), "agent.toml", "osl-b1.seed", "new.seed");
    assert_eq!(config(made.path()).key_file, path);
}

#[test]
fn a_missing_agent_file_is_a_diagnostic_too() {
    let made = directory();
    let mut out = Vec::new();
    let path = made.path().join("nothing.toml");
    assert_eq!(check(&path, &mut out).expect("a vector takes all"), EXIT_CONFIG);
    let text = String::from_utf8(out).expect("text");
    assert!(text.starts_with("error[unreadable]: cannot read the file: No such file"), "{text}");
    assert!(text.contains("nothing.toml"), "{text}");
}
