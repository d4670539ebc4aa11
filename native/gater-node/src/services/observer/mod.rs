//! `esdb_gater_observer`: the service that reports the state of a gateway, and carries out orders
//! while it runs.
//!
//! | request | answer |
//! |---|---|
//! | `{report, Section, Options}` | `{ok, Json}`: a section of the [report](crate::observe::report) |
//! | `{admin, Order, Mac}` | `ok`: the order was carried out, see [`admin_key`] |
//! | `time` | `{ok, Milliseconds}`: what the clock of the gateway's host says, since the Unix epoch |
//!
//! A report is made on a thread for slow work, one at a time, so that a caller that asks for
//! reports without end delays only other reports.

pub mod admin_key;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gater_dist::{Connection, gen_server::From};
use gater_term::encode;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::admin_key::{AdminKey, Sealed};
use self::request::{BadRequest, Order, Request};
use super::{OK, error, error_with, unknown_request};
use crate::clock;
use crate::observe::logs::LogFilter;
use crate::observe::report::{Collector, Options, Section};

/// The registered name of the service.
pub const NAME: &str = "esdb_gater_observer";

/// The number of reports that are made at a time.
const AT_A_TIME: usize = 1;
/// The greatest number of waiting reports. Further ones are answered with `overloaded`.
const MAX_WAITING: usize = 64;
/// The length of the longest order in bytes.
const MAX_ORDER_BYTES: usize = 4096;

/// The observer service.
pub struct Observer {
    collector: Arc<Collector>,
    log: LogFilter,
    /// Cancelled when the gateway is told to stop.
    drain: CancellationToken,
    keys: Vec<AdminKey>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Orders that were refused.
    refused: AtomicU64,
}

impl Observer {
    /// Returns the service that reports from `collector`. It carries out orders that are sealed
    /// with one of the `keys`: changes of `log`, and `drain`, which is cancelled when the gateway
    /// is to stop.
    pub fn new(
        collector: Arc<Collector>,
        log: LogFilter,
        drain: CancellationToken,
        keys: Vec<AdminKey>,
    ) -> Self {
        Self {
            collector,
            log,
            drain,
            keys,
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            refused: AtomicU64::new(0),
        }
    }

    /// Answers a `gen_server:call`.
    pub fn call(&self, caller: &Arc<Connection>, from: From, request: &[u8]) {
        match Request::parse(request) {
            Ok(Request::Time) => {
                let mut out = Vec::with_capacity(24);
                encode::tuple(&mut out, 2);
                encode::atom(&mut out, "ok");
                encode::uint(&mut out, clock::unix_millis());
                caller.reply(&from, out);
            }
            Ok(Request::Report(section, options)) => self.report(caller, from, section, options),
            Ok(Request::Admin(order, mac)) => {
                let (answer, stops) = self.admin(caller, order, mac);
                caller.reply(&from, answer);
                // Not before the answer is queued: a connection takes none while it is drained.
                if stops {
                    self.drain.cancel();
                }
            }
            Err(BadRequest::Unknown) => caller.reply(&from, unknown_request(request)),
            Err(BadRequest::Option(name)) => {
                let name = |out: &mut Vec<u8>| encode::binary(out, name.as_bytes());
                caller.reply(&from, error_with("bad_option", name));
            }
            Err(BadRequest::Section(name)) => {
                let name = |out: &mut Vec<u8>| encode::binary(out, name.as_bytes());
                caller.reply(&from, error_with("unknown_section", name));
            }
        }
    }

    fn report(&self, caller: &Arc<Connection>, from: From, section: Section, options: Options) {
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            return caller.reply(&from, error("overloaded"));
        };
        let (turns, collector, caller) =
            (self.turns.clone(), self.collector.clone(), caller.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let Ok(turn) = turns.acquire_owned().await else { return };
            if caller.is_closed() {
                return;
            }
            let gathered =
                tokio::task::spawn_blocking(move || collector.json(&section, options)).await;
            drop((turn, place));
            match gathered {
                Ok(Ok(json)) => {
                    let mut out = Vec::with_capacity(json.len() + 16);
                    encode::tuple(&mut out, 2);
                    encode::atom(&mut out, "ok");
                    encode::binary(&mut out, &json);
                    caller.reply(&from, out);
                }
                Ok(Err(reason)) => {
                    tracing::error!(%reason, "a report could not be written");
                    caller.reply(&from, error("failed"));
                }
                Err(reason) => {
                    tracing::error!(%reason, "a report could not be gathered");
                    caller.reply(&from, error("failed"));
                }
            }
        });
    }

    /// Carries out an order. Returns the answer, and whether the gateway is to stop.
    fn admin(&self, caller: &Connection, order: &str, mac: &[u8]) -> (Vec<u8>, bool) {
        let peer = caller.peer().name.as_str();
        let parts = self.collector.parts();
        let sealed = Sealed {
            gateway: parts.node.name().as_str(),
            creation: parts.node.creation(),
            caller: peer,
            order,
        };
        let allowed =
            order.len() <= MAX_ORDER_BYTES && self.keys.iter().any(|key| key.verify(&sealed, mac));
        if !allowed {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            if refused.is_power_of_two() {
                tracing::warn!(
                    peer,
                    since_start = refused,
                    "orders to this gateway are refused: they are not sealed with its key. Give \
                     them where its data directory or cluster.key can be read"
                );
            }
            return (error("not_allowed"), false);
        }
        let answer = match Order::parse(order) {
            Some(Order::Drain) => {
                tracing::info!(peer, "told to stop");
                return (OK.to_vec(), true);
            }
            Some(Order::Log(filter)) => match self.log.set(filter) {
                Ok(()) => {
                    tracing::info!(peer, filter, "the log filter was changed");
                    OK.to_vec()
                }
                Err(reason) => {
                    let text = reason.to_string();
                    error_with("bad_filter", |out| encode::binary(out, text.as_bytes()))
                }
            },
            None => error("unknown_order"),
        };
        (answer, false)
    }
}
