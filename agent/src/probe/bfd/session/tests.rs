//! Every pair of states, every rule about timers, and two machines joined by a wire that loses,
//! doubles and mixes up.

use proptest::prelude::*;

use super::*;

const FAST: Bfd =
    Bfd { tx: Duration::from_millis(100), rx: Duration::from_millis(100), multiplier: 3 };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

/// A packet of a far end with discriminator 9 that knows the session under test, 7.
fn from_far(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        answer: false,
        independent: false,
        demand: false,
        multiplier: NonZeroU8::new(3).expect("not zero"),
        my_discriminator: number(9),
        your_discriminator: 7,
        desired_tx: ms(100),
        required_rx: ms(100),
        required_echo_rx: Duration::ZERO,
    }
}

/// A session in a state, at one second.
fn in_state(state: State, settings: Bfd) -> Session {
    let mut session = Session::new(number(7), settings);
    session.packet(Duration::ZERO, 0).expect("announces itself");
    if state != State::AdminDown {
        session.check(ANNOUNCED).expect("begins");
    }
    let way: &[State] = match state {
        State::AdminDown | State::Down => &[],
        State::Init => &[State::Down],
        State::Up => &[State::Down, State::Up],
    };
    for packet in way {
        session.receive(&from_far(*packet), ms(1000)).expect("taken");
    }
    session.packet(ms(1000), 0);
    assert_eq!(session.state(), state);
    session
}

/// RFC 5880 section 6.8.6, every pair.
#[test]
fn every_state_meets_every_state() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
    ];
    for (own, far, then) in table {
        let mut session = in_state(own, FAST);
        let change = session.receive(&from_far(far), ms(1050)).expect("taken");
        assert_eq!(session.state(), then, "{own:?} meets {far:?}");
        let went = change.map(|c| (c.from, c.to));
        assert_eq!(went, (own != then).then_some((own, then)), "{own:?} meets {far:?}");
        let fall = change.and_then(|c| c.fall);
        let expected = match (own, far) {
            (Init | Up, AdminDown) => Some(Fall::Stopped),
            (Up, Down) => Some(Fall::Signalled),
            _ => None,
        };
        assert_eq!(fall, expected, "{own:?} meets {far:?}");
        if then == Down && own != Down {
            assert_eq!(session.diagnostic(), Diagnostic::SIGNALLED);
        }
    }
    for far in [AdminDown, Down, Init, Up] {
        let mut session = in_state(AdminDown, FAST);
        assert_eq!(session.receive(&from_far(far), ms(100)), Err(Refused::AdminDown));
    }
}

#[test]
fn silence_is_measured_by_the_far_ends_multiplier() {
    for (own, then) in [(State::Init, State::Down), (State::Up, State::Down)] {
        let mut session = in_state(own, FAST);
        let slow = Packet {
            multiplier: NonZeroU8::new(5).expect("not zero"),
            desired_tx: ms(200),
            ..from_far(if own == State::Up { State::Up } else { State::Down })
        };
        session.receive(&slow, ms(1100)).expect("taken");
        assert_eq!(session.pace(), Pace { interval: ms(200), detection: ms(1000) });
        assert_eq!(session.check(ms(2099)), None);
        let change = session.check(ms(2100)).expect("too long");
        assert_eq!((change.to, change.fall), (then, Some(Fall::Silence)));
        assert_eq!(change.pace.detection, ms(1000));
        assert_eq!(session.diagnostic(), Diagnostic::EXPIRED);
        let packet = session.packet(ms(2100), 0).expect("says so at once");
        assert_eq!((packet.state, packet.your_discriminator), (State::Down, 0));
        assert_eq!(packet.desired_tx, SLOW);
    }
}

/// Packets every 100 ms, of which each takes its own time: `delay` of its number. Gives the session
/// as it is when the last has come, looked at every millisecond.
fn late(delay: impl Fn(u64) -> u64) -> (Session, usize) {
    let mut session = in_state(State::Up, FAST);
    let mut arrivals: Vec<u64> = (1..100).map(|n| 1000 + 100 * n + delay(n)).collect();
    arrivals.sort_unstable();
    let (first, last) = (1000, *arrivals.last().expect("some"));
    let mut falls = 0;
    for now in first..last {
        falls += usize::from(session.check(ms(now)).is_some());
        for _ in arrivals.iter().filter(|at| **at == now) {
            // Of the same state, whichever of them it is: BFD numbers no packets.
            let _ = session.receive(&from_far(State::Up), ms(now));
        }
    }
    (session, falls)
}

#[test]
fn delay_that_jumps_trembles_or_turns_packets_around_is_no_loss() {
    // 180 ms more from one packet on: 280 ms of silence, where 300 are too many.
    let (session, falls) = late(|n| if n < 50 { 5 } else { 185 });
    assert_eq!((session.state(), falls), (State::Up, 0));
    // Up to 150 ms more or less, so that packets overtake each other.
    let (session, falls) = late(|n| (n * 7919) % 151);
    assert_eq!((session.state(), falls), (State::Up, 0));
    // And 600 ms more is a loss, if only of the last of them.
    let (session, falls) = late(|n| {
        if n == 98 {
            100
        } else if n == 99 {
            600
        } else {
            0
        }
    });
    assert_eq!((session.state(), falls), (State::Down, 1));
}

#[test]
fn packets_of_others_are_refused_and_change_nothing() {
    for own in [State::Down, State::Init, State::Up] {
        let session = in_state(own, FAST);
        let wrong = Packet { your_discriminator: 8, ..from_far(State::Down) };
        let none = Packet { your_discriminator: 0, ..from_far(State::Up) };
        let init = Packet { your_discriminator: 0, ..from_far(State::Init) };
        let mut after = session.clone();
        assert_eq!(after.receive(&wrong, ms(1050)), Err(Refused::Discriminator));
        assert_eq!(after.receive(&none, ms(1050)), Err(Refused::NoDiscriminator));
        assert_eq!(after.receive(&init, ms(1050)), Err(Refused::NoDiscriminator));
        assert_eq!(format!("{after:?}"), format!("{session:?}"));
        let known = Packet { your_discriminator: 0, ..from_far(State::Down) };
        assert!(after.receive(&known, ms(1050)).is_ok());
    }
}

/// One packet, half a second in which nothing is taken, then the session begins.
#[test]
fn a_session_announces_itself_as_administratively_down() {
    let mut session = Session::new(number(7), FAST);
    assert_eq!(session.deadline(), Some(Duration::ZERO));
    let packet = session.packet(ms(3000), 0).expect("at once");
    assert_eq!((packet.state, packet.diagnostic), (State::AdminDown, Diagnostic::ADMIN_DOWN));
    assert_eq!(session.deadline(), Some(ms(3500)));
    assert_eq!(session.check(ms(3499)), None);
    let change = session.check(ms(3500)).expect("begins");
    assert_eq!((change.to, change.fall), (State::Down, None));
    let packet = session.packet(ms(3500), 0).expect("at once");
    assert_eq!((packet.state, packet.diagnostic), (State::Down, Diagnostic::NONE));
}

#[test]
fn a_stopped_session_says_so_and_stays_stopped() {
    let mut session = in_state(State::Up, FAST);
    let change = session.stop().expect("it was up");
    assert_eq!((change.to, change.fall), (State::AdminDown, Some(Fall::Stopped)));
    let packet = session.packet(ms(1010), 0).expect("at once");
    assert_eq!(packet.state, State::AdminDown);
    assert_eq!(session.check(ms(60_000)), None);
    assert_eq!(session.receive(&from_far(State::Down), ms(60_000)), Err(Refused::AdminDown));
}

#[test]
fn packets_are_a_second_apart_until_the_session_is_up() {
    let mut session = in_state(State::Down, FAST);
    assert_eq!(session.deadline(), Some(ms(1750)), "with the least jitter");
    session.packet(ms(1750), 255).expect("due");
    assert_eq!(session.deadline(), Some(ms(2750)), "with the most");
}

#[test]
fn jitter_takes_up_to_a_quarter_and_at_least_a_tenth_of_a_multiplier_of_one() {
    for (multiplier, jitter, gap) in [(3, 0, 75), (3, 255, 100), (1, 0, 75), (1, 255, 90)] {
        let mut session = in_state(State::Up, Bfd { multiplier, ..FAST });
        session.receive(&Packet { answer: true, ..from_far(State::Up) }, ms(1000)).expect("taken");
        session.packet(ms(1200), jitter).expect("due");
        assert_eq!(session.transmits(), Some(ms(1200 + gap)), "{multiplier} {jitter}");
    }
}

#[test]
fn a_packet_joins_others_when_three_quarters_of_its_interval_are_over() {
    let mut session = in_state(State::Up, FAST);
    let interval = session.interval();
    let begun = ms(2000);
    session.packet(begun, 255).expect("due");
    let early = begun + interval * 3 / 4 - ms(1);
    session.join(early);
    assert_eq!(session.packet(early, 0), None);
    let enough = begun + interval * 3 / 4;
    assert!(!session.is_due(enough));
    assert_eq!(session.packet(enough, 0), None);
    session.join(enough);
    session.packet(enough, 255).expect("joins");
    assert_eq!(session.packet(enough, 255), None, "once");
    assert!(session.is_due(enough + interval) && !session.is_due(enough + interval - ms(1)));
}

#[test]
fn the_far_end_decides_how_often_it_hears() {
    let mut session = in_state(State::Up, FAST);
    let wants = |required_rx| Packet { required_rx, ..from_far(State::Up) };
    session.receive(&wants(ms(400)), ms(1010)).expect("taken");
    session.packet(ms(1400), 255).expect("due");
    assert_eq!(session.transmits(), Some(ms(1800)));
    session.receive(&wants(ms(50)), ms(1410)).expect("taken");
    assert_eq!(session.transmits(), Some(ms(1500)), "not faster than this end wants to");
    session.receive(&wants(Duration::ZERO), ms(1420)).expect("taken");
    assert_eq!(session.transmits(), None, "no periodic packets at all");
    session.receive(&Packet { poll: true, ..wants(Duration::ZERO) }, ms(1430)).expect("taken");
    let packet = session.packet(ms(1430), 0).expect("a poll is answered");
    assert!(packet.answer && !packet.poll);
}

#[test]
fn demand_is_granted_and_never_asked_for() {
    let mut session = in_state(State::Up, FAST);
    session.receive(&Packet { answer: true, ..from_far(State::Up) }, ms(1010)).expect("taken");
    session.packet(ms(1100), 0).expect("due");
    session.receive(&Packet { demand: true, ..from_far(State::Up) }, ms(1110)).expect("taken");
    assert_eq!(session.transmits(), None);
    assert!(session.expires().is_some(), "its packets are still expected");
    session
        .receive(&Packet { demand: true, poll: true, ..from_far(State::Up) }, ms(1120))
        .expect("taken");
    let packet = session.packet(ms(1120), 0).expect("a poll is answered");
    assert!(packet.answer && !packet.demand);
    session.receive(&from_far(State::Up), ms(1130)).expect("taken");
    assert!(session.transmits().is_some(), "it is over");
}

/// RFC 5880 section 6.8.3.
#[test]
fn other_timers_hold_when_the_far_end_has_confirmed_them() {
    let up = || {
        let mut session = in_state(State::Up, FAST);
        let answer = Packet { answer: true, required_rx: ms(10), ..from_far(State::Up) };
        session.receive(&answer, ms(1000)).expect("taken");
        session
    };
    let mut session = up();
    session.set(Bfd { tx: ms(500), rx: ms(50), ..FAST });
    let packet = session.packet(ms(1001), 0).expect("at once");
    assert!(packet.poll);
    assert_eq!((packet.desired_tx, packet.required_rx), (ms(500), ms(50)));
    assert_eq!((session.interval(), session.pace().interval), (ms(100), ms(100)), "not yet");
    let fast = Packet { desired_tx: ms(20), required_rx: ms(10), ..from_far(State::Up) };
    session.receive(&fast, ms(1002)).expect("taken");
    assert!(session.packet(ms(1100), 0).expect("due").poll, "still");
    session.receive(&Packet { answer: true, ..fast }, ms(1110)).expect("taken");
    assert_eq!((session.interval(), session.pace().interval), (ms(500), ms(50)));
    assert!(!session.packet(ms(1700), 0).expect("due").poll);

    let mut session = up();
    session.set(Bfd { tx: ms(20), rx: ms(400), ..FAST });
    assert_eq!((session.interval(), session.pace().interval), (ms(20), ms(400)), "at once");
}

#[test]
fn who_was_stopped_itself_blames_nobody() {
    let mut session = in_state(State::Up, FAST);
    session.receive(&from_far(State::Up), ms(1050)).expect("taken");
    session.excuse(ms(30_000), ms(31_050));
    assert_eq!(session.check(ms(31_050)), None);
    let expired = session.check(ms(31_350)).expect("it is silent all the same");
    assert_eq!(expired.fall, Some(Fall::Silence));
}

// === Two machines and a wire ===

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    /// Drops what one end sends, until it is undone.
    Cut(usize, bool),
    /// What is on the way to one end arrives in another order, and twice.
    Shuffle(usize),
    Lose(usize),
    Set(usize, Bfd),
    Restart(usize),
}

struct World {
    now: Duration,
    ends: [Session; 2],
    cut: [bool; 2],
    /// What is on its way to each end, with when it arrives.
    wires: [Vec<(Duration, Packet)>; 2],
    discriminators: u32,
    jitter: u8,
}

impl World {
    fn new(settings: [Bfd; 2]) -> Self {
        Self {
            now: Duration::ZERO,
            ends: [Session::new(number(1), settings[0]), Session::new(number(2), settings[1])],
            cut: [false; 2],
            wires: [Vec::new(), Vec::new()],
            discriminators: 2,
            jitter: 0,
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
            let wires = self.wires.iter().flatten().map(|(at, _)| *at);
            let deadlines = self.ends.iter().filter_map(Session::deadline);
            let next = wires.chain(deadlines).min().unwrap_or(end);
            assert!(next > self.now, "everything due was done");
            self.now = next.min(end);
        }
        self.step();
    }

    /// Everything that is due now.
    fn step(&mut self) {
        loop {
            let mut idle = true;
            for at in 0..2 {
                let due = self.wires[at].iter().position(|(when, _)| *when <= self.now);
                if let Some(due) = due {
                    let (_, packet) = self.wires[at].remove(due);
                    let _ = self.ends[at].receive(&packet, self.now);
                    idle = false;
                }
                if self.ends[at].check(self.now).is_some() {
                    idle = false;
                }
                self.jitter = self.jitter.wrapping_mul(31).wrapping_add(17);
                if let Some(packet) = self.ends[at].packet(self.now, self.jitter) {
                    assert!(!(packet.poll && packet.answer));
                    assert!(packet.state == State::Up || packet.desired_tx >= SLOW);
                    if !self.cut[at] {
                        self.wires[1 - at].push((self.now + ms(1), packet));
                    }
                    idle = false;
                }
                self.invariants(at);
            }
            if idle {
                return;
            }
        }
    }

    fn invariants(&self, at: usize) {
        let session = &self.ends[at];
        if matches!(session.state(), State::Init | State::Up) {
            let heard = session.heard.expect("heard of the far end");
            assert!(self.now <= heard + session.pace().detection, "silence ends it");
            assert!(session.remote().is_some());
        }
        if session.state() != State::Up {
            assert!(!session.poll && session.interval() >= SLOW);
        }
        if session.state() == State::Up {
            assert!(matches!(
                session.remote().map(|r| r.state),
                Some(State::Init | State::Up | State::AdminDown | State::Down)
            ));
            assert_eq!(session.diagnostic(), Diagnostic::NONE);
        }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Pass(time) => self.pass(ms(*time)),
            Op::Cut(at, cut) => self.cut[*at] = *cut,
            Op::Lose(at) => self.wires[*at].clear(),
            Op::Shuffle(at) => {
                let mut twice = self.wires[*at].clone();
                twice.extend(self.wires[*at].clone());
                twice.reverse();
                self.wires[*at] = twice;
            }
            Op::Set(at, settings) => self.ends[*at].set(*settings),
            Op::Restart(at) => {
                self.discriminators += 1;
                let settings = self.ends[*at].settings;
                self.ends[*at] = Session::new(number(self.discriminators), settings);
            }
        }
        self.step();
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn settings() -> impl Strategy<Value = Bfd> {
    (3..1500_u64, 3..1500_u64, 1..6_u8).prop_map(|(tx, rx, multiplier)| Bfd {
        tx: ms(tx),
        rx: ms(rx),
        multiplier,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..3000_u64).prop_map(Op::Pass),
        2 => (0..2_usize, any::<bool>()).prop_map(|(at, cut)| Op::Cut(at, cut)),
        1 => (0..2_usize).prop_map(Op::Lose),
        1 => (0..2_usize).prop_map(Op::Shuffle),
        1 => (0..2_usize, settings()).prop_map(|(at, settings)| Op::Set(at, settings)),
        1 => (0..2_usize).prop_map(Op::Restart),
    ]
}

#[test]
fn two_ends_find_each_other_and_agree_on_the_timers() {
    let slow = Bfd { tx: ms(300), rx: ms(50), multiplier: 2 };
    let mut world = World::new([FAST, slow]);
    world.pass(ms(1700));
    assert_eq!(world.states(), [State::Up; 2]);
    world.pass(ms(1500));
    assert_eq!(world.ends[0].pace(), Pace { interval: ms(300), detection: ms(600) });
    assert_eq!(world.ends[1].pace(), Pace { interval: ms(100), detection: ms(300) });
}

/// What one end sends is lost, and both know it within their detection time.
#[test]
fn both_ends_of_a_one_way_link_know_it() {
    for deaf in [0, 1] {
        let mut world = World::new([FAST, FAST]);
        world.pass(ms(3000));
        world.act(&Op::Cut(1 - deaf, true));
        world.pass(ms(310));
        assert_eq!(world.states(), [State::Down; 2]);
        world.pass(ms(5000));
        assert!(!world.states().contains(&State::Up));
        world.act(&Op::Cut(1 - deaf, false));
        world.pass(ms(1100));
        assert_eq!(world.states(), [State::Up; 2]);
    }
}

#[test]
fn an_end_that_begins_anew_takes_the_session_down_without_a_failure() {
    let mut world = World::new([FAST, FAST]);
    world.pass(ms(3000));
    world.discriminators = 5;
    let settings = world.ends[0].settings;
    world.ends[0] = Session::new(number(6), settings);
    let hello = world.ends[0].packet(world.now, 0).expect("at once");
    let change = world.ends[1].receive(&hello, world.now).expect("taken").expect("goes down");
    assert_eq!((change.to, change.fall), (State::Down, Some(Fall::Stopped)));
    world.pass(ms(2000));
    assert_eq!(world.states(), [State::Up; 2]);
}

proptest! {
    /// Whatever happens on the way: the invariants hold after each step, a cut wire ends the
    /// session at both ends, and once nothing is lost any more it comes up.
    #[test]
    fn any_history_ends_well(
        first in settings(),
        second in settings(),
        ops in prop::collection::vec(op(), 0..40),
    ) {
        let mut world = World::new([first, second]);
        for op in &ops {
            world.act(op);
        }
        world.cut = [false; 2];
        world.wires = [Vec::new(), Vec::new()];
        world.pass(Duration::from_secs(20));
        prop_assert_eq!(world.states(), [State::Up; 2]);
        world.pass(Duration::from_secs(3));
        prop_assert_eq!(world.states(), [State::Up; 2], "and stays");
        world.cut = [true, false];
        let longest = world.ends.iter().map(|end| end.pace().detection).max().expect("two");
        world.pass(longest + ms(10));
        prop_assert!(!world.states().contains(&State::Up));
    }
}
