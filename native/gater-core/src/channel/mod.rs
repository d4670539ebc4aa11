//! What a channel is made of: its policy, its topics, its subscribers, and the
//! lanes its messages take on a connection.

mod dense;
mod lanes;
mod policy;
mod subscribers;
mod topic;

pub use lanes::{Lane, LaneLimits, Lanes, Pushed};
pub use policy::{DEFAULTS, Hmac, Policy, Priority};
pub use subscribers::{LocalPid, Subscribers};
pub use topic::{Topic, TopicError};
