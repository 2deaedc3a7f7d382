//! Asking a name server with `dig`.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// An answer, as far as the stories care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For example `NOERROR`.
    pub status: String,
    /// Record data of the answer section, sorted; quotes of TXT strings removed.
    pub data: Vec<String>,
    /// The lowest TTL of the answer section, in seconds.
    pub ttl: Option<u32>,
}

/// Asks `server` for `name` from inside `ns`: one try, two seconds.
pub fn dig(ns: &Netns, server: IpAddr, name: &str, kind: &str) -> Result<Answer> {
    let more = ["+time=2", "+norecurse", "+nocookie"];
    ask(ns, server, (name, kind), &more)
}

/// As [`dig`], for a client in `subnet` (RFC 7871).
pub fn dig_for(ns: &Netns, server: IpAddr, name: &str, kind: &str, subnet: &str) -> Result<Answer> {
    let subnet = format!("+subnet={subnet}");
    ask(ns, server, (name, kind), &["+time=2", "+norecurse", "+nocookie", &subnet])
}

/// Asks the resolver at `server` for `name`: one try, ten seconds, in which it may try others.
pub fn recurse(ns: &Netns, server: IpAddr, name: &str, kind: &str) -> Result<Answer> {
    ask(ns, server, (name, kind), &["+time=10"])
}

fn ask(ns: &Netns, server: IpAddr, (name, kind): (&str, &str), more: &[&str]) -> Result<Answer> {
    let at = format!("@{server}");
    let args = [&[at.as_str(), name, kind, "+tries=1"], more].concat();
    parse(&ns.output("dig", &args)?).with_context(|| format!("dig {at} {name} {kind}"))
}

fn parse(text: &str) -> Result<Answer> {
    let Some((_, rest)) = text.split_once("status: ") else {
        bail!("no answer: {}", text.trim());
    };
    let status = rest.split(',').next().unwrap_or_default().to_owned();
    let lines = text
        .lines()
        .skip_while(|l| !l.starts_with(";; ANSWER SECTION:"))
        .skip(1)
        .take_while(|l| !l.is_empty());
    let mut answer = Answer { status, data: Vec::new(), ttl: None };
    for line in lines {
        let mut rest = line;
        let mut fields = Vec::new();
        for _ in 0..4 {
            let (field, after) = rest
                .trim_start()
                .split_once(char::is_whitespace)
                .context("a record has five fields")?;
            fields.push(field);
            rest = after;
        }
        let ttl: u32 = fields[1].parse().context("a TTL is a number")?;
        answer.ttl = Some(answer.ttl.map_or(ttl, |known| known.min(ttl)));
        answer.data.push(rest.trim().replace('"', ""));
    }
    answer.data.sort();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_data_and_the_lowest_ttl() {
        let text = "\
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1
;; ANSWER SECTION:
api.prod.shop.steer.example. 5 IN TXT \"site=svg state=standby weight=0\"
api.prod.shop.steer.example. 4 IN TXT \"site=osl state=active weight=100\"

;; Query time: 0 msec
";
        let expected = Answer {
            status: "NOERROR".into(),
            data: vec![
                "site=osl state=active weight=100".into(),
                "site=svg state=standby weight=0".into(),
            ],
            ttl: Some(4),
        };
        assert_eq!(parse(text).expect("readable"), expected);
        assert!(parse(";; connection timed out; no servers could be reached").is_err());
    }
}
