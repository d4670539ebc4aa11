//! From connections to services: the nodes that are connected or wanted, and who answers
//! what they send. Nothing here parses the requests of a service.

pub mod descriptors;
pub mod mesh;
pub mod peers;
pub mod router;
pub mod tuning;
pub mod unreached;
