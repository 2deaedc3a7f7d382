//! Every safety rule against every verb: who is refused, by which name, and that an override of
//! exactly that name lets it through; at acceptance, and again when the task takes effect.

mod bench;
mod loads;
mod table;
