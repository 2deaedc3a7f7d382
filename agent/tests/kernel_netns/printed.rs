//! Parts of the nft table as nft prints them, and as the agent reads them back and puts them right.

use nett_agent::kernel::Kernel;
use nett_policy::lower::object::{Guard, GuardKind, NodeState};

use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

/// A ruleset as nft lists it, without and with what is looked at.
pub(crate) struct Printed {
    pub(crate) plain: String,
    pub(crate) whole: String,
}

/// A state with a table and nothing else.
pub(crate) fn with(guard: &Guard) -> NodeState {
    NodeState { guard: Some(guard.clone()), ..NodeState::default() }
}

/// Lists a border's table without these parts and with them. The parts are as in a golden file
/// beside this one, and among the chains that nft writes in JSON are some.
pub(crate) fn printed(guard: &Guard, golden: &str, parts: &[&str], some: [&str; 2]) -> Printed {
    let netns = Netns::border();
    let list = |what: &str| {
        let text = netns.nft(&format!("list {what}")).expect("nft");
        let lines =
            text.lines().filter(|l| !l.starts_with("\tflags") && !l.starts_with("\tcomment"));
        let lines = lines.map(|l| l.split(" # progname").next().unwrap_or(l));
        lines.flat_map(|l| [l, "\n"]).collect::<String>()
    };
    let (plain, whole, parts, json) = netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &with(&state::guard(GuardKind::Border))).await;
        let plain = list("ruleset");
        reach(&mut kernel, &with(guard)).await;
        // While the table has its owner: nft 1.0.6 writes broken JSON for a single flag.
        let json = netns.run(&["nft", "-j", "list", "ruleset"]).expect("nft");
        (plain, list("ruleset"), parts.iter().map(|part| list(part)).collect::<String>(), json)
    });
    let path = format!("{}/tests/kernel_netns/{golden}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NETT_UPDATE").is_some() {
        std::fs::write(&path, &parts).expect("writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file");
    assert_eq!(parts, golden, "NETT_UPDATE=1 writes it anew");
    let json: serde_json::Value = serde_json::from_str(&json).expect("nft writes JSON");
    let all = json["nftables"].as_array().expect("a list");
    let chains: Vec<&str> = all.iter().filter_map(|item| item["chain"]["name"].as_str()).collect();
    assert!(some.iter().all(|chain| chains.contains(chain)), "{chains:?}");
    Printed { plain, whole }
}

/// What is written is read back whole; what each of these commands of nft's changes is seen, and
/// put right.
pub(crate) fn is_kept(netns: &Netns, guard: &Guard, commands: &[&str]) {
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &with(guard)).await;
        let read = kernel.read().await.expect("readable");
        assert_eq!((read.state.guard.as_ref(), &read.guard_damage), (Some(guard), &None));
    });
    for command in commands {
        netns.nft(command).unwrap_or_else(|e| panic!("{command}: {e}"));
        netns.inside(async || {
            let mut kernel = open();
            let read = kernel.read().await.expect("readable");
            assert_ne!(read.state.guard.as_ref(), Some(guard), "{command}");
            reach(&mut kernel, &with(guard)).await;
            let read = kernel.read().await.expect("readable");
            assert_eq!((read.state.guard.as_ref(), &read.guard_damage), (Some(guard), &None));
        });
    }
}
