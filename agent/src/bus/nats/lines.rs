//! What a nats-server says: as much of its protocol as somebody needs who listens and answers.
//!
//! A message that is larger than the limit is passed over as its bytes come in and never held, so
//! what is kept here is bounded whatever a server delivers. Pure: no socket, no clock. It never
//! interprets a payload, and nothing of it outlives its connection.

/// The longest line: a server tells the addresses of its whole cluster in one.
const LONGEST_LINE: usize = 64 * 1024;

/// Cuts bytes into what the server said.
#[derive(Debug)]
pub struct Lines {
    /// The beginning of something that is not whole yet.
    held: Vec<u8>,
    /// Bytes to come that are passed over.
    skip: usize,
    /// The largest payload that is held, in bytes.
    limit: usize,
}

/// One thing that the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// About itself, as JSON.
    Info(&'a [u8]),
    Ping,
    Pong,
    Ok,
    Error(&'a str),
    Message {
        /// The number of the subscription.
        subscription: u64,
        subject: &'a str,
        /// Where an answer goes; empty where nobody waits for one.
        reply_to: &'a str,
        /// `None`: larger than the limit, or the names are no text and left out.
        payload: Option<&'a [u8]>,
    },
}

/// Why a connection cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    #[error("the nats-server sent a line of more than {LONGEST_LINE} bytes")]
    Long,
    #[error("the nats-server sent what is not understood: {0}")]
    Unknown(String),
}

// === impl Lines ===

impl Lines {
    pub fn new(limit: usize) -> Self {
        Self { held: Vec::new(), skip: 0, limit }
    }

    /// Takes what was read, in pieces of any size, and gives each thing that is whole now.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Said<'_>)) -> Result<(), Garbled> {
        if self.held.is_empty() {
            let used = self.all(bytes, &mut each)?;
            self.held.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let used = self.all(&held, &mut each)?;
        held.drain(..used);
        self.held = held;
        Ok(())
    }

    /// How many of the bytes are done with.
    fn all(&mut self, bytes: &[u8], each: &mut impl FnMut(Said<'_>)) -> Result<usize, Garbled> {
        let mut at = 0;
        loop {
            let passed = self.skip.min(bytes.len() - at);
            self.skip -= passed;
            at += passed;
            match self.next(&bytes[at..], each)? {
                Some(used) => at += used,
                None => return Ok(at),
            }
        }
    }

    /// The next thing; gives its length, without what is passed over. `None`: it is not whole.
    fn next(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Said<'_>),
    ) -> Result<Option<usize>, Garbled> {
        let Some(end) = line_end(bytes) else {
            return if bytes.len() > LONGEST_LINE { Err(Garbled::Long) } else { Ok(None) };
        };
        let (line, behind) = (&bytes[..end], end + 2);
        let said = match said(line)? {
            Line::Whole(said) => said,
            Line::Announces { subscription, names, size } => {
                let held = size <= self.limit && names.is_some();
                let whole = if held { behind + size + 2 } else { behind };
                if bytes.len() < whole {
                    return Ok(None);
                }
                let payload = held.then(|| &bytes[behind..behind + size]);
                let (subject, reply_to) = names.unwrap_or_default();
                if payload.is_none() {
                    self.skip = size.saturating_add(2);
                }
                each(Said::Message { subscription, subject, reply_to, payload });
                return Ok(Some(whole));
            }
        };
        each(said);
        Ok(Some(behind))
    }
}

/// One line.
enum Line<'a> {
    Whole(Said<'a>),
    /// A payload of `size` bytes follows.
    Announces {
        subscription: u64,
        /// Subject and where an answer goes; `None` where they are no text.
        names: Option<(&'a str, &'a str)>,
        size: usize,
    },
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    line.windows(2).position(|two| two == b"\r\n")
}

fn said(line: &[u8]) -> Result<Line<'_>, Garbled> {
    let unknown = || {
        let short = &line[..line.len().min(80)];
        Garbled::Unknown(String::from_utf8_lossy(short).into_owned())
    };
    if let Some(rest) = line.strip_prefix(b"MSG").filter(|rest| rest.first().is_some_and(blank)) {
        return announced(rest).ok_or_else(unknown);
    }
    let text = std::str::from_utf8(line).map_err(|_| unknown())?;
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    Ok(Line::Whole(match word {
        "INFO" => Said::Info(rest.trim().as_bytes()),
        "PING" => Said::Ping,
        "PONG" => Said::Pong,
        "+OK" => Said::Ok,
        "-ERR" => Said::Error(rest.trim().trim_matches('\'')),
        _ => return Err(unknown()),
    }))
}

/// What parts words; nothing else does.
fn blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `SUBJECT SUBSCRIPTION [REPLY] SIZE`. A server hands on whatever bytes a publisher has put into
/// the names: those are no reason to hear nobody else.
fn announced(rest: &[u8]) -> Option<Line<'_>> {
    let mut words = rest.split(blank).filter(|word| !word.is_empty());
    let (subject, subscription) = (words.next()?, name(words.next()?)?.parse().ok()?);
    let (first, second) = (words.next()?, words.next());
    let (reply_to, size) = match second {
        Some(size) => (first, size),
        None => (&b""[..], first),
    };
    let size = name(size)?.parse().ok()?;
    let names = name(subject).zip(name(reply_to));
    words.next().is_none().then_some(Line::Announces { subscription, names, size })
}

/// A name that is text.
fn name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|name| !name.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    /// What is said, written down.
    fn told(pieces: &[&[u8]]) -> Result<(Vec<String>, Lines), Garbled> {
        let (mut lines, mut all) = (Lines::new(LIMIT), Vec::new());
        for piece in pieces {
            lines.take(piece, |said| all.push(format!("{said:?}")))?;
        }
        Ok((all, lines))
    }

    fn text(size: usize) -> Vec<u8> {
        let mut text = b"INFO {\"a\": 1}\r\nPING\r\nMSG a.b 7 4\r\n\r\n\r\n\r\n".to_vec();
        text.extend(format!("MSG c 8 _INBOX.x {size}\r\n").bytes());
        text.extend(std::iter::repeat_n(b'x', size));
        text.extend(b"\r\n-ERR 'No'\r\n+OK\r\nPONG\r\nMSG e 9 0\r\n\r\n");
        text
    }

    #[test]
    fn it_is_the_same_in_pieces_of_any_size() {
        for size in [0, 5, LIMIT, LIMIT + 1, 5000] {
            let text = text(size);
            let (whole, _) = told(&[&text]).expect("it is well formed");
            assert_eq!(whole.len(), 8, "{whole:?}");
            for step in 1..text.len().min(300) {
                let pieces: Vec<&[u8]> = text.chunks(step).collect();
                let (cut, lines) = told(&pieces).expect("it is well formed");
                assert_eq!(cut, whole, "in pieces of {step}");
                assert!(lines.held.is_empty() && lines.skip == 0);
            }
        }
    }

    #[test]
    fn what_is_too_large_is_announced_and_never_held() {
        let (mut lines, mut told) = (Lines::new(LIMIT), Vec::new());
        lines
            .take(b"MSG a 1 b 64000000\r\n", |said| told.push(format!("{said:?}")))
            .expect("well formed");
        assert_eq!(told.len(), 1, "before any byte of it has come");
        assert!(told[0].contains("payload: None"), "{told:?}");
        for _ in 0..64_000 {
            lines.take(&[b'\n'; 1000], |said| panic!("{said:?}")).expect("well formed");
            assert!(lines.held.is_empty());
        }
        lines.take(b"\r\nPING\r\n", |said| told.push(format!("{said:?}"))).expect("well formed");
        assert_eq!(told[1], "Ping");
    }

    #[test]
    fn names_that_are_no_text_are_passed_over_and_end_nothing() {
        let strange: [&[u8]; 3] = [
            b"MSG nett.l.rpc 1 r\xff\xfe 2\r\nab\r\n",
            b"MSG nett.\xff 1 2\r\nab\r\n",
            b"MSG nett.a\x0cb 1 2\r\nab\r\n",
        ];
        for strange in strange {
            let (all, lines) = told(&[strange, b"PING\r\n"]).expect("it is read on");
            assert_eq!(all.len(), 2, "{all:?}");
            assert!(all[0].contains("payload: None") && all[1] == "Ping", "{all:?}");
            assert!(lines.held.is_empty() && lines.skip == 0);
        }
    }

    #[test]
    fn what_is_not_understood_ends_it() {
        for bad in ["HELLO\r\n", "MSG a b 3\r\n", "MSG a 1 b 3 4\r\n", "MSG a 1 -3\r\n"] {
            assert!(matches!(told(&[bad.as_bytes()]), Err(Garbled::Unknown(_))), "{bad}");
        }
        let long = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(told(&[&long]).map(drop).expect_err("no line"), Garbled::Long);
    }
}
