//! Grants: the actions and resources that a token allows.

use serde::Deserialize;

/// The scheme of resource names.
const SCHEME: &str = "esdb://";
/// The wildcard, which stands for all actions or all resources.
const ANY: &str = "*";

/// An action on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publishing to it.
    Publish,
    /// Subscribing to it.
    Subscribe,
}

impl Action {
    /// Returns the name of the action in tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "channel/publish",
            Self::Subscribe => "channel/subscribe",
        }
    }
}

/// An action on a resource, as a token grants it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    with: String,
    can: String,
}

/// The set of resources that the text of a grant describes.
enum Pattern<'a> {
    /// The resource with this name.
    Exact(&'a str),
    /// All resources whose names begin with this text.
    Prefix(&'a str),
}

impl Grant {
    /// Returns a grant of the action `can` on the resources of the pattern `with`.
    pub fn new(with: &str, can: &str) -> Self {
        Self { with: with.into(), can: can.into() }
    }

    /// Returns the name of the resource of a topic of a channel.
    pub fn resource(channel: &str, topic: &[u8]) -> Vec<u8> {
        [SCHEME.as_bytes(), b"default/channel/", channel.as_bytes(), b"/", topic].concat()
    }

    /// Returns whether both texts of the grant are well-formed.
    pub fn is_well_formed(&self) -> bool {
        !self.can.is_empty() && (self.with == ANY || self.with.starts_with(SCHEME))
    }

    /// Returns whether this grant allows everything that `other` allows.
    pub fn covers(&self, other: &Self) -> bool {
        let resources = match (self.pattern(), other.pattern()) {
            (Pattern::Prefix(prefix), Pattern::Prefix(text) | Pattern::Exact(text)) => {
                text.starts_with(prefix)
            }
            (Pattern::Exact(text), Pattern::Exact(other)) => text == other,
            (Pattern::Exact(_), Pattern::Prefix(_)) => false,
        };
        resources && self.allows(&other.can)
    }

    /// Returns whether this grant allows `action` on a resource. The name of the resource is
    /// compared literally.
    pub fn matches(&self, resource: &[u8], action: Action) -> bool {
        let resources = match self.pattern() {
            Pattern::Prefix(prefix) => resource.starts_with(prefix.as_bytes()),
            Pattern::Exact(text) => resource == text.as_bytes(),
        };
        resources && self.allows(action.as_str())
    }

    fn allows(&self, action: &str) -> bool {
        self.can == ANY || self.can == action
    }

    fn pattern(&self) -> Pattern<'_> {
        match self.with.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix),
            None => Pattern::Exact(&self.with),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates grants of few characters, so that grants overlap, with the wildcard among them.
    fn grant() -> impl Strategy<Value = Grant> {
        let action = prop_oneof![Just("*"), Just("channel/publish"), Just("channel/subscribe")];
        ("(esdb://[ab*]{0,4}|\\*)", action).prop_map(|(with, can)| Grant::new(&with, can))
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![Just(Action::Publish), Just(Action::Subscribe)]
    }

    proptest! {
        #[test]
        fn a_grant_that_is_covered_matches_nothing_that_the_other_does_not(
            wider in grant(), grant in grant(), resource in "esdb://[ab*]{0,5}", action in action(),
        ) {
            let resource = resource.as_bytes();
            if wider.covers(&grant) && grant.matches(resource, action) {
                prop_assert!(wider.matches(resource, action));
            }
        }

        #[test]
        fn a_chain_of_grants_never_widens(
            grants in proptest::collection::vec(grant(), 2..6),
            resource in "esdb://[ab*]{0,5}", action in action(),
        ) {
            let is_chain = grants.windows(2).all(|pair| pair[0].covers(&pair[1]));
            let (first, last) = (&grants[0], &grants[grants.len() - 1]);
            if is_chain && last.matches(resource.as_bytes(), action) {
                prop_assert!(first.matches(resource.as_bytes(), action));
            }
        }

        #[test]
        fn covering_is_reflexive(grant in grant()) {
            prop_assert!(grant.covers(&grant));
        }
    }

    #[test]
    fn a_wild_card_in_the_name_of_a_resource_is_a_character() {
        let literal = Grant::new("esdb://a**", "*");
        assert!(!literal.covers(&Grant::new("esdb://a*", "*")));
        assert!(!literal.matches(b"esdb://ab", Action::Publish));
        assert!(literal.matches(b"esdb://a*b", Action::Publish));
    }
}
