//! Who asks: the address a question came from, and the EDNS client subnet it speaks for.
//!
//! RFC 7871. A malformed option is an error of the whole message, never a guess: a subnet read
//! wrongly would send somebody else's users to another datacenter and be cached there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The EDNS option code of the client subnet (RFC 7871 section 6).
pub const CLIENT_SUBNET: u16 = 8;

/// Why a client subnet option is refused with FORMERR (RFC 7871 sections 6 and 7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("the option has the wrong length for its prefix")]
    Length,
    #[error("the address family is neither 1 (IPv4) nor 2 (IPv6)")]
    Family,
    #[error("the prefix is longer than the address, or the scope of a question is not 0")]
    Prefix,
    #[error("the address has bits set behind its prefix")]
    HostBits,
}

/// Reads the data of a client subnet option of a question.
///
/// `Ok(None)` is the wish not to be located: a source prefix of 0.
pub fn read_subnet(data: &[u8]) -> Result<Option<IpNet>, SubnetError> {
    let [f0, f1, source, scope, address @ ..] = data else {
        return Err(SubnetError::Length);
    };
    let family = u16::from_be_bytes([*f0, *f1]);
    if *scope != 0 {
        return Err(SubnetError::Prefix);
    }
    if address.len() != usize::from(*source).div_ceil(8) {
        return Err(SubnetError::Length);
    }
    let network = match family {
        1 if *source <= 32 => {
            let mut octets = [0; 4];
            octets[..address.len()].copy_from_slice(address);
            IpNet::new(Ipv4Addr::from(octets).into(), *source)
        }
        2 if *source <= 128 => {
            let mut octets = [0; 16];
            octets[..address.len()].copy_from_slice(address);
            IpNet::new(Ipv6Addr::from(octets).into(), *source)
        }
        1 | 2 => return Err(SubnetError::Prefix),
        // Some resolvers opt out with no family at all.
        0 if *source == 0 => return Ok(None),
        _ => return Err(SubnetError::Family),
    };
    let network = network.map_err(|_| SubnetError::Prefix)?;
    if network.addr() != network.network() {
        return Err(SubnetError::HostBits);
    }
    Ok((*source > 0).then_some(network))
}

/// Who asks, as far as steering cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Where the packet came from; an IPv4 address also when it came in over IPv6.
    pub source: IpAddr,
    /// The network the question speaks for, when it says so.
    pub subnet: Option<IpNet>,
}

impl Client {
    pub fn new(source: IpAddr, subnet: Option<IpNet>) -> Self {
        Self { source: source.to_canonical(), subnet }
    }

    /// The network that decides: the client subnet, else the source address alone.
    pub fn network(&self) -> IpNet {
        self.subnet.unwrap_or_else(|| IpNet::from(self.source))
    }

    /// The network's /24 or /56, or the network itself where it is wider: clients of one block
    /// always share an answer.
    pub fn block(&self) -> IpNet {
        let network = self.network();
        let block = network.prefix_len().min(block_len(network));
        IpNet::new(network.addr(), block).expect("a shorter prefix is valid").trunc()
    }
}

/// 24 or 56: how finely weighted answers tell clients apart.
pub(crate) fn block_len(network: IpNet) -> u8 {
    match network {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 56,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_strictly() {
        let net = |text: &str| Ok(Some(text.parse::<IpNet>().expect(text)));
        for (data, expected) in [
            (&[0, 1, 24, 0, 192, 0, 2][..], net("192.0.2.0/24")),
            (&[0, 1, 20, 0, 192, 0, 16], net("192.0.16.0/20")),
            (&[0, 2, 32, 0, 0x20, 1, 0xd, 0xb8], net("2001:db8::/32")),
            (&[0, 1, 0, 0], Ok(None)),
            (&[0, 2, 0, 0], Ok(None)),
            (&[0, 0, 0, 0], Ok(None)),
            (&[], Err(SubnetError::Length)),
            (&[0, 1, 24], Err(SubnetError::Length)),
            (&[0, 1, 24, 0, 192, 0], Err(SubnetError::Length)),
            (&[0, 1, 24, 0, 192, 0, 2, 0], Err(SubnetError::Length)),
            (&[0, 1, 24, 8, 192, 0, 2], Err(SubnetError::Prefix)),
            (&[0, 1, 33, 0, 1, 2, 3, 4, 0], Err(SubnetError::Prefix)),
            (&[0, 1, 20, 0, 192, 0, 17], Err(SubnetError::HostBits)),
            (&[0, 3, 8, 0, 1], Err(SubnetError::Family)),
        ] {
            assert_eq!(read_subnet(data), expected, "{data:?}");
        }
    }

    #[test]
    fn the_block_is_never_finer_than_what_is_known() {
        let subnet = |text: &str| Some(text.parse::<IpNet>().expect(text));
        let source: IpAddr = "198.51.100.77".parse().expect("an address");
        for (subnet, expected) in [
            (None, "198.51.100.0/24"),
            (subnet("203.0.113.128/25"), "203.0.113.0/24"),
            (subnet("203.0.112.0/20"), "203.0.112.0/20"),
            (subnet("2001:db8:1:234::/64"), "2001:db8:1:200::/56"),
        ] {
            let block = Client::new(source, subnet).block();
            assert_eq!(block, expected.parse::<IpNet>().expect(expected));
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        let client = Client::new(mapped, None);
        assert_eq!(client.source, "192.0.2.1".parse::<IpAddr>().expect("v4"));
    }
}
