//! Load by dnsperf from the second processor, and what it cost the server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cpu;
use crate::peer::Running;

/// One run of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) questions: &'a Path,
    pub(crate) seconds: u32,
    /// Questions a second; as many as get answers when `None`.
    pub(crate) rate: Option<u32>,
    /// Whether signatures are asked for.
    pub(crate) signed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Microseconds of processor for each answered question.
    pub(crate) per_question: f64,
    pub(crate) per_second: f64,
    pub(crate) answered: f64,
}

impl Load<'_> {
    /// Asks `server`, and fails when it leaves questions unanswered: half an answer is no speed.
    pub(crate) fn on(self, server: &Running) -> anyhow::Result<Cost> {
        let before = cpu::of_group(server.group())?;
        let output = self.dnsperf(server.address)?;
        let used = cpu::of_group(server.group())?.saturating_sub(before);
        let number = |label: &str| -> anyhow::Result<f64> {
            let line = output.lines().find_map(|l| l.trim().strip_prefix(label));
            let word = line.and_then(|l| l.split_whitespace().next());
            word.with_context(|| format!("dnsperf printed no `{label}`:\n{output}"))?
                .parse()
                .with_context(|| format!("dnsperf printed no number behind `{label}`"))
        };
        let (sent, done) = (number("Queries sent:")?, number("Queries completed:")?);
        ensure!(done >= sent * 0.999, "{}: {done} of {sent} answered", server.peer);
        let per_second = number("Queries per second:")?;
        Ok(Cost { per_question: micros(used) / done, per_second, answered: done })
    }

    fn dnsperf(self, server: SocketAddr) -> anyhow::Result<String> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1", "dnsperf", "-e", "-T", "1", "-c", "8", "-q", "64"]);
        command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string()]);
        command.args(["-l", &self.seconds.to_string(), "-d"]).arg(self.questions);
        if self.signed {
            command.arg("-D");
        }
        if let Some(rate) = self.rate {
            command.args(["-Q", &rate.to_string()]);
        }
        let output = command.output().context("cannot run taskset and dnsperf")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "dnsperf failed:\n{text}{errors}");
        Ok(text)
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The middle of the values, and of two middles their mean.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
