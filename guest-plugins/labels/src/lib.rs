//! Rules by label: the first rule whose labels the pod and the node all have decides, otherwise the default, if there
//! is one.
//!
//! A policy reads its own keys and defines the target of a rule; `sets` has the rules whose targets are range sets.

pub mod sets;

use weft_allocator::conf::Object;
use weft_sdk::{Pair, Problem};

/// Labels that must all be present. An empty list matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(Vec<(String, String)>);

/// A rule, or the default, which requires no labels.
#[derive(Debug)]
pub struct Rule<T> {
    /// Its place in the configuration.
    pub at: String,
    /// Labels that the pod must have.
    pub pod: Wanted,
    /// Labels that the node must have.
    pub node: Wanted,
    /// Its target.
    pub leads_to: T,
}

/// Rules in their order, and a default.
#[derive(Debug)]
pub struct Rules<T> {
    rules: Vec<Rule<T>>,
    default: Option<Rule<T>>,
}

/// Formats labels for people.
#[must_use]
pub fn format_labels(labels: &[Pair]) -> String {
    let texts: Vec<String> = labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
    if texts.is_empty() { "it has none".to_owned() } else { texts.join(", ") }
}

// === impl Wanted ===

impl Wanted {
    /// Reads an object of labels; `None` if the key is absent.
    ///
    /// # Errors
    /// A label is not a text.
    pub fn read(entry: &Object<'_>, key: &str) -> Result<Option<Self>, Problem> {
        let Some(labels) = entry.object(key)? else { return Ok(None) };
        let labels = labels.texts()?;
        Ok(Some(Self(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())))
    }

    /// Returns whether it requires no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether these labels contain all required ones.
    #[must_use]
    pub fn are_among(&self, labels: &[Pair]) -> bool {
        self.0.iter().all(|(key, value)| labels.iter().any(|label| label.key == *key && label.value == *value))
    }

    fn texts(&self, whose: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |(key, value)| format!("{whose}{key}={value}"))
    }
}

// === impl Rule ===

impl<T> Rule<T> {
    /// Creates the default, which matches everything.
    pub fn default(at: String, leads_to: T) -> Self {
        Self { at, pod: Wanted::default(), node: Wanted::default(), leads_to }
    }

    /// Returns the rule's place and its labels, each with the word for its owner.
    #[must_use]
    pub fn describe(&self, pod: &str, node: &str) -> String {
        let labels: Vec<String> = self.pod.texts(pod).chain(self.node.texts(node)).collect();
        if labels.is_empty() { self.at.clone() } else { format!("{} ({})", self.at, labels.join(", ")) }
    }
}

// === impl Rules ===

impl<T> Rules<T> {
    /// Creates rules in order, with a default.
    #[must_use]
    pub fn new(rules: Vec<Rule<T>>, default: Option<Rule<T>>) -> Self {
        Self { rules, default }
    }

    /// Returns whether there are neither rules nor a default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.default.is_none()
    }

    /// Returns the rule for a pod and a node with these labels.
    #[must_use]
    pub fn choose(&self, pod: &[Pair], node: &[Pair]) -> Option<&Rule<T>> {
        let matches = |rule: &&Rule<T>| rule.pod.are_among(pod) && rule.node.are_among(node);
        self.rules.iter().find(matches).or(self.default.as_ref())
    }

    /// Returns all rules, the default last.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule<T>> {
        self.rules.iter().chain(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(labels: &[(&str, &str)]) -> Wanted {
        Wanted(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn pairs(labels: &[(&str, &str)]) -> Vec<Pair> {
        labels.iter().map(|(key, value)| Pair { key: (*key).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn the_first_rule_that_matches_pod_and_node_decides() {
        let rule = |number: usize, pod, node| Rule {
            at: format!("/rules/{number}"),
            pod: wanted(pod),
            node: wanted(node),
            leads_to: number,
        };
        let rules = vec![rule(0, &[("a", "1"), ("b", "2")], &[("rack", "x")]), rule(1, &[("a", "1")], &[])];
        let with_default = |default| Rules::new(vec![], default);
        assert!(with_default(None).is_empty() && !with_default(Some(Rule::default("/default".into(), 7))).is_empty());
        let rules = Rules::new(rules, Some(Rule::default("/default".into(), 9)));
        let chosen = |pod: &[(&str, &str)], node: &[(&str, &str)]| {
            let rule = rules.choose(&pairs(pod), &pairs(node)).expect("there is a default");
            (rule.leads_to, rule.describe("pod ", "node "))
        };
        let all: &[(&str, &str)] = &[("b", "2"), ("c", "3"), ("a", "1")];
        assert_eq!(chosen(all, &[("rack", "x")]), (0, "/rules/0 (pod a=1, pod b=2, node rack=x)".to_owned()));
        assert_eq!(chosen(all, &[("rack", "y")]), (1, "/rules/1 (pod a=1)".to_owned()));
        assert_eq!(chosen(&[("a", "2")], &[("rack", "x")]), (9, "/default".to_owned()));
        assert_eq!(rules.all_rules().count(), 3);
    }

    #[test]
    fn labels_as_people_write_them() {
        assert_eq!(format_labels(&pairs(&[("a", "1"), ("b", "2")])), "a=1, b=2");
        assert_eq!(format_labels(&[]), "it has none");
    }
}
