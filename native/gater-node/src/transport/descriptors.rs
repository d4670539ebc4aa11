//! File descriptors: their limit, and its division among their uses.
//!
//! A gateway without free file descriptors cannot begin the next segment of its log, and ends. The
//! number of sockets is therefore limited to the number that the operating system allows, less the
//! number that the gateway itself needs. Invariant: `RESERVE + connections + handshakes + 1 +
//! dials` never exceeds the limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of file descriptors that suffices for the greatest number of connections and
/// everything that goes with them.
pub const WANTED: u64 = 8192;
/// The number of file descriptors that the gateway itself needs: for the log and the snapshot, the
/// listener, EPMD, signals, timers, the standard streams, and resolving hosts.
const RESERVE: u64 = 96;
/// The greatest numbers of connections, unfinished handshakes and dials at a time.
const MOST: Share = Share { connections: 4096, handshakes: 256, dials: 64 };
/// The least number of connections with which a gateway is useful.
const LEAST_CONNECTIONS: u64 = 8;

/// The numbers of sockets by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Established connections.
    pub connections: usize,
    /// Accepted connections whose handshake is unfinished.
    pub handshakes: usize,
    /// Dials in progress.
    pub dials: usize,
}

/// The operating system allows too few open files for a gateway.
#[derive(Debug, thiserror::Error)]
#[error(
    "the operating system allows {limit} open files, and a gateway needs {needed} at least: raise \
     the limit with `ulimit -n` or, for a service of systemd, with LimitNOFILE"
)]
pub struct TooFew {
    limit: u64,
    needed: u64,
}

/// Raises the number of files that this process may open as far as it is allowed and useful, and
/// returns its division among the uses. Logs the number of connections that this allows.
pub fn claim() -> Result<Share, TooFew> {
    let limit = raise();
    let share = share(limit)?;
    let Share { connections, .. } = share;
    if connections < MOST.connections {
        tracing::warn!(
            open_files = limit,
            connections,
            "the limit of open files allows fewer connections than the {} that a gateway takes: \
             raise it to {WANTED} with `ulimit -n` or, for a service of systemd, with LimitNOFILE",
            MOST.connections
        );
    } else {
        tracing::info!(open_files = limit, connections, "connections are taken up to this number");
    }
    Ok(share)
}

/// Raises the soft limit towards [`WANTED`] and returns the limit from now on.
fn raise() -> u64 {
    // A missing value means that there is no limit.
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(WANTED);
    let possible = WANTED.min(maximum.unwrap_or(WANTED));
    if current >= possible {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum }) {
        Ok(()) => possible,
        Err(error) => {
            tracing::warn!(%error, current, "the limit of open files could not be raised");
            current
        }
    }
}

fn share(limit: u64) -> Result<Share, TooFew> {
    let sockets = limit.saturating_sub(RESERVE + 1);
    let handshakes = of(sockets / 8, MOST.handshakes);
    let dials = of(sockets / 16, MOST.dials);
    let connections = sockets.saturating_sub((handshakes + dials) as u64);
    if connections < LEAST_CONNECTIONS {
        // Of one and a half times as many sockets, at most a third are for handshakes and dials.
        let needed = RESERVE + 1 + LEAST_CONNECTIONS * 3 / 2;
        return Err(TooFew { limit, needed });
    }
    Ok(Share { connections: of(connections, MOST.connections), handshakes, dials })
}

/// Returns a part of the sockets: at least one, at most `most`.
fn of(part: u64, most: usize) -> usize {
    usize::try_from(part).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_reserve_never_exceed_the_limit() {
        for limit in 0..2 * WANTED {
            match share(limit) {
                Ok(Share { connections, handshakes, dials }) => {
                    let sockets = (connections + handshakes + 1 + dials) as u64;
                    assert!(RESERVE + sockets <= limit, "{limit}");
                }
                Err(TooFew { needed, .. }) => assert!(limit < needed, "{limit}"),
            }
        }
    }

    #[test]
    fn a_limit_that_is_high_enough_takes_nothing_away() {
        assert_eq!(share(WANTED).unwrap(), MOST);
        assert_eq!(share(u64::MAX).unwrap(), MOST);
    }
}
