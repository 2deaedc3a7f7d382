//! What an approval is bound to.
//!
//! Pure: the same plan has the same hash at every agent of a release. It stands for the meaning:
//! epochs are not in it, the writes they follow are. States repeat over services and steps, so each
//! is written once and named by its number.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::decide::Present;
use crate::id::{ServiceId, sha256_hex};
use crate::log::entry::{Effect, Move, Step, Terms, Verb, Write};
use crate::traffic::Traffic;

#[derive(Default)]
struct Text<'a> {
    text: String,
    states: BTreeMap<&'a Traffic, usize>,
}

impl<'a> Text<'a> {
    fn line(&mut self, words: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{words}").expect("writing to a string cannot fail");
    }

    /// The number of a state, which is written out where it is met first.
    fn state(&mut self, traffic: &'a Traffic) -> usize {
        let next = self.states.len();
        match self.states.get(traffic) {
            Some(number) => *number,
            None => {
                self.states.insert(traffic, next);
                self.line(format_args!("state {next} {traffic:?}"));
                next
            }
        }
    }
}

pub(super) fn plan_hash(
    present: Present<'_>,
    verb: &Verb,
    effect: &Effect,
    terms: &Terms,
) -> String {
    let mut text = Text::default();
    text.line(format_args!("fabric {}\nverb {}", present.world.fabric.hash, verb.name()));
    let Effect { rank: _, writes, moves, steps } = effect;
    for Write { epoch: _, prev, settles, change, before } in writes {
        text.line(format_args!(
            "write {change:?} over {before:?} after {prev:?} settling {settles:?}"
        ));
    }
    for one in moves {
        let Move { service, epoch: _, prev_epoch: _, prev: _, from, to, handover, kept } = one;
        let (from, to) = (text.state(from), text.state(to));
        text.line(format_args!("move {service} {from} to {to} {handover:?}"));
        if !kept.is_empty() {
            text.line(format_args!("  with connections at {kept:?}"));
        }
    }
    for step in steps {
        let Step { number, wave, kind, states, delay, timeout, gates, asked, required, owed } =
            step;
        text.line(format_args!("step {number} {wave} {kind} after {delay:?} within {timeout:?}"));
        text.line(format_args!("  {gates:?} {required:?} {owed:?}"));
        if let Some(asked) = asked {
            text.line(format_args!("  {asked:?}"));
        }
        let mut alike: BTreeMap<usize, Vec<&ServiceId>> = BTreeMap::new();
        for (service, traffic) in states {
            alike.entry(text.state(traffic)).or_default().push(service);
        }
        for (state, services) in alike {
            text.line(format_args!("  in state {state}:"));
            services.into_iter().for_each(|service| text.line(format_args!("  {service}")));
        }
    }
    let Terms { supersede: _, asserted: _, without, confirm_within, ramp, until, soft } = terms;
    text.line(format_args!("confirmed within {confirm_within:?}"));
    if ramp.is_some() || until.is_some() {
        text.line(format_args!("by {ramp:?} until {until:?}"));
    }
    if *soft {
        text.line(format_args!("softly"));
    }
    if !without.is_empty() {
        text.line(format_args!("without the voters of {without:?}"));
    }
    sha256_hex(text.text.as_bytes())
}
