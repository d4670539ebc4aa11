//! The parts of a channel: its policy, its topics and its subscribers.

mod dense;
mod policy;
mod subscribers;
mod topic;

pub use policy::{DEFAULTS, Hmac, Policy, Priority};
pub use subscribers::Subscribers;
pub use topic::{Topic, TopicError};
