//! What can go wrong at the kernel, by who must act.

use nix::errno::Errno;

use super::netlink::socket::Failure;

/// Why an object could not be read or changed. `object` is its text in iproute2's or nft's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Operator: the process may not do this.
    #[error(
        "{object}: the kernel answers {errno:?}{}; run the agent with CAP_NET_ADMIN and \
         CAP_NET_RAW, and one agent per network namespace",
        said(.text)
    )]
    Privilege { object: String, errno: Errno, text: Option<String> },
    /// Operator: the place is taken by an object of somebody else, which is left as it is.
    #[error("{object}: already there and not ours: {owner}; remove it or move Nett's numbers")]
    Foreign { object: String, owner: String },
    /// Wait for the interface: it is missing, down or without carrier.
    #[error("{object}: {reason}")]
    Interface { object: String, reason: String },
    /// Read again and plan again: the kernel no longer is as the plan thought.
    #[error("{object}: the kernel has changed since it was read ({reason})")]
    Stale { object: String, reason: String },
    /// Read again, then try again: no answer in time; the outcome is unknown.
    #[error("{object}: the kernel's answer was lost or did not come within 1 s")]
    Unanswered { object: String },
    /// Operator: the kernel refuses this object.
    #[error("{object}: the kernel refuses it with {errno:?}{}", said(.text))]
    Refused { object: String, errno: Errno, text: Option<String> },
    /// Try again later: the system cannot give a socket or memory now.
    #[error("{object}: {errno}")]
    System { object: String, errno: Errno },
    /// Operator: the configuration says something that has no form in the kernel.
    #[error("{object}: {reason}")]
    Form { object: String, reason: String },
    /// A bug in Nett.
    #[error("{0} is no operation on the kernel")]
    NotKernel(String),
}

fn said(text: &Option<String>) -> String {
    text.as_ref().map_or_else(String::new, |t| format!(" ({t})"))
}

// === impl KernelError ===

impl KernelError {
    /// True when trying again can help without a person or another plan.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Interface { .. }
            | Self::Stale { .. }
            | Self::Unanswered { .. }
            | Self::System { .. } => true,
            Self::Privilege { .. }
            | Self::Foreign { .. }
            | Self::Refused { .. }
            | Self::Form { .. }
            | Self::NotKernel(_) => false,
        }
    }

    /// The object it is about.
    pub fn object(&self) -> &str {
        match self {
            Self::Privilege { object, .. }
            | Self::Foreign { object, .. }
            | Self::Interface { object, .. }
            | Self::Stale { object, .. }
            | Self::Unanswered { object }
            | Self::Refused { object, .. }
            | Self::System { object, .. }
            | Self::Form { object, .. }
            | Self::NotKernel(object) => object,
        }
    }

    pub(crate) fn of(object: impl ToString, failure: Failure) -> Self {
        let object = object.to_string();
        match failure {
            Failure::Unanswered => Self::Unanswered { object },
            Failure::Socket(errno @ (Errno::EPERM | Errno::EACCES)) => {
                Self::Privilege { object, errno, text: None }
            }
            Failure::Socket(errno) => Self::System { object, errno },
            Failure::Refused { errno, text } => Self::refused(object, errno, text),
        }
    }

    fn refused(object: String, errno: Errno, text: Option<String>) -> Self {
        match errno {
            // Capabilities are EPERM. EACCES says something of the object, such as "IPv6 is
            // disabled on nexthop device".
            Errno::EPERM => Self::Privilege { object, errno, text },
            // ENETDOWN: "Carrier for nexthop device is down", "Nexthop device is not up".
            Errno::ENETDOWN | Errno::ENODEV => Self::Interface {
                object,
                reason: text.unwrap_or_else(|| format!("the interface is not there ({errno:?})")),
            },
            Errno::ENOMEM | Errno::ENOBUFS | Errno::EBUSY | Errno::EAGAIN | Errno::EINTR => {
                Self::System { object, errno }
            }
            _ => Self::Refused { object, errno, text },
        }
    }
}
