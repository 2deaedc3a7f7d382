//! The one home of metric names, with kind, labels and help. `docs/METRICS.md` has the same list,
//! and a test compares the two.
//!
//! What is not measured has no name here: an absent series is truer than a zero.

/// One metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

// === impl Kind ===

impl Kind {
    /// As in the `# TYPE` line of the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// Every metric there is.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "nett_build_info" ["version"]
        "Always 1; the release is in the label.";
    READY = Gauge "nett_ready" ["duty"]
        "1 once the duty was fulfilled for the first time; it never goes back to 0.";
    EVENT_LOOP_LAG_SECONDS = Gauge "nett_event_loop_lag_seconds" []
        "How long the controller took to answer this scrape.";
    KERNEL_OPS_TOTAL = Counter "nett_kernel_ops_total" ["object", "op", "result"]
        "Operations on kernel objects.";
    KERNEL_APPLY_SECONDS = Histogram "nett_kernel_apply_seconds" []
        "Time of one round of operations, with reading the kernel back.";
    KERNEL_DRIFT_TOTAL = Counter "nett_kernel_drift_total" ["object", "cause"]
        "Own objects found different from a desired state that was in place before.";
    KERNEL_RESYNC_TOTAL = Counter "nett_kernel_resync_total" ["reason"]
        "Whole readbacks of the kernel, by what asked for them.";
    KERNEL_FOREIGN = Gauge "nett_kernel_foreign" []
        "Objects of others that stand where Nett's objects go.";
    KERNEL_CONTESTED = Gauge "nett_kernel_contested" []
        "Own objects that another program changes again and again, and that are left alone.";
    NETLINK_OVERRUNS_TOTAL = Counter "nett_netlink_overruns_total" []
        "Times that the kernel dropped notifications, each followed by a whole readback.";
    TRAFFIC_PACKETS_TOTAL = Counter "nett_traffic_packets_total" ["class", "peer"]
        "Packets counted by the nft table.";
    TRAFFIC_BYTES_TOTAL = Counter "nett_traffic_bytes_total" ["class", "peer"]
        "Bytes counted by the nft table.";
    SEPARATION_ALARMS_TOTAL = Counter "nett_separation_alarms_total" ["class"]
        "Looks at the counters that found packets stopped where none may go.";
    NEIGHBOUR_UP = Gauge "nett_neighbour_up" ["node"]
        "0 when another node of the site has stopped answering.";
    LINK_UP = Gauge "nett_link_up" ["link"]
        "1 when this node's end of the link can carry packets and is not doubted.";
    LINK_LOSSES_TOTAL = Counter "nett_link_losses_total" ["link"]
        "Times that the interface of this node's end was lost, and nobody had set it down.";
    LINK_HELD = Gauge "nett_link_held" ["link"]
        "1 while the link is held down because its interface comes and goes.";
    LINK_SATURATED = Gauge "nett_link_saturated" ["link"]
        "1 while the link is full: ordinary packets wait long, or are lost, and it is up.";
    LINK_RTT_SECONDS = Gauge "nett_link_rtt_seconds" ["link"]
        "Round-trip time over the link, as this node tells it; absent while not measured.";
    BFD_TRANSITIONS_TOTAL = Counter "nett_bfd_transitions_total" ["link", "to"]
        "Changes of BFD sessions of this node's links, both families, by the state they came to.";
    BUS_CONNECTED = Gauge "nett_bus_connected" []
        "1 while there is a connection to a server of the bus.";
    BUS_HEARD = Gauge "nett_bus_heard" []
        "1 while what people, reporters and other sites send over the bus is heard.";
    SITES_CONNECTED = Gauge "nett_sites_connected" []
        "Other sites of which a node has reported lately.";
    PEER_LAG_SECONDS = Gauge "nett_peer_lag_seconds" ["site"]
        "Time since the newest report from another site; absent while there was none.";
    ENTRIES_TOTAL = Counter "nett_entries_total" ["kind", "result"]
        "Log entries by what became of them here.";
    ENTRIES_REFUSED_TOTAL = Counter "nett_entries_refused_total" ["reason"]
        "Log entries that are not believed.";
    INTAKE_TOTAL = Counter "nett_intake_total" ["kind", "result"]
        "Commands, questions, facts and asks over NATS, by what became of them at the door.";
    CONFLICTS = Gauge "nett_conflicts" []
        "Sites whose log cannot be followed: forked, begun anew, a gap, an entry not believed.";
    TASKS = Gauge "nett_tasks" ["state"]
        "Tasks known here, by state.";
    SERVICE_EPOCH = Gauge "nett_service_epoch" ["service"]
        "How often the service has been moved.";
    SERVICE_WEIGHT = Gauge "nett_service_weight" ["service", "site"]
        "Share of the service's traffic in percent.";
    FACT_VALUE = Gauge "nett_fact_value" ["service", "site", "fact"]
        "What outside reporters say at this site, in the unit that they use; while it is good.";
    TASK_RTO_SECONDS = Gauge "nett_task_rto_seconds" ["service"]
        "How long the last task that moved the service left it without service; absent if unknown.";
    TASK_RPO_SECONDS = Gauge "nett_task_rpo_seconds" ["service"]
        "How much of the newest data the last task may have lost; absent if unknown.";
    LEASE_REMAINING_SECONDS = Gauge "nett_lease_remaining_seconds" ["service"]
        "How long this node may serve the service if no voter answers any more; where it serves.";
    LEASE_UNPROTECTED = Gauge "nett_lease_unprotected" ["service"]
        "1 while a lease that was taken without a majority of the voters has none; else absent.";
    VOTERS_GENERATION = Gauge "nett_voters_generation" ["of"]
        "The generation of voters: of the file, that this node counts by, that its voter runs.";
    DNS_QUERIES_TOTAL = Counter "nett_dns_queries_total" ["rcode", "transport"]
        "Questions answered, by response code.";
    DNS_ANSWERS_TOTAL = Counter "nett_dns_answers_total" ["client_site", "target_site"]
        "Steered answers; none stands for an unknown client, or for no site.";
    DNS_ANSWER_SECONDS = Histogram "nett_dns_answer_seconds" []
        "Time from a question's arrival over UDP to its answer's departure.";
    DNS_DROPPED_TOTAL = Counter "nett_dns_dropped_total" ["reason"]
        "Messages that got no answer.";
    DNS_TRANSFERS_TOTAL = Counter "nett_dns_transfers_total" ["result"]
        "Copies of the zone that secondaries asked for.";
    DNS_NOTIFIES_TOTAL = Counter "nett_dns_notifies_total" ["result"]
        "Messages that told secondaries of a new snapshot, and what became of them.";
    DNS_BAD_SIGNATURES_TOTAL = Counter "nett_dns_bad_signatures_total" []
        "Messages whose TSIG signature did not hold.";
    DNS_SIGNATURES_TOTAL = Counter "nett_dns_signatures_total" []
        "Signatures of the zone that were made.";
    DNS_UNSIGNED_SERVICES = Gauge "nett_dns_unsigned_services" []
        "Services whose newest records are not signed yet; absent in an unsigned zone.";
    DNS_SIGNATURE_EXPIRES_SECONDS = Gauge "nett_dns_signature_expires_seconds" []
        "When the first signature of the zone runs out, since 1970; absent in an unsigned zone.";
    DNS_LISTENING = Gauge "nett_dns_listening" []
        "1 while the name server has all its addresses; absent where it has none in its file.";
    DNS_SERIAL = Gauge "nett_dns_serial" []
        "Number of the zone snapshot that is served; absent before the first.";
    JOURNAL_FSYNC_SECONDS = Histogram "nett_journal_fsync_seconds" []
        "How long the controller waited until an entry was on disk.";
    JOURNAL_DEGRADED = Gauge "nett_journal_degraded" []
        "1 when the last entry could not be written to disk.";
}
