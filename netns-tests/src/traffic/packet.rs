//! The probe packet: magic, number; an answer adds the time it was given and the server's name.

const MAGIC: [u8; 8] = *b"nettlab1";
const HEAD: usize = 16;

/// Room for the longest packet this module makes.
pub(crate) const MAX: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) number: u64,
    pub(crate) served_at: u64,
    pub(crate) server: &'a str,
}

pub(crate) fn question(number: u64) -> [u8; HEAD] {
    let mut packet = [0; HEAD];
    packet[..8].copy_from_slice(&MAGIC);
    packet[8..].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The number in a question, which an ICMP error quotes as well.
pub(crate) fn number(packet: &[u8]) -> Option<u64> {
    let rest = packet.strip_prefix(&MAGIC)?;
    rest.first_chunk().map(|n| u64::from_be_bytes(*n))
}

pub(crate) fn answer(question: &[u8], served_at: u64, server: &str) -> Option<Vec<u8>> {
    number(question)?;
    let mut packet = question.get(..HEAD)?.to_vec();
    packet.extend_from_slice(&served_at.to_be_bytes());
    packet.extend_from_slice(server.as_bytes());
    packet.truncate(MAX);
    Some(packet)
}

pub(crate) fn parse_answer(packet: &[u8]) -> Option<Answer<'_>> {
    let number = number(packet)?;
    let (served_at, name) = packet.get(HEAD..)?.split_first_chunk()?;
    Some(Answer {
        number,
        served_at: u64::from_be_bytes(*served_at),
        server: std::str::from_utf8(name).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_which_question_who_and_when() {
        let question = question(7);
        let bytes = answer(&question, 42, "osl").expect("a question");
        let expected = Answer { number: 7, served_at: 42, server: "osl" };
        assert_eq!(parse_answer(&bytes), Some(expected));
        assert_eq!(number(&question), Some(7));
    }

    #[test]
    fn other_bytes_are_neither_question_nor_answer() {
        assert_eq!(number(b"nettlab0"), None);
        assert_eq!(number(b"nettlab1123"), None);
        assert_eq!(answer(b"x", 1, "osl"), None);
        assert_eq!(parse_answer(&question(1)), None);
    }
}
