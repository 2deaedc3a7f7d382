//! The serialised shapes of the API, converted from domain types by hand.
//!
//! Domain types carry no serde derive; a change to one of them must not change what users parse.
//! Requests refuse unknown fields, so that a misspelt option is an error. Responses may gain
//! fields: a reader passes over what it does not know.

mod backup;
mod conflict;
mod lease;
mod path;
mod plan;
mod request;
mod response;
mod service;
mod stamp;
mod status;
mod task;

pub use backup::{AuditPartDoc, BackupDoc, RestoredDoc};
pub use conflict::{ClaimDoc, ConflictDoc};
pub use lease::{LeaseDoc, LeasesDoc, VoterDoc, VotersDoc};
pub use path::{
    CountDoc, DrainedDoc, DrainedRow, HopDoc, KernelWord, PairDoc, PathDoc, RepairDoc,
    SeparationDoc, ServiceLossDoc, SimulationDoc, WayDoc,
};
pub use plan::{OpDoc, OpKind, PlanDoc, PlanNode, PlanStep, RefusalDoc, WarningDoc, ops_of};
pub use request::{ApiCall, ApiRequest, ObjectDoc, RampDoc, TermsDoc, VERSION, VerbDoc};
pub use response::{
    ApiError, ApiResponse, AuditDoc, AuditLine, AuditVerdictDoc, CommandReply, ErrorCode,
    ExplainDoc, FactDoc, IdentityDoc, Outcome, Payload, RejoinDoc,
};
pub use service::{DefinitionDoc, ServiceDoc, ServiceLine, ServiceSite, SpreadDoc};
pub use stamp::{Stamp, StampError};
pub use status::{
    BfdDoc, FloodDoc, HeadDoc, HeldDoc, LinkDoc, LinkEndDoc, LinkState, LocalDoc, NodeDoc,
    RateLimitedDoc, RevokedDoc, SaturatedDoc, SiteDoc, StatusDoc,
};
pub use task::{
    AckDoc, ApprovalDoc, CostDoc, ExternalDoc, StepDoc, StepStateDoc, TaskDoc, TaskLine,
    TaskStateDoc, TimesDoc, WishDoc,
};
