//! The gate of leased services on a real kernel, with packets between three namespaces: a client, a
//! node, a backend that owns the VIPs. What is in the kernel is read with nft.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nett_agent::kernel::NftGate;
use nett_agent::lease::gate::{FoundGate, Gate, GateShape, Slot};
use nett_agent::lease::simulated::SimulatedGate;

use crate::netns::Netns;

const V4: &str = "10.99.0.1";
const V6: &str = "fd00:99::1";
const OTHER: &str = "10.99.0.2";
const PORT: u16 = 7777;
/// Longer than any test takes between arming and its last packet.
const LONG: Duration = Duration::from_secs(60);

/// Client, node, backend, and an echo server on the VIPs.
struct Way {
    client: Netns,
    node: Netns,
    backend: Netns,
    stop: Arc<AtomicBool>,
}

impl Way {
    fn new() -> Self {
        let (client, node, backend) = (Netns::new(), Netns::new(), Netns::new());
        for (far, near, net) in [(&client, "out", 1), (&backend, "core0", 2)] {
            node.ip(&format!("link add {near} type veth peer name eth0"));
            node.move_link("eth0", far);
            for (at, name, host) in [(&node, near, 1), (far, "eth0", 2)] {
                at.ip(&format!("addr add 192.0.{net}.{host}/24 dev {name}"));
                at.ip(&format!("addr add fd00:{net}::{host}/64 dev {name} nodad"));
                at.ip(&format!("link set {name} up"));
            }
            far.ip(&format!("route add default via 192.0.{net}.1"));
            far.ip(&format!("-6 route add default via fd00:{net}::1"));
        }
        for vip in [V4, OTHER] {
            backend.ip(&format!("addr add {vip}/32 dev lo"));
            node.ip(&format!("route add {vip}/32 via 192.0.2.2"));
        }
        backend.ip(&format!("addr add {V6}/128 dev lo nodad"));
        node.ip(&format!("-6 route add {V6}/128 via fd00:2::2"));
        for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            node.run(&["sysctl", "-qw", key]).expect("sysctl");
        }
        let way = Self { client, node, backend, stop: Arc::default() };
        for vip in [V4, V6, OTHER] {
            way.echo(vip);
        }
        // Neighbours are found, and links are ready for IPv6, a moment after they are up.
        let end = Instant::now() + Duration::from_secs(20);
        while way.passes() != [true; 4] {
            assert!(Instant::now() < end, "the way is not ready: {:?}", way.passes());
        }
        way
    }

    fn echo(&self, vip: &str) {
        let address = SocketAddr::new(vip.parse().expect("an address"), PORT);
        let socket = self.backend.inside(async || UdpSocket::bind(address).expect("binds"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
    }

    /// A flow from the client or the node itself.
    fn flow(&self, from: &Netns, vip: &str) -> UdpSocket {
        let vip: IpAddr = vip.parse().expect("an address");
        let any: SocketAddr =
            if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("any");
        from.inside(async || {
            let socket = UdpSocket::bind(any).expect("binds");
            socket.connect((vip, PORT)).expect("connects");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            socket
        })
    }

    /// From the client and from the node, to both VIPs of the service.
    fn passes(&self) -> [bool; 4] {
        let flows = [(&self.client, V4), (&self.client, V6), (&self.node, V4), (&self.node, V6)];
        flows.map(|(from, vip)| answered(&self.flow(from, vip)))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// True when a packet comes back, false when it is refused or lost.
fn answered(flow: &UdpSocket) -> bool {
    let mut buffer = [0; 64];
    // What was refused before is told by the next call.
    let _ = flow.take_error();
    flow.send(b"hello").is_ok() && flow.recv(&mut buffer).is_ok()
}

fn vips() -> BTreeSet<IpAddr> {
    [V4, V6].map(|vip| vip.parse().expect("an address")).into()
}

fn shape(number: u64, group: Option<u32>) -> GateShape {
    let members: BTreeMap<IpAddr, u32> = group
        .into_iter()
        .flat_map(|group| vips().into_iter().map(move |vip| (vip, group)))
        .collect();
    let reset = number == 1;
    GateShape { number, all: vips(), guarded: vips(), members, open: None, reset }
}

fn gate() -> NftGate {
    NftGate::open("core0".to_owned()).expect("opens")
}

#[test]
fn only_an_open_group_in_a_living_slot_passes() {
    let way = Way::new();
    way.node.inside(async || {
        let mut gate = gate();
        assert_eq!(gate.found().await.expect("readable"), None);
        gate.shape(&shape(1, None)).await.expect("made");
        assert_eq!(way.passes(), [false; 4], "guarded and without a group");
        let other = way.flow(&way.client, OTHER);
        assert!(answered(&other), "what is not guarded is not touched");
        gate.shape(&shape(2, Some(1))).await.expect("changed");
        gate.arm(Slot::Odd, LONG).await.expect("armed");
        assert_eq!(way.passes(), [false; 4], "armed and not open");
        gate.open(Slot::Odd, &[2].into()).await.expect("opened");
        assert_eq!(way.passes(), [false; 4], "another group is open");
        gate.open(Slot::Odd, &[1].into()).await.expect("opened");
        assert_eq!(way.passes(), [true; 4]);
        gate.open(Slot::Even, &[1].into()).await.expect("opened");
        gate.arm(Slot::Odd, LONG).await.expect("armed again");
        assert_eq!(way.passes(), [false; 4], "a new round begins empty; the other slot is dead");
        gate.open(Slot::Odd, &[1].into()).await.expect("opened");
        gate.shape(&shape(3, Some(3))).await.expect("changed");
        assert_eq!(way.passes(), [false; 4], "another group of voters than was open");
        let mut open = shape(4, Some(4));
        open.open = Some((Slot::Odd, [4].into()));
        gate.shape(&open).await.expect("changed");
        assert_eq!(way.passes(), [true; 4], "opened in the same step");
        let text = way.node.nft("list table inet nett_lease").expect("nft");
        assert!(!text.contains("chain g_3"), "groups that nobody is in go: {text}");
        assert!(gate.delete().await.expect("deleted"));
        assert_eq!(way.passes(), [true; 4]);
    });
}

#[test]
fn a_slot_ends_without_anybody_and_takes_established_flows_along() {
    const LEASE: Duration = Duration::from_millis(1500);
    let way = Way::new();
    way.node.inside(async || {
        way.node
            .nft("add table inet fw; add chain inet fw f { type filter hook forward priority 0; }")
            .expect("nft");
        way.node.nft("add rule inet fw f ct state established accept").expect("nft");
        let mut gate = gate();
        gate.shape(&shape(1, Some(1))).await.expect("made");
        let flows = [way.flow(&way.client, V4), way.flow(&way.client, V6)];
        gate.arm(Slot::Even, LEASE).await.expect("armed");
        let armed = Instant::now();
        gate.open(Slot::Even, &[1].into()).await.expect("opened");
        assert!(flows.iter().all(answered));
        let mut last = [armed; 2];
        while armed.elapsed() < LEASE * 2 {
            for (flow, last) in flows.iter().zip(&mut last) {
                let sent = Instant::now();
                if answered(flow) {
                    *last = sent;
                }
            }
        }
        for last in last {
            let lived = last - armed;
            assert!(lived < LEASE, "a packet passed {lived:?} after the slot was armed");
            assert!(lived > LEASE / 2, "the last packet passed {lived:?} after the slot was armed");
        }
    });
}

#[test]
fn what_a_backend_sends_of_itself_ends_with_the_lease() {
    let way = Way::new();
    way.node.inside(async || {
        let mut gate = gate();
        // Not guarded: the site does not serve, and others' traffic would pass here.
        let mut away = shape(1, None);
        away.guarded.clear();
        gate.shape(&away).await.expect("made");
        let from: SocketAddr = SocketAddr::new(V4.parse().expect("an address"), 7900);
        let pusher = way.backend.inside(async || UdpSocket::bind(from).expect("binds"));
        let listener = way.client.inside(async || UdpSocket::bind("0.0.0.0:7901").expect("binds"));
        listener.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let mut buffer = [0; 64];
        let mut push = || {
            pusher.send_to(b"tick", "192.0.1.2:7901").expect("sent");
            listener.recv(&mut buffer).is_ok()
        };
        assert!(!push(), "its own backend sends under a VIP that the site does not serve");
        gate.shape(&GateShape { reset: false, ..shape(2, Some(1)) }).await.expect("changed");
        gate.arm(Slot::Even, LONG).await.expect("armed");
        gate.open(Slot::Even, &[1].into()).await.expect("opened");
        assert!(push(), "the site serves");
        let late = way.node.nft("list counter inet nett_lease late").expect("nft");
        assert!(late.contains("packets 1"), "{late}");
    });
}

#[test]
fn a_new_process_takes_the_gate_over_without_opening_or_shutting_it() {
    let way = Way::new();
    way.node.inside(async || {
        let mut former = gate();
        former.shape(&shape(1, Some(1))).await.expect("made");
        former.arm(Slot::Even, LONG).await.expect("armed");
        former.open(Slot::Even, &[1].into()).await.expect("opened");
        let protected = former.is_protected();
        if protected {
            way.node.nft("flush ruleset").expect("nft");
            assert_eq!(way.passes(), [true; 4], "a flush by others left it");
            let refused = way.node.nft("delete table inet nett_lease");
            assert!(refused.is_err(), "{refused:?}");
        }
        drop(former);
        assert_eq!(way.passes(), [true; 4], "it stays when its process ends");
        let mut next = gate();
        let found = FoundGate { guarded: vips(), open: true };
        assert_eq!(next.found().await.expect("readable"), Some(found));
        next.arm(Slot::Odd, LONG).await.expect("armed before its first shape");
        assert_eq!(way.passes(), [true; 4], "the other slot lives on");
        // Group 1 of the new process is not that of the former one.
        next.shape(&shape(1, Some(1))).await.expect("taken over");
        assert_eq!(way.passes(), [false; 4], "open groups of the former process mean nothing");
        next.open(Slot::Odd, &[1].into()).await.expect("opened");
        assert_eq!(way.passes(), [true; 4]);
    });
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let netns = Netns::new();
    netns.inside(async || {
        netns.nft("add table inet nett_lease").expect("nft");
        let mut gate = gate();
        assert!(gate.found().await.is_err());
        assert!(gate.shape(&shape(1, None)).await.is_err());
        assert!(gate.arm(Slot::Even, LONG).await.is_err());
        netns.nft("list table inet nett_lease").expect("it is still there");
    });
}

/// The simulated gate beside the real one: what passes is the same after every operation.
#[test]
fn the_simulated_gate_does_what_the_real_one_does() {
    let way = Way::new();
    let mut random = fastrand::Rng::with_seed(7);
    way.node.inside(async || {
        let (mut real, mut simulated) = (gate(), SimulatedGate::default());
        for number in 1..60 {
            let slot = if random.bool() { Slot::Even } else { Slot::Odd };
            let group = random.u32(1..4);
            let step = random.u8(0..6);
            match step {
                0 | 1 => {
                    let mut wanted = shape(number, random.bool().then_some(group));
                    wanted.reset = number == 1 || random.u8(0..8) == 0;
                    wanted.open = random.bool().then(|| (slot, [random.u32(1..4)].into()));
                    if random.u8(0..4) == 0 {
                        // Nor are the answers of its own backends, which it else lets nobody
                        // have.
                        wanted.all.clear();
                        wanted.guarded.clear();
                        wanted.members.clear();
                    }
                    real.shape(&wanted).await.expect("changed");
                    simulated.shape(&wanted).await.expect("changed");
                }
                _ if number == 1 => {}
                2 | 3 => {
                    if real.arm(slot, LONG).await.is_ok() {
                        simulated.arm(slot, LONG).await.expect("armed");
                    }
                }
                _ => {
                    if real.open(slot, &[group].into()).await.is_ok() {
                        simulated.open(slot, &[group].into()).await.expect("opened");
                    }
                }
            }
            let (found, said) = (real.found().await, simulated.found().await);
            assert_eq!(found.expect("readable"), said.expect("readable"), "after step {number}");
            let flow = way.flow(&way.client, V4);
            let expected = simulated.passes(V4.parse().expect("an address"));
            assert_eq!(answered(&flow), expected, "after step {number}: {step} {slot:?} {group}");
        }
    });
}
