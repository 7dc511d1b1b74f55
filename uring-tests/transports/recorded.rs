//! The sequences that asyncio gives and those that this crate gives are the same, but for the differences that are meant.

use std::panic::catch_unwind;

use crate::harness::{Cx, Folder, both_drivers};
use crate::transports::perform::perform;
use crate::transports::scenario::{Scenario, scenarios, sequences};

const SCENARIOS: &str = include_str!("../asyncio/scenarios.txt");
const RECORDED: &str = include_str!("../asyncio/recorded.txt");
const DIFFERENCES: &str = include_str!("../asyncio/differences.txt");

both_drivers!(callbacks_come_as_from_asyncio);

fn callbacks_come_as_from_asyncio(cx: Cx) {
    let (recorded, differences) = (sequences(RECORDED), sequences(DIFFERENCES));
    let mut wrong = Vec::new();
    for scenario in scenarios(SCENARIOS).into_iter().filter(Scenario::is_possible) {
        let folder = Folder::new();
        let name = scenario.name.clone();
        let path = folder.path("socket");
        let got = catch_unwind(|| cx.run(perform(scenario, path)));
        let got = got.unwrap_or_else(|_| vec!["it panicked".to_owned()]);
        let asyncio = recorded.get(&name).unwrap_or_else(|| panic!("{name} was not recorded"));
        let expected = differences.get(&name).unwrap_or(asyncio);
        if got != *expected {
            wrong.push(format!(
                "{name}:\n     here: {}\n  asyncio: {}",
                got.join(" | "),
                asyncio.join(" | ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_differences_are_differences_and_few() {
    let (recorded, differences) = (sequences(RECORDED), sequences(DIFFERENCES));
    assert!(recorded.len() >= 60);
    assert!(differences.len() <= 6, "{} are too many", differences.len());
    for (name, here) in &differences {
        assert_ne!(recorded.get(name).expect("a scenario"), here, "{name} is no difference any more");
    }
}
