//! The fabrics of the laws, and what their nodes should have.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Node};
use nett_policy::id::{ClusterId, LinkId, NodeId, SiteId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::lower::{LinksUp, Neighbours, Place, lower};
use nett_policy::place::place;
use nett_policy::service::Catalog;

/// A whole fabric's nodes, each with what it should have.
pub(crate) type States = BTreeMap<NodeId, NodeState>;

/// A site, and the two others whose traffic it lets through.
pub(crate) type Pass = (&'static str, [&'static str; 2]);

#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) fabric: Fabric,
    pub(crate) catalog: Catalog,
    pub(crate) layout: Layout,
}

impl Ground {
    pub(crate) fn two_sites() -> Self {
        Self::of("two-sites", with_clusters, with_backends)
    }

    /// The same with a service whose flows stay where they are.
    pub(crate) fn resilient() -> Self {
        Self::of("two-sites", with_clusters, |services| {
            let id = "id = \"shop/prod/api\"\n";
            assert!(services.contains(id), "the fixture has it");
            with_backends(services).replace(id, &format!("{id}shift = \"resilient\"\n"))
        })
    }

    /// The clusters in which one service has its backends at the first site, each of both families.
    pub(crate) fn cluster(pick: usize) -> ClusterId {
        ["osl/k2", "osl/k3"][pick % 2].parse().expect("an id")
    }

    /// Three sites, with a link between each two, that let each other's traffic through.
    pub(crate) fn three_sites(transits: &[Pass]) -> Self {
        let with = |fabric: &str| {
            let line = |(via, [a, b]): &Pass| {
                format!("\n[[transit]]\nvia = \"{via}\"\nbetween = [\"{a}\", \"{b}\"]\n")
            };
            transits.iter().map(line).fold(fabric.to_owned(), |all, line| all + &line)
        };
        Self::of("three-sites", with, str::to_owned)
    }

    fn of(
        name: &str,
        change_fabric: impl FnOnce(&str) -> String,
        change_services: impl FnOnce(&str) -> String,
    ) -> Self {
        let text = |file| nett_fixtures::fabric_file(name, file).expect("a fixture");
        let (fabric, services) = (text("fabric.toml"), text("services.toml"));
        let fabric = SourceFile::new(fabric.name, change_fabric(&fabric.text));
        let services = SourceFile::new(services.name, change_services(&services.text));
        let compiled = compile(&fabric, &services);
        let (fabric, catalog) = compiled.expect("the fixture is valid");
        Self { fabric, catalog, layout: Layout::default() }
    }

    pub(crate) fn world(&self) -> World<'_> {
        World { fabric: &self.fabric, catalog: &self.catalog }
    }

    pub(crate) fn site(&self, pick: usize) -> SiteId {
        self.fabric.sites[pick % self.fabric.sites.len()].id.clone()
    }

    pub(crate) fn links(&self) -> BTreeSet<LinkId> {
        self.fabric.links.iter().map(|l| l.id.clone()).collect()
    }

    /// What every node should have; `up` says which links a node can use.
    pub(crate) fn lower(&self, intent: &Intent, up: &dyn Fn(&NodeId) -> LinksUp) -> States {
        self.lower_seeing(intent, up, &Neighbours::default())
    }

    /// As [`Self::lower`]; `neighbours` is what all nodes know of each other.
    pub(crate) fn lower_seeing(
        &self,
        intent: &Intent,
        up: &dyn Fn(&NodeId) -> LinksUp,
        neighbours: &Neighbours,
    ) -> States {
        let placement = place(self.world(), intent);
        let state = |node: &Node| {
            let links_up = &up(&node.id);
            let (world, layout) = (self.world(), &self.layout);
            let at = Place { world, layout, node, links_up, neighbours };
            (node.id.clone(), lower(at, &placement))
        };
        self.fabric.nodes.iter().map(state).collect()
    }
}

/// With the clusters of [`Ground::cluster`].
fn with_clusters(fabric: &str) -> String {
    let table =
        |pick| format!("\n[[cluster]]\nid = \"{}\"\nsite = \"osl\"\n", Ground::cluster(pick));
    fabric.to_owned() + &[0, 1].map(table).concat()
}

/// With backends of one service in each of these clusters.
fn with_backends(services: &str) -> String {
    let backends = "backends.osl = [\"10.1.20.2\", \"fd00:a:20::2\"]\n";
    assert!(services.contains(backends), "the fixture has it");
    let more = [("10.1.20.2", "fd00:a:20::2"), ("10.1.20.62", "fd00:a:20::62")];
    let more = more.into_iter().zip([0, 1].map(Ground::cluster)).map(|((v4, v6), cluster)| {
        let of = |address| format!("{{ address = \"{address}\", cluster = \"{cluster}\" }}");
        format!("{}, {}", of(v4), of(v6))
    });
    let more = more.collect::<Vec<_>>().join(", ");
    services.replace(backends, &format!("backends.osl = [{more}]\n"))
}
