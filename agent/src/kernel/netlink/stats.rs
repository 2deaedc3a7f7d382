//! Counters of one interface: `struct if_stats_msg` and `struct rtnl_link_stats64`, read only.

use super::attr::{Attributes, Malformed, Message, read_u64};
use crate::kernel::Moved;

const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
const IF_STATS_MSG: usize = 12;
const IFLA_STATS_LINK_64: u16 = 1;
/// `IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64)`
const FILTER: u32 = 1 << (IFLA_STATS_LINK_64 - 1);
/// Places in `struct rtnl_link_stats64`.
const RX_BYTES: usize = 16;
const TX_BYTES: usize = 24;

/// Asks for the interface with this number.
pub(crate) fn get(index: u32) -> Message {
    let mut header = [0; IF_STATS_MSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&FILTER.to_ne_bytes());
    Message::new(RTM_GETSTATS, 0, &header)
}

pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Option<Moved>, Malformed> {
    if kind != RTM_NEWSTATS {
        return Ok(None);
    }
    for attribute in Attributes::after(payload, IF_STATS_MSG)? {
        let (kind, value) = attribute?;
        if kind == IFLA_STATS_LINK_64 {
            let at = |place: usize| read_u64(value.get(place..).unwrap_or_default());
            return Ok(Some(Moved { sent: at(TX_BYTES)?, received: at(RX_BYTES)? }));
        }
    }
    Err(Malformed("the counters of an interface"))
}
