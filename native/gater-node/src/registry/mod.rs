//! The replicated registry of workers: its consensus, the cluster that runs it, and the directory
//! that callers see.

pub mod cluster;
pub mod directory;
pub mod replica;
pub mod store_limit;
mod store_names;
