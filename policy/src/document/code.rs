//! The stable names of everything the configuration check can complain about.
//!
//! A code is an interface: scripts match it and `docs/CONFIG.md` explains it, so a code is never
//! renamed or reused for something else.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of mistake a diagnostic is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name shown in brackets and in `docs/CONFIG.md`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    // Form of the file and of single values.
    /// Not valid TOML or JSON.
    Syntax = "syntax",
    UnknownKey = "unknown-key",
    MissingKey = "missing-key",
    WrongType = "wrong-type",
    /// Not one of the words allowed here.
    BadValue = "bad-value",
    OutOfRange = "out-of-range",
    BadId = "bad-id",
    BadSelector = "bad-selector",
    BadCidr = "bad-cidr",
    CidrHostBits = "cidr-host-bits",
    BadAddress = "bad-address",
    BadDuration = "bad-duration",
    BadCapacity = "bad-capacity",
    BadRate = "bad-rate",
    BadDscp = "bad-dscp",
    BadTcClass = "bad-tc-class",
    BadTime = "bad-time",
    BadGate = "bad-gate",
    BadDomain = "bad-domain",
    BadUrl = "bad-url",
    BadInterface = "bad-interface",
    BadNkey = "bad-nkey",
    // Fabric.
    NoSites = "no-sites",
    DuplicateId = "duplicate-id",
    DuplicateKey = "duplicate-key",
    DuplicateRank = "duplicate-rank",
    DuplicateAddress = "duplicate-address",
    TooMany = "too-many",
    UnknownSite = "unknown-site",
    UnknownNode = "unknown-node",
    UnknownCluster = "unknown-cluster",
    UnknownLink = "unknown-link",
    PrefixOverlap = "prefix-overlap",
    VipRangeOverlap = "vip-range-overlap",
    NsWithoutAddress = "ns-without-address",
    DnssecKeys = "dnssec-keys",
    EvenVoters = "even-voters",
    VotersShareSite = "voters-share-site",
    /// A generation of voters that changes nothing, or several things.
    VotersGeneration = "voters-generation",
    /// A change of the voters that the nodes, or the lease, do not agree with.
    VotersChange = "voters-change",
    OuterMissing = "outer-missing",
    OuterNotAllowed = "outer-not-allowed",
    RouteWithoutBorder = "route-without-border",
    InterfaceUsedTwice = "interface-used-twice",
    LinkInsideSite = "link-inside-site",
    LinkEndNotBorder = "link-end-not-border",
    LinkFamilyOneEnd = "link-family-one-end",
    LinkSubnetsDiffer = "link-subnets-differ",
    /// BFD over a gateway between the ends of a link.
    BfdOneHop = "bfd-one-hop",
    /// A site that lets the traffic of no two other sites through.
    TransitSites = "transit-sites",
    /// Traffic that cannot come to a site or on from there.
    TransitLinks = "transit-links",
    /// A pair of sites with two ways through others.
    TransitTwice = "transit-twice",
    ClusterSite = "cluster-site",
    SafetyImpossible = "safety-impossible",
    /// A safety rule that says nothing, or several things.
    SafetyKind = "safety-kind",
    LeaseWaitTooShort = "lease-wait-too-short",
    FreezeEmpty = "freeze-empty",
    // Services.
    NoVips = "no-vips",
    VipOutsideRanges = "vip-outside-ranges",
    VipIsNode = "vip-is-node",
    VipUsedTwice = "vip-used-twice",
    PrimaryInStandby = "primary-in-standby",
    SiteRepeated = "site-repeated",
    ModeConflict = "mode-conflict",
    WitnessSite = "witness-site",
    BackendMissing = "backend-missing",
    FamilyMissing = "family-missing",
    SiteNotListed = "site-not-listed",
    BackendElsewhere = "backend-elsewhere",
    BackendIsVip = "backend-is-vip",
    AddressOutsideSite = "address-outside-site",
    ResidencyConflict = "residency-conflict",
    TooFewVoters = "too-few-voters",
    IsolationConflict = "isolation-conflict",
    TooFewApprovers = "too-few-approvers",
    /// Somebody outside takes part who is no operator with the role for it.
    UnknownParty = "unknown-party",
    RampSteps = "ramp-steps",
    ShiftConflict = "shift-conflict",
    NotInThisRelease = "not-in-this-release",
    /// A note, not a mistake: checked for form, then without function.
    NoFunctionYet = "no-function-yet",
    // The agent's own file.
    Unreadable = "unreadable",
    TableOverlap = "table-overlap",
    BadMarkMask = "bad-mark-mask",
    BadKeyFile = "bad-key-file",
    KeyMismatch = "key-mismatch",
    BadFilter = "bad-filter",
    TsigKeyMissing = "tsig-key-missing",
    ZoneKeyMissing = "zone-key-missing",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
