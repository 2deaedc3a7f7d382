//! One state of the model, small enough to copy: one service, a few voters, nodes and claims.
//!
//! There is no absolute time. What a node measured is an *age* on its own clock, in ticks, and
//! stops growing where the rules do not look any further (T or W).

pub(crate) const VOTERS: usize = 5;
pub(crate) const NODES: usize = 3;
/// Incarnations of one voter.
pub(crate) const LIVES: usize = 3;
pub(crate) const CLAIMS: usize = 3;

/// A claim's place in [`crate::runs::Run::claims`], plus one; 0 is none.
pub(crate) type ClaimNo = u8;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) voters: [Voter; VOTERS],
    pub(crate) nodes: [Node; NODES],
    /// The claims that have served, as bits by place.
    pub(crate) served: u8,
    pub(crate) deaths: u8,
    pub(crate) losses: u8,
    /// Somebody has said that sites are off: the claim without a majority exists.
    pub(crate) asserted: bool,
    /// The voters that are off, as bits.
    pub(crate) off: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Voter {
    pub(crate) life: u8,
    /// By life, in the order of their numbers, without gaps.
    pub(crate) votes: [[ClaimNo; CLAIMS]; LIVES],
    /// An epoch.
    pub(crate) floor: u8,
    /// Voters still to be read, as bits.
    pub(crate) pending: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) dead: bool,
    /// It has read the claim that was made without a majority.
    pub(crate) knows: bool,
    /// Ticks that this clock must not lose before it may lose one again.
    pub(crate) steady: u8,
    pub(crate) fence: u8,
    /// The epoch up to which it confirmed its withdrawal.
    pub(crate) said: u8,
    /// By claim: for how many ticks a gate that a dead agent left stays open.
    pub(crate) gate: [u8; CLAIMS],
    /// By claim: age of the first vote for it (kept for one mutant only).
    pub(crate) first: [u8; CLAIMS],
    pub(crate) views: [[View; LIVES]; VOTERS],
    pub(crate) slots: [Slot; VOTERS],
}

/// What a node knows of one life of one voter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Votes 1 to this are read.
    pub(crate) read: u8,
    pub(crate) newest: ClaimNo,
    /// Age of the reading of `newest`.
    pub(crate) since: u8,
    /// Age of the first news of this life.
    pub(crate) heard: u8,
    pub(crate) known: bool,
    /// By number of votes stated: the age of the youngest ask so answered.
    pub(crate) young: [u8; CLAIMS + 1],
}

/// The one message that can be on its way between a node and a voter; it can arrive any number of
/// times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) used: bool,
    /// Age of the ask.
    pub(crate) age: u8,
    pub(crate) answered: bool,
    pub(crate) life: u8,
    pub(crate) stated: u8,
}

// === impl Voter ===

impl Voter {
    pub(crate) fn count(&self, life: usize) -> usize {
        self.votes[life].iter().take_while(|v| **v != 0).count()
    }

    pub(crate) fn made(&self) -> usize {
        self.count(usize::from(self.life))
    }

    pub(crate) fn newest(&self) -> ClaimNo {
        let made = self.made();
        if made == 0 { 0 } else { self.votes[usize::from(self.life)][made - 1] }
    }

    pub(crate) fn ever_voted(&self, claim: ClaimNo) -> bool {
        self.votes.iter().flatten().any(|v| *v == claim)
    }
}

/// The part of a state that belongs to one voter, as bytes.
struct Column {
    bytes: [u8; 64],
    len: usize,
}

impl Column {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

// === impl State ===

impl State {
    /// 64 bits that stand for the state. Voters differ in nothing but their number, so states that
    /// only exchange voters have one fingerprint (unless `fixed`).
    pub(crate) fn fingerprint(
        &self,
        voters: usize,
        nodes: usize,
        lives: usize,
        fixed: bool,
    ) -> u64 {
        let mut order: [usize; VOTERS] = std::array::from_fn(|i| i);
        let columns: [Column; VOTERS] = std::array::from_fn(|p| {
            let mut column = Column { bytes: [0; 64], len: 0 };
            if p < voters {
                self.column(&mut column, p, nodes, lives);
            }
            column
        });
        if !fixed {
            order[..voters].sort_unstable_by(|a, b| columns[*a].bytes.cmp(&columns[*b].bytes));
        }
        let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
        for p in &order[..voters] {
            let column = &columns[*p];
            column.bytes[..column.len.next_multiple_of(8)].chunks(8).for_each(|c| hash.eight(c));
            let place = |q: &usize| order.iter().position(|o| o == q).expect("a permutation");
            let pending = (0..voters).filter(|q| self.voters[*p].pending & (1 << q) != 0);
            hash.word(pending.map(|q| 1u64 << place(&q)).sum());
        }
        for node in &self.nodes[..nodes] {
            let Node { dead, knows, steady, fence, said, gate, first, views: _, slots: _ } = node;
            hash.eight(&[u8::from(*dead), *steady, *fence, *said, u8::from(*knows), 0, 0, 0]);
            hash.eight(&[gate[0], gate[1], gate[2], first[0], first[1], first[2], 0, 0]);
        }
        let asserted = u8::from(self.asserted);
        hash.eight(&[self.served, self.deaths, self.losses, asserted, self.off, 0, 0, 0]);
        hash.0
    }

    fn column(&self, column: &mut Column, p: usize, nodes: usize, lives: usize) {
        let Voter { life, votes, floor, pending: _ } = &self.voters[p];
        column.push(*life);
        column.push(*floor);
        votes[..lives].iter().flatten().for_each(|v| column.push(*v));
        for node in &self.nodes[..nodes] {
            for view in &node.views[p][..lives] {
                let View { read, newest, since, heard, known, young } = *view;
                column.push(read << 4 | newest << 1 | u8::from(known));
                column.push(since << 4 | heard);
                column.push(young[0] << 4 | young[1]);
                column.push(young[2] << 4 | young[3]);
            }
            let Slot { used, age, answered, life, stated } = node.slots[p];
            column.push(age << 4 | life << 2 | u8::from(used) << 1 | u8::from(answered));
            column.push(stated);
        }
    }
}

/// 64 bits that stand for these bytes.
pub(crate) fn fingerprint_of(bytes: &[u8]) -> u64 {
    let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
    for part in bytes.chunks(8) {
        let mut eight = [0; 8];
        eight[..part.len()].copy_from_slice(part);
        hash.eight(&eight);
    }
    hash.0
}

struct Hash(u64);

impl Hash {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = (mixed ^ (mixed >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53).rotate_left(29);
    }

    fn eight(&mut self, bytes: &[u8]) {
        self.word(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    }
}
