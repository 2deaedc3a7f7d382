//! The randomness seam: ids of entries, log incarnations and jitter come from here.

use nett_policy::id::WallMs;

/// The system's random numbers, or a sequence from a seed.
#[derive(Debug)]
pub struct Rng {
    source: Source,
}

#[derive(Debug)]
enum Source {
    System,
    Seed(u64),
}

impl Rng {
    pub fn system() -> Self {
        Self { source: Source::System }
    }

    /// The same sequence for the same seed (SplitMix64, Steele, Lea and Flood 2014).
    pub fn seeded(seed: u64) -> Self {
        Self { source: Source::Seed(seed) }
    }

    /// A ULID in lower case: 48 bits of time, 80 random ones.
    pub fn ulid(&mut self, now: WallMs) -> String {
        let random = (u128::from(self.word()) << 64) | u128::from(self.word());
        ulid::Ulid::from_parts(now.0, random).to_string().to_ascii_lowercase()
    }

    /// From 0 up to, but not including, 1.
    pub fn share(&mut self) -> f64 {
        // The upper 53 bits: as many as a double holds exactly.
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn word(&mut self) -> u64 {
        match &mut self.source {
            Source::System => {
                let mut bytes = [0u8; 8];
                getrandom::fill(&mut bytes).expect("the system has random numbers");
                u64::from_ne_bytes(bytes)
            }
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }
}
