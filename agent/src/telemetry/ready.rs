//! What an agent has to have done once before it counts as ready.

/// A latch each: fulfilled once, fulfilled for good. Whether things are well now is another
/// question, which health and the other metrics answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// The journal was replayed.
    Journal,
    /// The kernel was read back equal to what is wanted.
    Kernel,
    /// The zone was built from the journal and is served where DNS is configured.
    Zone,
    /// The bus was reached.
    Bus,
}

// === impl Duty ===

impl Duty {
    pub const ALL: [Self; 4] = [Self::Journal, Self::Kernel, Self::Zone, Self::Bus];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Kernel => "kernel",
            Self::Zone => "zone",
            Self::Bus => "bus",
        }
    }

    /// A node that starts without the bus does all its work from the journal.
    pub fn is_required(self) -> bool {
        match self {
            Self::Journal | Self::Kernel | Self::Zone => true,
            Self::Bus => false,
        }
    }
}
