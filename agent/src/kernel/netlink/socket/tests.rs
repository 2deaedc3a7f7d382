//! The request layer over the kernel's sockets and over sockets that lose answers.

use std::collections::VecDeque;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::time::Instant;

use super::super::link;
use super::*;

fn inside<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

#[test]
fn a_request_without_answer_ends_at_the_deadline_and_the_next_has_a_new_socket() {
    inside(async {
        let ports = OwnPorts::default();
        let mut connection = Connection::open(NETLINK_ROUTE, ports.clone()).expect("opens");
        let port = connection.port;
        // The kernel takes bytes that are shorter than their own length without a word.
        let silent = connection.exchange(&[255; HEADER], |_, _| Ok(Step::End)).await;
        assert_eq!(silent, Err(Failure::Unanswered));
        let links = connection.dump(link::dump_links(), link::decode_link).await;
        let links = links.expect("answered");
        assert!(links.complete);
        assert!(links.items.iter().any(|l| l.name == "lo"));
        assert_ne!(connection.port, port);
        assert!(ports.contains(connection.port) && !ports.contains(port));
    });
}

#[test]
fn a_refused_dump_is_an_error_and_not_an_empty_table() {
    inside(async {
        let mut connection = Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
        let mut bad = super::super::nexthop::dump();
        bad.put_u32(200, 1);
        let refused = connection.dump(bad, super::super::nexthop::decode).await;
        let Err(Failure::Refused { errno: Errno::EINVAL, text: Some(text) }) = refused else {
            panic!("{refused:?}");
        };
        assert!(!text.is_empty());
    });
}

#[test]
fn one_undecodable_message_makes_a_dump_incomplete() {
    inside(async {
        let mut connection = Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
        let decode = |_: u16, _: &[u8]| Err::<Option<()>, _>(Malformed("this test"));
        let dump = connection.dump(link::dump_links(), decode).await.expect("answered");
        assert!(!dump.complete && dump.items.is_empty());
    });
}

#[test]
fn a_cancelled_exchange_leaves_nothing_behind() {
    inside(async {
        let mut connection = Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
        {
            let silent = connection.exchange(&[255; HEADER], |_, _| Ok(Step::End));
            let mut silent = std::pin::pin!(silent);
            let first = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(silent.as_mut().poll(cx).is_pending())
            });
            assert!(first.await);
        }
        let links = connection.dump(link::dump_links(), link::decode_link).await;
        assert!(links.expect("answered").complete);
    });
}

// === answers that get lost ===

/// What becomes of the answer to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// The socket was overrun.
    Overrun,
    /// Nothing comes, and nobody says so.
    Silence,
    /// Bytes that are no message.
    Torn,
    /// The message cannot be sent.
    Unsent,
}

/// Sockets to a kernel that answers each message with one object, or acknowledges it, as fate has
/// it. Counts what was sent.
#[derive(Clone, Default)]
struct Fated(Arc<Mutex<Course>>);

#[derive(Default)]
struct Course {
    fates: VecDeque<Fate>,
    sockets: u32,
    sent: u32,
}

struct FatedWire {
    course: Fated,
    answers: VecDeque<io::Result<Vec<u8>>>,
}

impl Fated {
    fn of(fates: &[Fate]) -> Self {
        let fated = Self::default();
        fated.lock().fates.extend(fates);
        fated
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Course> {
        self.0.lock().expect("no test panics in here")
    }

    fn connect(&self) -> Connection {
        let wires = Arc::new(self.clone());
        Connection::over(wires, NETLINK_ROUTE, OwnPorts::default()).expect("opens")
    }

    /// Messages that were sent, and sockets that were opened.
    fn seen(&self) -> (u32, u32) {
        let course = self.lock();
        (course.sent, course.sockets)
    }
}

impl Wires for Fated {
    fn open(&self, _protocol: isize) -> io::Result<(Box<dyn Wire>, u32)> {
        let mut course = self.lock();
        course.sockets += 1;
        let wire = FatedWire { course: self.clone(), answers: VecDeque::new() };
        Ok((Box::new(wire), 1000 + course.sockets))
    }
}

impl Wire for FatedWire {
    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let mut course = self.course.lock();
        course.sent += 1;
        let fate = course.fates.pop_front().unwrap_or(Fate::Arrives);
        let broken = || io::Error::from(Errno::ENOBUFS);
        // Of several messages in one write, the last is answered.
        let (asked, _) = messages(bytes).last().expect("not empty").expect("well formed");
        let kinds: &[u16] = if asked.flags & NLM_F_DUMP == NLM_F_DUMP {
            &[OBJECT, NLMSG_DONE]
        } else if asked.kind == QUESTION {
            &[OBJECT, NLMSG_ERROR]
        } else {
            &[NLMSG_ERROR]
        };
        let answer: Vec<u8> =
            kinds.iter().flat_map(|kind| message(*kind, asked.sequence)).collect();
        match fate {
            Fate::Arrives => self.answers.push_back(Ok(answer)),
            Fate::Overrun => self.answers.push_back(Err(broken())),
            Fate::Torn => self.answers.push_back(Ok(answer[..10].to_vec())),
            Fate::Silence => {}
            Fate::Unsent => return Poll::Ready(Err(broken())),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<()>> {
        match self.answers.pop_front() {
            Some(answer) => Poll::Ready(answer.map(|bytes| *buffer = bytes)),
            // Woken by the deadline.
            None => Poll::Pending,
        }
    }
}

/// Kinds of messages of no meaning.
const OBJECT: u16 = 100;
const QUESTION: u16 = 101;
const COMMAND: u16 = 102;

/// A message whose payload is the number 0, which is also the word for success.
fn message(kind: u16, sequence: u32) -> Vec<u8> {
    Message::new(kind, 0, &[0; 4]).finish(sequence).to_vec()
}

fn command() -> Message {
    Message::new(COMMAND, 0, &[0; 4])
}

fn object(kind: u16, _: &[u8]) -> Result<Option<u16>, Malformed> {
    Ok((kind == OBJECT).then_some(kind))
}

const LOSSES: [Fate; 4] = [Fate::Overrun, Fate::Silence, Fate::Torn, Fate::Unsent];

#[tokio::test(start_paused = true)]
async fn a_question_whose_answer_is_lost_is_asked_again_on_another_socket() {
    for fate in LOSSES {
        let fated = Fated::of(&[fate]);
        let dump = fated.connect().dump(Message::new(QUESTION, 0, &[0; 4]), object).await;
        let dump = dump.unwrap_or_else(|e| panic!("{fate:?}: {e}"));
        assert!(dump.complete && dump.items == [OBJECT], "{fate:?}: {dump:?}");
        assert_eq!(fated.seen(), (2, 2), "{fate:?}");

        let fated = Fated::of(&[fate]);
        let found = fated.connect().get(Message::new(QUESTION, 0, &[0; 4]), object).await;
        assert_eq!(found, Ok(Some(OBJECT)), "{fate:?}");
        assert_eq!(fated.seen(), (2, 2), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_never_answered_ends_after_so_many_deadlines() {
    let fated = Fated::of(&[Fate::Silence; 10]);
    let begun = Instant::now();
    let dump = fated.connect().dump(Message::new(QUESTION, 0, &[0; 4]), object).await;
    assert!(matches!(dump, Err(Failure::Unanswered)), "{dump:?}");
    assert_eq!(fated.seen(), (ASKED, ASKED));
    assert_eq!(begun.elapsed().as_secs(), DEADLINE.as_secs() * u64::from(ASKED));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_not_repeated() {
    for fate in [Fate::Overrun, Fate::Silence, Fate::Torn] {
        let fated = Fated::of(&[fate]);
        let mut connection = fated.connect();
        assert_eq!(connection.request(command()).await, Err(Failure::Unanswered), "{fate:?}");
        assert_eq!(fated.seen(), (1, 1), "{fate:?}");
        // The next one finds a socket on which no late answer can come.
        assert_eq!(connection.request(command()).await, Ok(()));
        assert_eq!(fated.seen(), (2, 2), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_told_apart() {
    let mut connection = Fated::of(&[Fate::Unsent]).connect();
    assert_eq!(connection.request(command()).await, Err(Failure::Socket(Errno::ENOBUFS)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_in_a_row_of_writes_leaves_the_rest_unsent() {
    let long = Message::new(COMMAND, 0, &vec![0; PIPELINE / 2]);
    let messages = vec![long; 6];
    // Two of them go in one write.
    let fated = Fated::of(&[Fate::Arrives, Fate::Overrun]);
    let results = fated.connect().pipeline(messages).await;
    let unknown = || Err(Failure::Unanswered);
    let (whole, lost) = results.split_at(2);
    assert_eq!(whole, [Ok(()), Ok(())]);
    assert_eq!(lost, [unknown(), unknown(), unknown(), unknown()]);
    assert_eq!(fated.seen(), (2, 1), "one write after the lost one is not made");
}
