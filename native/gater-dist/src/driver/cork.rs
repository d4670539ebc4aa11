//! Write coalescing in a reader task while it handles bytes that were read together.
//!
//! A thread that holds a cork writes frames directly into the batches of connections that no other
//! thread writes to at the time, and flushes the batches when it has handled everything it has
//! read. This needs no queue, does not wake another task, and costs one system call per connection.
//! A single message is sent before the reader waits again.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Connection;

/// The number of connections that the holder of a cork flushes itself; the writer tasks flush the
/// others.
const WRITTEN_HERE: usize = 8;

static LAST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CURRENT: RefCell<Current> = const { RefCell::new(Current { corker: 0, corked: Vec::new() }) };
}

struct Current {
    /// The number of the cork that this thread holds, which is never reused; 0 if it holds none.
    corker: u64,
    corked: Vec<Arc<Connection>>,
}

/// While this value exists, the thread coalesces its writes. Dropping it flushes them.
pub struct Cork(u64);

/// Makes this thread coalesce its writes from now on. Returns `None` if it does already.
pub fn begin() -> Option<Cork> {
    CURRENT.with_borrow_mut(|current| {
        if current.corker != 0 {
            return None;
        }
        current.corker = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Cork(current.corker))
    })
}

/// Returns the number of the cork that this thread holds, or `None` if it holds none.
pub fn corker() -> Option<u64> {
    CURRENT.with_borrow(|current| Some(current.corker).filter(|number| *number != 0))
}

/// Flushes `connection` when the cork is dropped.
pub fn flush_later(connection: Arc<Connection>) {
    CURRENT.with_borrow_mut(|current| current.corked.push(connection));
}

impl Drop for Cork {
    fn drop(&mut self) {
        let mut corked = CURRENT.with_borrow_mut(|current| {
            current.corker = 0;
            std::mem::take(&mut current.corked)
        });
        for (at, connection) in corked.drain(..).enumerate() {
            connection.outbox().flush(self.0, at < WRITTEN_HERE);
        }
        CURRENT.with_borrow_mut(|current| current.corked = corked);
    }
}
