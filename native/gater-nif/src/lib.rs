//! The NIF library of esdb-gater, a thin layer over `gater-core`.
//!
//! It implements the functions of the Erlang module `esdb_gater_nif`, which documents when each
//! function is called and what runs in its place where this library is not loaded. Both return the
//! same results. Nothing here blocks, except for locks that are held for one look-up, and rustler
//! turns a panic into an exception of the calling process.

mod direct;
mod known;
mod limit;
mod sign;
mod terms;

rustler::init!("esdb_gater_nif", load = load);

fn load(env: rustler::Env<'_>, _info: rustler::Term<'_>) -> bool {
    limit::open(env)
}
