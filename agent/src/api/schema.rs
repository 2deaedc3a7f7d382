//! The JSON Schema of the API, as `nettctl schema` prints it.

/// JSON Schema (draft 2020-12) of what `-o json` prints, and of a call.
pub const SCHEMA: &str = include_str!("schema.json");
