//! The scenarios and the sequences of events as their files describe them.

use std::collections::HashMap;

pub(super) type Words = Vec<String>;

/// One scenario, as its file describes it.
#[derive(Default)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) options: Words,
    pub(super) reactions: HashMap<String, Vec<Words>>,
    pub(super) steps: Vec<Words>,
}

fn words(line: &str) -> Words {
    line.split_whitespace().map(str::to_owned).collect()
}

/// All that `text` describes.
pub(super) fn scenarios(text: &str) -> Vec<Scenario> {
    let mut found: Vec<Scenario> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(line) = line.strip_prefix("= ") {
            let mut options = words(line);
            let name = options.remove(0);
            found.push(Scenario { name, options, ..Scenario::default() });
            continue;
        }
        let scenario = found.last_mut().expect("a scenario has a name");
        match line.strip_prefix("on ").and_then(|line| line.split_once(':')) {
            Some((event, actions)) => {
                scenario.reactions.insert(event.to_owned(), actions.split(';').map(words).collect());
            }
            None => scenario.steps.push(words(line)),
        }
    }
    found
}

/// The sequences that `text` holds, each with its name.
pub(super) fn sequences(text: &str) -> HashMap<String, Vec<String>> {
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("= ") {
            Some(new) => {
                name = new.to_owned();
                found.insert(name.clone(), Vec::new());
            }
            None => found.get_mut(&name).expect("a name comes first").push(line.to_owned()),
        }
    }
    found
}

impl Scenario {
    /// Whether this build can perform it.
    pub(super) fn is_possible(&self) -> bool {
        cfg!(feature = "tls") || !self.options.iter().any(|option| option == "tls" || option == "plain")
    }
}
