//! An agent under a service manager that wants to hear of it: ready, alive, reading its files
//! again, stopping; and silent as soon as it does not go on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nett_netns_tests::eventually::{eventually_true, patience};
use nett_netns_tests::lab::agent_name;
use nett_netns_tests::process::Spec;
use nett_netns_tests::story::tell;
use nix::sys::signal::Signal;

const NODE: &str = "osl-r1";
/// The time after which a service manager thinks that the agent hangs.
const WATCHDOG: Duration = Duration::from_millis(1200);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// The lines of the next message, if one comes in time.
    fn hears(&self, within: Duration) -> Result<Option<Vec<String>>> {
        self.socket.set_read_timeout(Some(within))?;
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let text = std::str::from_utf8(&buffer[..length])?;
                Ok(Some(text.lines().map(str::to_owned).collect()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads until a message has this line; gives the whole message.
    fn waits_for(&self, line: &str) -> Result<Vec<String>> {
        let begun = Instant::now();
        while begun.elapsed() < patience() * 4 {
            match self.hears(patience())? {
                Some(lines) if lines.iter().any(|l| l == line) => return Ok(lines),
                Some(_) | None => {}
            }
        }
        bail!("{line} never came")
    }

    /// Forgets what has come until now.
    fn drain(&self) -> Result<()> {
        while self.hears(Duration::from_millis(1))?.is_some() {}
        Ok(())
    }
}

#[test]
fn a_service_manager_hears_of_an_agent_exactly_as_long_as_it_goes_on() -> Result<()> {
    tell("a_service_manager_hears_of_an_agent_exactly_as_long_as_it_goes_on", |lab| {
        lab.take_process(&agent_name(NODE))?.stop(patience())?;
        let path = lab.layout().host(NODE).join("notify");
        let manager = Manager { socket: UnixDatagram::bind(&path)? };
        let config = lab.layout().agent_config(NODE);
        let spec = Spec {
            name: agent_name(NODE),
            program: lab.programs().agent.clone(),
            args: vec!["run".into(), "--config".into(), config.display().to_string()],
            env: vec![
                ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
                ("WATCHDOG_USEC".to_owned(), WATCHDOG.as_micros().to_string()),
            ],
            log: lab.layout().log(&agent_name(NODE)),
        };
        lab.start_process(NODE, spec)?;
        manager.waits_for("READY=1")?;
        for _ in 0..6 {
            let heard = manager.hears(WATCHDOG)?;
            ensure!(heard == Some(vec!["WATCHDOG=1".to_owned()]), "within {WATCHDOG:?}: {heard:?}");
        }

        // Stopped, it says nothing for longer than a service manager waits; then it goes on.
        let agent = lab.process(&agent_name(NODE))?;
        agent.signal(Signal::SIGSTOP)?;
        let stat = format!("/proc/{}/stat", agent.record().pid);
        let stopped = || Ok(fs::read_to_string(&stat)?.contains(") T "));
        eventually_true(patience(), "it is stopped", stopped)?;
        manager.drain()?;
        let heard = manager.hears(WATCHDOG * 2)?;
        ensure!(heard.is_none(), "stopped, it says {heard:?}");
        agent.signal(Signal::SIGCONT)?;
        manager.waits_for("WATCHDOG=1")?;

        // Read again, the files have mistakes, and then none.
        let text = fs::read_to_string(&config)?;
        fs::write(&config, format!("{text}\nnonsense = 1\n"))?;
        agent.signal(Signal::SIGHUP)?;
        manager.waits_for("RELOADING=1")?;
        let kept = manager.waits_for("READY=1")?;
        ensure!(kept.iter().any(|l| l.starts_with("STATUS=the files have")), "{kept:?}");
        fs::write(&config, text)?;
        agent.signal(Signal::SIGHUP)?;
        let reloading = manager.waits_for("RELOADING=1")?;
        ensure!(reloading.iter().any(|l| l.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
        manager.waits_for("READY=1")?;
        manager.waits_for("WATCHDOG=1")?;

        lab.take_process(&agent_name(NODE))?.stop(patience())?;
        manager.waits_for("STOPPING=1").map(drop)
    })
}
