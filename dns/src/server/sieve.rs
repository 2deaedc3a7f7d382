//! A filter at the socket, by which the kernel itself passes over most of a rush.
//!
//! A question that is passed over here is never put into the queue, wakes nobody and costs no
//! system call. The filter knows less than [`super::intake`], which has the last word on what comes
//! through: each known network sets one of [`BITS`] bits, and of the questions whose network has an
//! unset bit a share comes through by chance.
//!
//! It is a program of classic BPF (`SO_ATTACH_FILTER`, socket(7), `linux/filter.h`) and needs no
//! capability. What it passes over the kernel counts with what it lost (`SO_RXQ_OVFL`).

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use nix::libc;
use socket2::{SockFilter, SockRef};

use super::bind::READ_TIMEOUT;

/// Of [`ALL`] questions of the unknown, the filter lets so many through.
pub(super) const ALL: u32 = 1024;

/// As many as fit in a program of which the kernel takes two at the same time with the least
/// memory it allows for options of a socket (`net.core.optmem_max`, 20 KiB in older kernels).
const WORDS: usize = 256;
const BITS: u32 = 32 * WORDS as u32;
/// Instructions of a filter, at most.
const LONGEST: usize = 1024;
/// While there is a filter, nobody may come through for a long time; whoever reads wakes so often.
const PATIENCE: Duration = Duration::from_millis(20);

/// Turns networks into bits, so that nobody else knows which ones share a bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    high: u32,
    low: u32,
}

/// What comes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holes {
    words: [u32; WORDS],
    /// Out of [`ALL`].
    share: u32,
}

// === impl Secret ===

impl Secret {
    /// From 64 random bits. A product's upper bits depend on all of an odd factor's bits.
    pub(super) fn new(random: u64) -> Self {
        let odd = |n: u64| u32::try_from(n & u64::from(u32::MAX)).expect("32 bits") | 1;
        Self { high: odd(random >> 32), low: odd(random) }
    }

    /// The bit of a network, below [`BITS`]: of an IPv4 /24, or of an IPv6 /56.
    pub(super) fn bit(self, source: IpAddr) -> u32 {
        let (first, second) = match source {
            IpAddr::V4(a) => (0, a.to_bits()),
            IpAddr::V6(a) => {
                let [a, b, c, d, e, f, g, h, ..] = a.octets();
                (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
            }
        };
        let low = (second & NETWORK).wrapping_mul(self.low);
        first.wrapping_mul(self.high).wrapping_add(low) >> SHIFT
    }

    /// A tag of a network, of a hash of it, that its bit can be had from; never 0.
    pub(super) fn tag(self, source: IpAddr, hash: u64) -> u32 {
        let rest = u32::try_from(hash >> (u64::BITS - SHIFT)).expect("so many bits are left");
        (self.bit(source) << SHIFT) | rest | 1
    }

    pub(super) fn bit_of_tag(tag: u32) -> u32 {
        tag >> SHIFT
    }
}

/// The part of the last word of a network that belongs to it.
const NETWORK: u32 = 0xffff_ff00;
const SHIFT: u32 = u32::BITS - BITS.trailing_zeros();

// === impl Holes ===

impl Holes {
    /// Lets `share` of [`ALL`] of everybody through.
    pub(super) fn new(share: u32) -> Self {
        Self { words: [0; WORDS], share }
    }

    /// Lets every network of this bit through.
    pub(super) fn open(&mut self, bit: u32) {
        self.words[bit as usize / 32 % WORDS] |= 1 << (bit % 32);
    }

    /// Whether every network of this bit comes through.
    pub(super) fn is_open(&self, bit: u32) -> bool {
        self.words[bit as usize / 32 % WORDS] & (1 << (bit % 32)) != 0
    }

    /// Out of [`ALL`].
    pub(super) fn share(&self) -> u32 {
        self.share
    }

    /// Puts the filter before the queue of a socket, in the place of one that is there already, or
    /// takes that away if everybody is to come through. Questions that lie in the queue stay.
    pub(super) fn attach(&self, socket: &UdpSocket, secret: Secret) -> io::Result<()> {
        if self.share >= ALL {
            return detach(socket);
        }
        let six = socket.local_addr()?.is_ipv6();
        SockRef::from(socket).attach_filter(&self.program(secret, six))?;
        socket.set_read_timeout(Some(PATIENCE))
    }

    fn program(&self, secret: Secret, six: bool) -> Vec<SockFilter> {
        use libc::{BPF_ADD, BPF_AND, BPF_MUL, BPF_RSH};
        let mut code = Vec::with_capacity(LONGEST);
        if six {
            code.extend([load(SOURCE_6), number(BPF_MUL, secret.high), to_index()]);
            code.extend([load(SOURCE_6 + 4), number(BPF_AND, NETWORK)]);
            code.extend([number(BPF_MUL, secret.low), with_index(BPF_ADD)]);
        } else {
            code.extend([load(SOURCE_4), number(BPF_AND, NETWORK), number(BPF_MUL, secret.low)]);
        }
        // The number of the bit: the upper part tells its word, the lower one is kept for later.
        code.extend([number(BPF_RSH, SHIFT), to_index(), number(BPF_AND, 31), keep()]);
        code.extend([from_index(), number(BPF_RSH, 5)]);
        let behind = code.len() + size(WORDS);
        self.search(&mut code, 0..WORDS, behind);
        code.extend([kept_to_index(), with_index(BPF_RSH), number(BPF_AND, 1)]);
        code.extend([jump(libc::BPF_JEQ, 1, 3, 0), load(RANDOM), number(BPF_AND, ALL - 1)]);
        code.extend([jump(libc::BPF_JGE, self.share, 1, 0), end(u32::MAX), end(0)]);
        code
    }

    /// Puts the word whose number is in the accumulator into its place, and goes on at `behind`.
    fn search(&self, code: &mut Vec<SockFilter>, words: Range<usize>, behind: usize) {
        if words.len() == 1 {
            code.push(constant(self.words[words.start]));
            code.push(skip(behind - code.len() - 1));
            return;
        }
        let middle = words.start + words.len() / 2;
        let at = u32::try_from(middle).expect("a small number");
        let left = size(middle - words.start);
        match u8::try_from(left) {
            Ok(left) => code.push(jump(libc::BPF_JGE, at, left, 0)),
            Err(_) => code.extend([jump(libc::BPF_JGE, at, 0, 1), skip(left)]),
        }
        self.search(code, words.start..middle, behind);
        self.search(code, middle..words.end, behind);
    }
}

/// Takes the filter away; there may be none.
fn detach(socket: &UdpSocket) -> io::Result<()> {
    let none = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
    let detached = SockRef::from(socket).detach_filter();
    detached.or_else(|error| if none(&error) { Ok(()) } else { Err(error) })?;
    socket.set_read_timeout(Some(READ_TIMEOUT))
}

/// Instructions that find one of so many words.
fn size(words: usize) -> usize {
    if words == 1 {
        return 2;
    }
    let left = size(words / 2);
    // A comparison jumps over 255 instructions at most.
    let jumps = if left <= usize::from(u8::MAX) { 1 } else { 2 };
    jumps + left + size(words - words / 2)
}

// === instructions, linux/bpf_common.h ===

/// Where the source is in an IP header, counted from its begin (`SKF_NET_OFF`).
const SOURCE_4: u32 = libc::SKF_NET_OFF.cast_unsigned() + 12;
const SOURCE_6: u32 = libc::SKF_NET_OFF.cast_unsigned() + 8;
/// A random number (`SKF_AD_RANDOM`).
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();

fn instruction(code: u32, jump_true: u8, jump_false: u8, k: u32) -> SockFilter {
    let code = u16::try_from(code).expect("codes are short");
    SockFilter::new(code, jump_true, jump_false, k)
}

/// Loads 32 bits of the packet, in the host's order.
fn load(at: u32) -> SockFilter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

fn constant(k: u32) -> SockFilter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_IMM, 0, 0, k)
}

fn number(operation: u32, k: u32) -> SockFilter {
    instruction(libc::BPF_ALU | operation | libc::BPF_K, 0, 0, k)
}

fn with_index(operation: u32) -> SockFilter {
    instruction(libc::BPF_ALU | operation | libc::BPF_X, 0, 0, 0)
}

fn to_index() -> SockFilter {
    instruction(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0)
}

fn from_index() -> SockFilter {
    instruction(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0)
}

fn keep() -> SockFilter {
    instruction(libc::BPF_ST, 0, 0, 0)
}

fn kept_to_index() -> SockFilter {
    instruction(libc::BPF_LDX | libc::BPF_W | libc::BPF_MEM, 0, 0, 0)
}

fn jump(comparison: u32, k: u32, jump_true: u8, jump_false: u8) -> SockFilter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, jump_true, jump_false, k)
}

fn skip(instructions: usize) -> SockFilter {
    let k = u32::try_from(instructions).expect("a short program");
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, k)
}

fn end(taken: u32) -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, taken)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECRET: Secret = Secret { high: 0x9e37_79b1, low: 0x85eb_ca6b };

    /// Which of the questions of 250 networks come through to a socket with this filter.
    fn coming_through(holes: &Holes) -> Vec<IpAddr> {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        holes.attach(&socket, SECRET).expect("attached");
        let to = socket.local_addr().expect("bound");
        for source in networks() {
            let client = UdpSocket::bind((source, 0)).expect("all of 127.0.0.0/8 is local");
            client.send_to(b"question", to).expect("sent");
        }
        socket.set_nonblocking(true).expect("an option");
        let mut buffer = [0; 16];
        std::iter::from_fn(|| Some(socket.recv_from(&mut buffer).ok()?.1.ip())).collect()
    }

    fn networks() -> impl Iterator<Item = IpAddr> {
        (0..250).map(|n| IpAddr::V4(Ipv4Addr::new(127, 3, n, 77)))
    }

    #[test]
    fn the_kernel_finds_the_bit_of_every_network() {
        let mut holes = Holes::new(0);
        assert_eq!(coming_through(&holes), Vec::<IpAddr>::new());
        let known: Vec<_> = networks().step_by(3).collect();
        for network in &known {
            holes.open(SECRET.bit(*network));
        }
        let bits: Vec<_> = known.iter().map(|network| SECRET.bit(*network)).collect();
        let expected: Vec<_> = networks().filter(|n| bits.contains(&SECRET.bit(*n))).collect();
        assert!(expected.len() < 100, "networks have bits of their own");
        assert_eq!(coming_through(&holes), expected);
    }

    #[test]
    fn a_share_of_the_unknown_comes_through() {
        let all = coming_through(&Holes::new(ALL)).len();
        assert_eq!(all, 250);
        let half = coming_through(&Holes::new(ALL / 2)).len();
        assert!((75..175).contains(&half), "{half}");
    }

    #[test]
    fn every_bit_has_a_word_and_a_place_in_it() {
        for word in [0, 1, 63, 64, 127, 128, 200, 255] {
            for place in [0, 1, 31] {
                let bit = 32 * word + place;
                let wanted = |n: &u32| SECRET.bit(loopback(*n)) == bit;
                let Some(n) = (0..1 << 16).find(wanted) else { panic!("no network has bit {bit}") };
                let mut holes = Holes::new(0);
                holes.open(bit);
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
                holes.attach(&socket, SECRET).expect("attached");
                let client = UdpSocket::bind((loopback(n), 0)).expect("local");
                let sent = client.send_to(b"question", socket.local_addr().expect("bound"));
                sent.expect("sent");
                let came = socket.recv_from(&mut [0; 16]).expect("it comes through");
                assert_eq!(came.1.ip(), loopback(n), "bit {bit}");
            }
        }
    }

    fn loopback(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from((127 << 24) | (n << 8) | 9))
    }

    #[test]
    fn ipv6_and_an_end() {
        let socket = UdpSocket::bind("[::1]:0").expect("a free port");
        let to = socket.local_addr().expect("bound");
        let client = UdpSocket::bind("[::1]:0").expect("a free port");
        let mut holes = Holes::new(0);
        holes.attach(&socket, SECRET).expect("attached");
        client.send_to(b"lost", to).expect("sent");
        holes.open(SECRET.bit(to.ip()));
        holes.attach(&socket, SECRET).expect("attached");
        client.send_to(b"known", to).expect("sent");
        Holes::new(0).attach(&socket, SECRET).expect("attached");
        client.send_to(b"lost too", to).expect("sent");
        Holes::new(ALL).attach(&socket, SECRET).expect("detached");
        Holes::new(ALL).attach(&socket, SECRET).expect("there is none");
        client.send_to(b"free", to).expect("sent");
        let mut buffer = [0; 16];
        socket.set_nonblocking(true).expect("an option");
        let mut next = || socket.recv(&mut buffer).map(|n| buffer[..n].to_vec());
        assert_eq!(next().expect("received"), b"known");
        assert_eq!(next().expect("received"), b"free");
        assert!(next().is_err());
    }

    /// In the kernel's own terms, with what an older one allows for options of a socket.
    #[test]
    fn two_programs_fit_into_the_least_memory() {
        let bytes = 8 * Holes::new(0).program(SECRET, true).len();
        assert!(2 * (bytes + 512) < 20 * 1024, "{bytes}");
    }
}
