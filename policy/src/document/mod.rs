//! Files as written, and their way to consistent types.
//!
//! Text in, values out: [`compile`] turns `fabric.toml` and `services.toml` (or the same data as
//! JSON, by file name) into a [`Fabric`] and a [`Catalog`], or into all that is wrong with them.
//! It never reads a file, never stops at the first mistake and never lets a half-valid value out,
//! so nothing behind it checks again. It keeps no state: a refused file changes nothing.
//!
//! A file is parsed into a tree with positions ([`Value`]), read by hand into documents whose
//! single values are valid ([`Reader`], [`form`]), and only then compared part with part.

mod build;
mod canonical;
mod code;
mod diagnostic;
mod fabric_check;
mod fabric_file;
mod failover_file;
pub mod form;
mod json;
mod link_check;
mod link_file;
mod nearest;
mod party_file;
mod read;
mod safety_check;
mod safety_file;
mod service_check;
mod service_file;
mod transit_file;
mod tree;
mod voters_file;
mod zone_file;

pub use code::Code;
pub use diagnostic::{Diagnostic, Place, Related, Severity, Span};
pub use nearest::nearest;
pub use read::{At, Reader, Section};
pub use tree::Value;

use crate::fabric::Fabric;
use crate::id::NodeId;
use crate::service::Catalog;

/// The text of a file and the name to call it by. A name that ends in `.json` means JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

impl SourceFile {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// What valid files mean, with notes that refuse nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    pub fabric: Fabric,
    pub catalog: Catalog,
    /// Keys that are accepted and have no function in this release, and an even number of voters
    /// in between.
    pub notes: Vec<Diagnostic>,
}

/// Both files; all mistakes of both are reported, the fabric's first, each file's in its order.
///
/// # Errors
/// Every mistake found, never an empty list.
pub fn compile(
    fabric: &SourceFile,
    services: &SourceFile,
) -> Result<(Fabric, Catalog), Vec<Diagnostic>> {
    compile_with_notes(fabric, services).map(|c| (c.fabric, c.catalog))
}

/// As [`compile`], with the notes.
///
/// # Errors
/// Every mistake found, never an empty list.
pub fn compile_with_notes(
    fabric: &SourceFile,
    services: &SourceFile,
) -> Result<Compiled, Vec<Diagnostic>> {
    let of_fabric = Reader::new(fabric);
    let of_services = Reader::new(services);
    let fabric = fabric_file::read(&of_fabric);
    if let Some(doc) = &fabric {
        fabric_check::check(&of_fabric, doc);
    }
    let services = service_file::read(&of_services);
    if let Some(services) = &services {
        let part = fabric.as_ref().map(|doc| (&of_fabric, doc));
        service_check::check(&of_services, services, part);
    }
    let later = of_fabric.later_meaning();
    let (mut errors, mut notes) = of_fabric.finish();
    let (more_errors, more_notes) = of_services.finish();
    errors.extend(more_errors);
    notes.extend(more_notes);
    match (fabric, services) {
        (Some(fabric), Some(services)) if errors.is_empty() => {
            let fabric = build::fabric(fabric, &later);
            let service = |doc| build::service(doc, fabric.zone.ttl);
            let catalog = Catalog::new(services.into_iter().map(service));
            Ok(Compiled { fabric, catalog, notes })
        }
        _ => Err(errors),
    }
}

/// The fabric file alone.
///
/// # Errors
/// Every mistake found, never an empty list.
pub fn compile_fabric(fabric: &SourceFile) -> Result<Fabric, Vec<Diagnostic>> {
    let reader = Reader::new(fabric);
    let doc = fabric_file::read(&reader);
    if let Some(doc) = &doc {
        fabric_check::check(&reader, doc);
    }
    let later = reader.later_meaning();
    let (errors, _) = reader.finish();
    match doc {
        Some(doc) if errors.is_empty() => Ok(build::fabric(doc, &later)),
        _ => Err(errors),
    }
}

/// The mistakes a services file shows by itself, when there is no fabric file to compare it with.
pub fn services_alone(services: &SourceFile) -> Vec<Diagnostic> {
    let reader = Reader::new(services);
    if let Some(services) = service_file::read(&reader) {
        service_check::check(&reader, &services, None);
    }
    reader.finish().0
}

/// The nodes of a fabric file with their public keys, as far as they can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKeys {
    pub nodes: Vec<(NodeId, Option<String>)>,
    /// False when a node may be missing because it could not be read.
    pub whole: bool,
}

/// The nodes of a fabric file that may have mistakes; `None` when its syntax is broken.
pub fn node_keys(fabric: &SourceFile) -> Option<NodeKeys> {
    let doc = fabric_file::read(&Reader::new(fabric))?;
    let nodes = doc.nodes.into_iter().map(|n| (n.id.value, n.key.map(|k| k.value)));
    Some(NodeKeys { nodes: nodes.collect(), whole: doc.whole })
}
