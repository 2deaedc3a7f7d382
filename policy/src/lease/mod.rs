//! The quorum lease: who may serve a `lease` or `exclusive` service, decided by votes in the log.
//!
//! Two sites must never serve such a service at one instant, although messages may be lost, late,
//! doubled, reordered or replayed and any node may die. One node per site is a *voter*: it votes
//! for the first claim of each epoch that it reads, never lower, with a number, on disk before
//! anybody sees it. Every serving node asks all voters again and again; an answer says how many
//! votes the voter has made. A voter *counts* for a claim at a node for as long as that answer is
//! young, if the node has read all those votes, the newest one is for that very claim, and it has
//! been known for the wait W (or every other candidate node has confirmed that it is shut). A node
//! serves while a majority counts. Start, renewal, fencing, return and expiry are this one
//! predicate.
//!
//! The rules are numbered as in the decision record `docs/adr/0009-quorum-lease-model.md`:
//! (1) the answer is younger than T, counted from when its ask was *sent*; (2) every vote it speaks
//! of has been read; (3) the newest of them for the service is the claim; (4) the wait is over.
//!
//! * [`rule`]: the predicate itself, on plain numbers. The model check calls these very functions.
//! * [`vote`]: votes, asks, answers, claims: what travels.
//! * [`knowledge`]: what one node has read, asked and been told.
//! * [`voter`]: what one voter has promised, and how it comes back without its journal.
//! * [`confirm`]: withdrawals that stand in for the wait.
//! * [`group`]: the predicate cut in two, as the kernel gate needs it.
//! * [`electorate`]: which sites vote, now and in the generation before.
//! * [`generation`]: when a voter goes from one generation to the next.
//! * [`said`]: what voters say of themselves.
//! * [`alone`]: claims made without a majority, by an operator's word that sites are off.
//!
//! Nothing here has a clock, a disk or a signature: times are on the node's own monotonic clock and
//! arguments, what must be on disk before something else happens is said at each function, and what
//! arrives has been verified. No rule of this module ever makes a node serve because it does *not*
//! know something; one makes it serve because two people say something ([`alone`]).
//!
//! After a crash a voter is what its journal says, or a new incarnation ([`voter::Voter::lost`]); a
//! node keeps what it has read and holds no answer ([`knowledge::Knowledge::restarted`]).
//!
//! [`placings`] says which claims there are, [`admission`] which commands may become one.

pub mod admission;
pub mod alone;
pub mod confirm;
pub mod electorate;
pub mod generation;
pub mod group;
pub mod knowledge;
pub mod placings;
pub mod rule;
pub mod said;
pub mod vote;
pub mod voter;
