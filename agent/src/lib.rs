//! The library behind `nett-agent` and `nettctl`.

pub mod kernel;
