//! Shares, stability and preferences of the choice of a site.

use std::collections::BTreeMap;

use super::*;
use crate::sample::{answers, fabric, ip, nearest, weighted};

fn choose(answers: &ServiceAnswers, fabric: &nett_policy::fabric::Fabric, from: &str) -> String {
    let topology = Topology::new(fabric, None);
    let client = Client::new(ip(from), None);
    let choice =
        Plan::new(answers, &topology).choose(&topology, &client, &topology.locate(&client));
    match choice.target {
        Target::Site(at) => format!("{} /{}", answers.fixed.sites[at].site, choice.scope),
        Target::Address(address) => format!("{address} /{}", choice.scope),
        Target::Refused => format!("refused /{}", choice.scope),
    }
}

#[test]
fn spreads_choose_sites() {
    let one = weighted(&[("sto", 9)]);
    let near = nearest(&["sto", "fra"]);
    use AllDown::{Fallback, LastOrder, Refuse};
    use Prefer::{Local, Nearest, Primary};
    let table = [
        (one.clone(), Nearest, LastOrder, "10.1.0.1", "sto /0"),
        (one, Nearest, LastOrder, "192.168.0.1", "sto /0"),
        // The own site, else the cheapest way, else the best rank.
        (near.clone(), Nearest, LastOrder, "10.3.0.1", "fra /16"),
        (near.clone(), Nearest, LastOrder, "10.1.0.1", "sto /16"),
        (near.clone(), Nearest, LastOrder, "10.4.0.1", "fra /16"),
        // An unknown client belongs to the first site, osl, and from there to sto.
        (near.clone(), Nearest, LastOrder, "8.8.8.8", "sto /7"),
        (near.clone(), Local, LastOrder, "10.3.0.1", "fra /16"),
        (near.clone(), Local, LastOrder, "10.4.0.1", "sto /16"),
        (near.clone(), Primary, LastOrder, "10.3.0.1", "sto /0"),
        (nearest(&["fra"]), Nearest, LastOrder, "10.1.0.1", "fra /0"),
        // Sites without answers are no sites.
        (nearest(&["lon", "fra"]), Nearest, LastOrder, "10.4.0.1", "fra /0"),
        (weighted(&[("lon", 1)]), Nearest, Refuse, "10.4.0.1", "refused /0"),
        (Spread::Nowhere, Nearest, LastOrder, "10.3.0.1", "osl /0"),
        (Spread::Nowhere, Nearest, Refuse, "10.3.0.1", "refused /0"),
        (Spread::Nowhere, Nearest, Fallback(ip("::9")), "10.3.0.1", "::9 /0"),
    ];
    for (spread, prefer, all_down, client, expected) in table {
        let mut service = answers("shop/prod/api", spread);
        let fixed = crate::sample::fixed(&mut service);
        (fixed.prefer, fixed.all_down) = (prefer, all_down);
        let what = format!("{} {prefer:?} {all_down:?} {client}", service.standing.spread);
        assert_eq!(choose(&service, &fabric(), client), expected, "{what}");
    }
}

#[test]
fn unknown_clients_can_belong_to_the_nearest_site() {
    let mut fabric = fabric();
    fabric.unknown_client = UnknownClient::Nearest;
    let service = answers("shop/prod/api", nearest(&["sto", "fra"]));
    // lon has the best rank; its only link leads to fra.
    assert_eq!(choose(&service, &fabric, "8.8.8.8"), "fra /7");
    assert_eq!(choose(&service, &fabric, "10.1.0.1"), "sto /16");
}

/// Where each of 100,000 blocks goes.
fn spread_out(shares: &[(&str, u32)]) -> Vec<String> {
    let topology = Topology::new(&fabric(), None);
    let service = answers("shop/prod/api", weighted(shares));
    let Plan::Shares(shares) = Plan::new(&service, &topology) else { panic!("several sites") };
    let block = |n: u32| IpNet::new(IpAddr::V4((n << 8).into()), 24).expect("a /24");
    (0..100_000)
        .map(|n| draw(&shares, block(n * 7)).expect("a share").position)
        .map(|at| service.fixed.sites[at].site.to_string())
        .collect()
}

fn count(all: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for at in all {
        *counts.entry(at.as_str()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn shares_are_what_the_weights_say() {
    for shares in [
        &[("osl", 1), ("sto", 1)][..],
        &[("osl", 9), ("sto", 1)],
        &[("osl", 1), ("sto", 99)],
        &[("osl", 2), ("sto", 3), ("fra", 5)],
        &[("osl", 256), ("sto", 128), ("fra", 1)],
    ] {
        let all = spread_out(shares);
        let counts = count(&all);
        let total: u32 = shares.iter().map(|s| s.1).sum();
        for (id, weight) in shares {
            let expected = f64::from(*weight) / f64::from(total);
            let got = counts.get(id).copied().unwrap_or(0) as f64 / all.len() as f64;
            // One percent of all clients at most.
            assert!((got - expected).abs() < 0.01, "{shares:?} {id} {got}");
            // And small shares are not lost: within a fifth of themselves.
            assert!((got / expected - 1.0).abs() < 0.2, "{shares:?} {id} {got}");
        }
    }
}

/// Every pair of weights from 1 to 99, over 100,000 blocks of each family: within one percent of
/// all clients, and the same whichever of the sites is named first.
#[test]
fn every_pair_of_weights_is_kept_within_a_percent() {
    const BLOCKS: u32 = 100_000;
    let v4 = |n: u32| IpNet::new(IpAddr::V4((n << 8).into()), 24).expect("a /24");
    let v6 = |n: u32| {
        let bits = (0x2001_0db8_u128 << 96) | (u128::from(n) << 72);
        IpNet::new(IpAddr::V6(bits.into()), 56).expect("a /56")
    };
    let share = |id: &str, position, weight| Share {
        position,
        weight,
        seed: seed(&crate::sample::site(id)),
    };
    for block in [&v4 as &dyn Fn(u32) -> IpNet, &v6] {
        // The draw with equal weights tells nothing of the numbers, so they are drawn here again,
        // and the real draw is held to them below.
        let number = |n: u32, share: &Share| exponential(mix(key(block(n)) ^ share.seed));
        let (a, b) = (share("osl", 0, 1), share("sto", 1, 1));
        let mut drawn: Vec<(u64, u64)> =
            (0..BLOCKS).map(|n| (number(n, &a), number(n, &b))).collect();
        for (n, (first, second)) in (0..).zip(&drawn).step_by(997) {
            for (wa, wb) in [(1, 99), (37, 41), (99, 1)] {
                let shares = [share("osl", 0, wa), share("sto", 1, wb)];
                let expected = if comes_first((*first, wa), (*second, wb)) { 0 } else { 1 };
                assert_eq!(draw(&shares, block(n)).expect("a share").position, expected);
                let shares = [shares[1], shares[0]];
                assert_eq!(draw(&shares, block(n)).expect("a share").position, expected);
            }
        }
        // By ascending quotient, those for the first site come first, whatever the weights.
        drawn.sort_by(|x, y| {
            (u128::from(x.0) * u128::from(y.1)).cmp(&(u128::from(y.0) * u128::from(x.1)))
        });
        for wa in 1..=99u16 {
            for wb in 1..=99u16 {
                let to_first = drawn.partition_point(|(x, y)| comes_first((*x, wa), (*y, wb)));
                let got = to_first as f64 / f64::from(BLOCKS);
                let expected = f64::from(wa) / f64::from(wa + wb);
                assert!((got - expected).abs() < 0.01, "{wa}:{wb} {got} {expected}");
            }
        }
    }
}

#[test]
fn a_site_that_leaves_moves_only_its_own_clients() {
    let before = spread_out(&[("osl", 2), ("sto", 3), ("fra", 5)]);
    let after = spread_out(&[("osl", 2), ("sto", 3)]);
    let mut moved = 0;
    for (old, new) in before.iter().zip(&after) {
        if old == "fra" {
            moved += 1;
            assert_ne!(new, "fra");
        } else {
            assert_eq!(old, new);
        }
    }
    assert!(moved > 45_000, "{moved}");
    // Those who must move spread by the weights that are left.
    let orphans: Vec<String> = before
        .iter()
        .zip(&after)
        .filter(|(old, _)| *old == "fra")
        .map(|(_, new)| new.clone())
        .collect();
    let to_osl = count(&orphans)["osl"] as f64 / orphans.len() as f64;
    assert!((to_osl - 0.4).abs() < 0.01, "{to_osl}");
}

#[test]
fn a_ramp_only_moves_clients_to_the_new_site() {
    let steps = [(9, 1), (5, 5), (1, 9)].map(|(a, b)| spread_out(&[("osl", a), ("sto", b)]));
    for pair in steps.windows(2) {
        for (old, new) in pair[0].iter().zip(&pair[1]) {
            assert!(!(old == "sto" && new == "osl"));
        }
    }
}

/// The choice is part of what name servers of different releases must agree on.
#[test]
fn the_draw_does_not_change_between_releases() {
    assert_eq!(mix(1), 0x5692_161d_100b_05e5);
    assert_eq!(exponential(u64::MAX), 1);
    assert_eq!(exponential(1 << 63), 1 << 32);
    assert_eq!(exponential(1), 64 << 32);
    // log2(3/4) = -0.41503749927884...
    let expected = (0.415_037_499_278_843_8 * 2f64.powi(32)) as u64;
    assert!(exponential(3 << 62).abs_diff(expected) <= 1);
    let first: String =
        spread_out(&[("osl", 1), ("sto", 1)]).iter().take(24).map(|id| &id[..1]).collect();
    assert_eq!(first, "oossssossoosssoooosssoss");
}
