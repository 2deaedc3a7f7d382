//! Row 3: names that do not exist beside names that do, and many names beside few.

use crate::RunArguments;
use crate::cpu;
use crate::data::{Mix, questions};
use crate::load::{Load, median};
use crate::peer::Peer;

use super::print_row;

const FEW: u32 = 10_000;
/// More than the zone's names, so that most of them are asked for in every round.
const QUESTIONS: u32 = 2_000_000;

pub(crate) fn misses_and_many_names(arguments: &RunArguments) -> anyhow::Result<()> {
    let many = arguments.many;
    println!("Row 3: NXDOMAIN beside a hit; {many} names beside {FEW}");
    let directory = tempfile::tempdir()?;
    let file = |name: &str, names: u32, mix: Mix| -> anyhow::Result<_> {
        let path = directory.path().join(name);
        std::fs::write(&path, questions(names, mix, QUESTIONS))?;
        Ok(path)
    };
    let hits = file("hits", FEW, Mix::Hits)?;
    let misses = file("misses", FEW, Mix::Misses)?;
    let hits_of_many = file("many", many, Mix::Hits)?;
    let small = Peer::Nett.start(directory.path(), FEW)?;
    let large = Peer::Nett.start(directory.path(), many)?;
    let memory = cpu::memory(large.group())? as f64 / f64::from(many);
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..arguments.rounds {
        let runs = [(&small, &hits), (&small, &misses), (&large, &hits_of_many)];
        for (at, (server, questions)) in runs.into_iter().enumerate() {
            let load = Load { questions, seconds: arguments.seconds, rate: None, signed: false };
            costs[at].push(load.on(server)?.per_question);
        }
    }
    let [hit, miss, of_many] = costs.map(|all| median(&all));
    print_row("hit", &format!("{hit:.2} us of {FEW}"), 1.0);
    print_row("NXDOMAIN", &format!("{miss:.2} us"), miss / hit);
    print_row("hit", &format!("{of_many:.2} us of {many}"), of_many / hit);
    println!("  resident memory of the large one: {memory:.0} bytes a name");
    Ok(())
}
