//! The NIF library of esdb-gater: a thin shell over `gater-core`.
//!
//! The functions of `esdb_gater_nif` (Erlang), which says when each is called and
//! what runs in its place where this library is not loaded. Both give the same
//! answers. Nothing here blocks, apart from locks that are held for one look-up,
//! and rustler turns a panic into an exception of the calling process.

mod direct;
mod known;
mod limit;
mod sign;
mod terms;

rustler::init!("esdb_gater_nif", load = load);

fn load(env: rustler::Env<'_>, _info: rustler::Term<'_>) -> bool {
    limit::open(env)
}
