//! What a reader task sends while it handles what it has read at once.
//!
//! A thread that gathers puts frames straight into the batches of the connections
//! that nobody writes to at the time, and writes the batches when it has handled all
//! it has read: no queue, no wake-up of another task and one system call for each
//! connection. A lone message goes out before the reader waits again.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Connection;

/// Connections that a gatherer writes to itself; those beyond are left to their tasks.
const WRITTEN_HERE: usize = 8;

static LAST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CURRENT: RefCell<Current> = const { RefCell::new(Current { gatherer: 0, touched: Vec::new() }) };
}

struct Current {
    /// Never given out twice; 0 while this thread does not gather.
    gatherer: u64,
    touched: Vec<Arc<Connection>>,
}

/// The thread gathers until this is dropped, which writes.
pub struct Gathering(u64);

/// From now on this thread gathers, unless it does already.
pub fn begin() -> Option<Gathering> {
    CURRENT.with_borrow_mut(|current| {
        if current.gatherer != 0 {
            return None;
        }
        current.gatherer = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Gathering(current.gatherer))
    })
}

/// The number of this thread's gatherer, if it gathers.
pub fn gatherer() -> Option<u64> {
    CURRENT.with_borrow(|current| Some(current.gatherer).filter(|number| *number != 0))
}

/// Has `connection` written when the gathering ends.
pub fn touch(connection: Arc<Connection>) {
    CURRENT.with_borrow_mut(|current| current.touched.push(connection));
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let mut touched = CURRENT.with_borrow_mut(|current| {
            current.gatherer = 0;
            std::mem::take(&mut current.touched)
        });
        for (at, connection) in touched.drain(..).enumerate() {
            connection.outbox().flush(self.0, at < WRITTEN_HERE);
        }
        CURRENT.with_borrow_mut(|current| current.touched = touched);
    }
}
