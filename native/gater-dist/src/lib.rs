//! An Erlang hidden node as a library.
