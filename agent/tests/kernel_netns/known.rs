//! Whether the kernel knows a neighbour, seen beside `ip neigh`.

use std::net::IpAddr;

use nett_agent::kernel::Kernel;

use crate::netns::Netns;
use crate::reconcile::open;

#[test]
fn a_neighbour_is_asked_for_and_known_when_it_has_answered() {
    let netns = Netns::border();
    for far in ["192.0.2.2", "fd00:0::2"] {
        let address: IpAddr = far.parse().expect("an address");
        let known = || {
            netns.inside(async || open().knows(address, "wan0").await.expect("the kernel answers"))
        };
        let entry = || netns.ip(&format!("neigh show {far} dev wan0 nud all"));
        assert_eq!(entry(), "", "nobody has sent it anything");
        assert!(!known());
        // The other end of the wire has no address: nobody answers.
        let asked = entry();
        assert!(asked.contains("INCOMPLETE") || asked.contains("FAILED"), "{asked}");
        assert!(!known(), "{asked}");
        netns.ip(&format!("neigh replace {far} lladdr 02:00:00:00:00:01 nud stale dev wan0"));
        assert!(known());
        assert!(entry().contains("02:00:00:00:00:01"), "what is known stays as it is");
    }
    // The kernel keeps no entry per IPv4 address where an interface leads to one end alone.
    netns.ip("tuntap add dev tun7 mode tun");
    netns.ip("addr add 10.9.0.1/30 dev tun7");
    netns.ip("link set tun7 up");
    let behind: IpAddr = "10.9.0.2".parse().expect("an address");
    let known = async || open().knows(behind, "tun7").await.expect("the kernel answers");
    assert!(netns.inside(known));

    let nowhere: IpAddr = "192.0.2.2".parse().expect("an address");
    let elsewhere = async || open().knows(nowhere, "wan7").await.expect("no question");
    assert!(!netns.inside(elsewhere), "an interface that is not there knows nobody");
}
