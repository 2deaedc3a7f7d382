//! The control packet of BFD (RFC 5880 section 4.1), in and out.
//!
//! Reading is total: any bytes give a packet or the [`Flaw`] for which section 6.8.6 says that they
//! are dropped. What depends on a session (discriminators, states) is the session's to judge.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// Octets of a packet without authentication, which is the only kind that is sent or taken.
pub const LENGTH: usize = 24;
/// The only version there is (RFC 5880 section 4.1).
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// A session's state (RFC 5880 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    AdminDown = 0,
    Down = 1,
    Init = 2,
    Up = 3,
}

/// Why the sender's session last went down, as a number of RFC 5880 section 4.1; 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Diagnostic(u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    /// Asks for an answer at once, because something of what follows has changed.
    pub poll: bool,
    /// That answer.
    pub answer: bool,
    /// The sender's sessions outlive its control plane.
    pub independent: bool,
    /// The sender asks for no periodic packets once both ends are up.
    pub demand: bool,
    pub multiplier: NonZeroU8,
    pub my_discriminator: NonZeroU32,
    /// 0 until the sender has heard of the receiver.
    pub your_discriminator: u32,
    /// Least time between two packets of the sender, in whole microseconds.
    pub desired_tx: Duration,
    /// Least time between two packets that the sender can take; 0: it wants none.
    pub required_rx: Duration,
    /// The same for echo packets; 0: it takes none.
    pub required_echo_rx: Duration,
}

/// Why bytes are no packet to be looked at further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("{0} octets are too few for a control packet")]
    Short(usize),
    #[error("its version is {0} and not 1")]
    Version(u8),
    #[error("its length field says {says}, and {there} octets came")]
    Length { says: u8, there: usize },
    #[error("it is authenticated, and nothing of that was agreed")]
    Authenticated,
    #[error("it is a multipoint packet")]
    Multipoint,
    #[error("its detection multiplier is zero")]
    NoMultiplier,
    #[error("its own discriminator is zero")]
    NoDiscriminator,
}

// === impl State ===

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

// === impl Diagnostic ===

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const EXPIRED: Self = Self(1);
    pub const SIGNALLED: Self = Self(3);
    pub const ADMIN_DOWN: Self = Self(7);

    /// The lowest five bits count.
    pub fn new(number: u8) -> Self {
        Self(number & 0x1f)
    }

    /// In words for people.
    pub fn text(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbour signalled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "a diagnostic of a later standard",
        }
    }
}

// === impl Packet ===

impl Packet {
    /// Reads the payload of a datagram.
    pub fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        let Some(head) = bytes.first_chunk::<LENGTH>() else {
            return Err(Flaw::Short(bytes.len()));
        };
        let [first, second, multiplier, length, rest @ ..] = head;
        if first >> 5 != VERSION {
            return Err(Flaw::Version(first >> 5));
        }
        let authenticated = second & AUTHENTICATION != 0;
        let least = if authenticated { LENGTH + 2 } else { LENGTH };
        if usize::from(*length) < least || usize::from(*length) > bytes.len() {
            return Err(Flaw::Length { says: *length, there: bytes.len() });
        }
        if authenticated {
            return Err(Flaw::Authenticated);
        }
        if second & MULTIPOINT != 0 {
            return Err(Flaw::Multipoint);
        }
        let word = |at: usize| {
            let octets = rest[at * 4..][..4].try_into().expect("five words of four octets");
            u32::from_be_bytes(octets)
        };
        let micros = |at: usize| Duration::from_micros(u64::from(word(at)));
        Ok(Self {
            diagnostic: Diagnostic::new(*first),
            state: State::from_bits(second >> 6),
            poll: second & POLL != 0,
            answer: second & FINAL != 0,
            independent: second & CONTROL_PLANE_INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            multiplier: NonZeroU8::new(*multiplier).ok_or(Flaw::NoMultiplier)?,
            my_discriminator: NonZeroU32::new(word(0)).ok_or(Flaw::NoDiscriminator)?,
            your_discriminator: word(1),
            desired_tx: micros(2),
            required_rx: micros(3),
            required_echo_rx: micros(4),
        })
    }

    pub fn write(&self) -> [u8; LENGTH] {
        let Self {
            diagnostic,
            state,
            poll,
            answer,
            independent,
            demand,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_tx,
            required_rx,
            required_echo_rx,
        } = self;
        let flag = |set: &bool, bit: u8| if *set { bit } else { 0 };
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | diagnostic.0;
        bytes[1] = (*state as u8) << 6
            | flag(poll, POLL)
            | flag(answer, FINAL)
            | flag(independent, CONTROL_PLANE_INDEPENDENT)
            | flag(demand, DEMAND);
        bytes[2] = multiplier.get();
        bytes[3] = LENGTH as u8;
        let micros = |time: &Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let words = [
            my_discriminator.get(),
            *your_discriminator,
            micros(desired_tx),
            micros(required_rx),
            micros(required_echo_rx),
        ];
        for (octets, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            octets.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by hand from the figure of RFC 5880 section 4.1.
    const UP: [u8; 24] =
        [0x21, 0xe8, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 1, 0x86, 0xa0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];

    #[test]
    fn the_figure_of_the_standard() {
        let packet = Packet::read(&UP).expect("a good packet");
        assert_eq!((packet.diagnostic, packet.state), (Diagnostic::EXPIRED, State::Up));
        assert!(packet.poll && packet.independent && !packet.answer && !packet.demand);
        assert_eq!((packet.multiplier.get(), packet.my_discriminator.get()), (3, 7));
        assert_eq!(packet.your_discriminator, 9);
        assert_eq!(packet.desired_tx, Duration::from_millis(100));
        assert_eq!(packet.required_rx, Duration::from_millis(300));
        assert_eq!(packet.write(), UP);
    }

    #[test]
    fn what_section_6_8_6_drops() {
        let with = |at: usize, value: u8| {
            let mut bytes = UP;
            bytes[at] = value;
            Packet::read(&bytes).expect_err("flawed")
        };
        assert_eq!(with(0, 0x41), Flaw::Version(2));
        assert_eq!(with(3, 23), Flaw::Length { says: 23, there: 24 });
        assert_eq!(with(3, 25), Flaw::Length { says: 25, there: 24 });
        assert_eq!(with(1, 0xc4), Flaw::Length { says: 24, there: 24 }, "too short for it");
        assert_eq!(with(1, 0xc1), Flaw::Multipoint);
        assert_eq!(with(2, 0), Flaw::NoMultiplier);
        assert_eq!(with(7, 0), Flaw::NoDiscriminator);
        assert_eq!(Packet::read(&UP[..23]), Err(Flaw::Short(23)));
        let mut long = UP.to_vec();
        long.extend([0; 4]);
        assert!(Packet::read(&long).is_ok(), "what is behind its length does not count");
        (long[1], long[3]) = (0xc4, 28);
        assert_eq!(Packet::read(&long), Err(Flaw::Authenticated));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(mut bytes in prop::array::uniform24(any::<u8>())) {
            (bytes[0], bytes[3]) = (0x20 | bytes[0] & 0x1f, 24);
            bytes[1] &= !(AUTHENTICATION | MULTIPOINT);
            if let Ok(packet) = Packet::read(&bytes) {
                prop_assert_eq!(packet.write(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::read(&bytes);
        }
    }
}
