//! What a reader task sends while it handles what it has read at once.
//!
//! A thread that holds a cork puts frames straight into the batches of the connections
//! that nobody writes to at the time, and writes the batches when it has handled all
//! it has read: no queue, no wake-up of another task and one system call for each
//! connection. A lone message goes out before the reader waits again.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Connection;

/// Connections that the holder of a cork writes to itself; those beyond are left to their tasks.
const WRITTEN_HERE: usize = 8;

static LAST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CURRENT: RefCell<Current> = const { RefCell::new(Current { corker: 0, touched: Vec::new() }) };
}

struct Current {
    /// Never given out twice; 0 while this thread holds no cork.
    corker: u64,
    touched: Vec<Arc<Connection>>,
}

/// The thread coalesces what it sends until this is dropped, which writes.
pub struct Cork(u64);

/// Has this thread coalesce what it sends from now on, unless it does already.
pub fn begin() -> Option<Cork> {
    CURRENT.with_borrow_mut(|current| {
        if current.corker != 0 {
            return None;
        }
        current.corker = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Cork(current.corker))
    })
}

/// Returns the number of the cork that this thread holds, if it holds one.
pub fn corker() -> Option<u64> {
    CURRENT.with_borrow(|current| Some(current.corker).filter(|number| *number != 0))
}

/// Has `connection` written when the cork is dropped.
pub fn touch(connection: Arc<Connection>) {
    CURRENT.with_borrow_mut(|current| current.touched.push(connection));
}

impl Drop for Cork {
    fn drop(&mut self) {
        let mut touched = CURRENT.with_borrow_mut(|current| {
            current.corker = 0;
            std::mem::take(&mut current.touched)
        });
        for (at, connection) in touched.drain(..).enumerate() {
            connection.outbox().flush(self.0, at < WRITTEN_HERE);
        }
        CURRENT.with_borrow_mut(|current| current.touched = touched);
    }
}
