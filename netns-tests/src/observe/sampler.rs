//! Asking a name server over and over, faster than a process per question allows: the smallest
//! DNS client (RFC 1035), for one A record.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;
use crate::traffic::now;

/// A question and its answer, which was given between the two times (nanoseconds since the Unix
/// epoch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub asked: u64,
    pub answered: u64,
    pub addresses: Vec<Ipv4Addr>,
}

/// Asks `server` for the A records of `name` from inside `ns`, `pace` after each answer, until
/// `stop`. A question without an answer within a second is an error.
pub fn sample(
    ns: &Netns,
    server: IpAddr,
    name: &str,
    pace: Duration,
    stop: &AtomicBool,
) -> Result<Vec<Sample>> {
    ns.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((server, crate::files::DNS_PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut samples = Vec::new();
        let mut buffer = [0; 512];
        for id in (1..=u16::MAX).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let asked = now();
            socket.send(&question(id, name))?;
            let length = socket.recv(&mut buffer).with_context(|| format!("{server} is silent"))?;
            let addresses = addresses(id, &buffer[..length])?;
            samples.push(Sample { asked, answered: now(), addresses });
            std::thread::sleep(pace);
        }
        Ok(samples)
    })
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    // No flags; one question, nothing else.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        packet.push(u8::try_from(label.len()).expect("labels of the lab are short"));
        packet.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn addresses(id: u16, packet: &[u8]) -> Result<Vec<Ipv4Addr>> {
    let word = |at: usize| {
        let bytes = packet.get(at..at + 2).context("the answer is cut off")?;
        Ok::<_, anyhow::Error>(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    ensure!(word(0)? == usize::from(id), "an answer to another question");
    let (code, count) = (word(2)? & 0xf, word(6)?);
    if code != 0 {
        bail!("the server answers with code {code}");
    }
    let mut at = skip_name(packet, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        at = skip_name(packet, at)?;
        let (kind, length) = (word(at)?, word(at + 8)?);
        let data = packet.get(at + 10..at + 10 + length).context("the answer is cut off")?;
        if let (1, Ok(address)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(address.into());
        }
        at += 10 + length;
    }
    Ok(found)
}

/// The place behind a name, which ends with the root or with a pointer.
fn skip_name(packet: &[u8], mut at: usize) -> Result<usize> {
    loop {
        match packet.get(at).context("a name is cut off")? {
            0 => return Ok(at + 1),
            length if length & 0xc0 == 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(*length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_addresses_of_an_answer() {
        let mut packet = question(7, "api.example.");
        packet[7] = 2;
        for last in [1, 2] {
            packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, last]);
        }
        let expected = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        assert_eq!(addresses(7, &packet).expect("readable"), expected);
        assert!(addresses(8, &packet).is_err(), "another question's");
        assert!(addresses(7, &packet[..40]).is_err(), "cut off");
        packet[3] = 3;
        assert!(addresses(7, &packet).is_err(), "NXDOMAIN");
    }
}
