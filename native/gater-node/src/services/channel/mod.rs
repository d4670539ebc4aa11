//! Channels: the subscribers on connected nodes, and those behind other gateways.

mod last;
pub mod local;
pub mod remote;
