//! The two-site fabric, and what its nodes should have.

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

#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) fabric: Fabric,
    pub(crate) catalog: Catalog,
    pub(crate) layout: Layout,
}

impl Ground {
    pub(crate) fn two_sites() -> Self {
        Self::of(str::to_owned)
    }

    /// The same with a service whose flows stay where they are.
    pub(crate) fn resilient() -> Self {
        Self::of(|services| {
            let id = "id = \"shop/prod/api\"\n";
            assert!(services.contains(id), "the fixture has it");
            services.replace(id, &format!("{id}shift = \"resilient\"\n"))
        })
    }

    /// The clusters in which one service has its backends at the first site, each of both families.
    pub(crate) fn cluster(pick: usize) -> ClusterId {
        ["osl/k2", "osl/k3"][pick % 2].parse().expect("an id")
    }

    fn of(change: impl FnOnce(&str) -> String) -> Self {
        let file = |name: &str, change: &dyn Fn(String) -> String| {
            let text = nett_fixtures::fabric_file("two-sites", name).expect("a fixture");
            SourceFile::new(text.name, change(text.text))
        };
        let clusters = [0, 1].map(Self::cluster);
        let fabric = file("fabric.toml", &|text| {
            let tables = clusters
                .each_ref()
                .map(|cluster| format!("\n[[cluster]]\nid = \"{cluster}\"\nsite = \"osl\"\n"));
            text + &tables.concat()
        });
        let services = file("services.toml", &|text| {
            let backends = "backends.osl = [\"10.1.20.2\", \"fd00:a:20::2\"]\n";
            assert!(text.contains(backends), "the fixture has it");
            let more = [("10.1.20.2", "fd00:a:20::2"), ("10.1.20.62", "fd00:a:20::62")];
            let more = more.into_iter().zip(&clusters).map(|((v4, v6), cluster)| {
                let of =
                    |address| format!("{{ address = \"{address}\", cluster = \"{cluster}\" }}");
                format!("{}, {}", of(v4), of(v6))
            });
            let more = more.collect::<Vec<_>>().join(", ");
            text.replace(backends, &format!("backends.osl = [{more}]\n"))
        });
        let services = SourceFile::new(services.name.clone(), change(&services.text));
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
        let placement = place(self.world(), intent);
        let state = |node: &Node| {
            let links_up = &up(&node.id);
            let (world, layout) = (self.world(), &self.layout);
            let neighbours = &Neighbours::default();
            let at = Place { world, layout, node, links_up, neighbours };
            (node.id.clone(), lower(at, &placement))
        };
        self.fabric.nodes.iter().map(state).collect()
    }
}
