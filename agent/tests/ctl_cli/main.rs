//! `nettctl` as an operator meets it: the built program against a fake agent behind the real
//! socket server. What is shown is compared with files under `golden/`, what is sent is taken
//! apart, and every exit status is provoked.

mod backup;
mod bus;
mod change;
mod exits;
mod fabric;
mod harness;
mod schema;
mod server;
mod shown;
