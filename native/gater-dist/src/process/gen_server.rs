//! Servers that BEAMs call, cast to, monitor and link with.

use std::future::{Future, ready};

use gater_term::{Pid, Term};
use tokio::task::JoinHandle;

use super::{Caller, Node, Process, Received, RegisterError};

/// What a server does next.
#[derive(Debug)]
pub enum Next {
    /// It goes on.
    Continue,
    /// It ends with this reason; `normal` and `shutdown` are no failures.
    Stop(Term),
}

/// A server in the manner of OTP's `gen_server`. One message is handled at a time.
///
/// A server that takes long to answer hands its [`Caller`] to a task of its own.
pub trait GenServer: Send + 'static {
    /// Handles a call, which is answered by [`Caller::reply`].
    fn handle_call(
        &mut self,
        me: &Process,
        request: Term,
        caller: Caller,
    ) -> impl Future<Output = Next> + Send;

    /// Handles a cast; ignores it unless implemented.
    fn handle_cast(&mut self, _me: &Process, _message: Term) -> impl Future<Output = Next> + Send {
        ready(Next::Continue)
    }

    /// Handles any other message or signal. Unless implemented, the exit of a linked process that
    /// is not `normal` ends the server with the same reason, and all else is ignored.
    fn handle_info(&mut self, _me: &Process, info: Received) -> impl Future<Output = Next> + Send {
        ready(match info {
            Received::Exit { reason, .. } if reason.as_atom() != Some("normal") => {
                Next::Stop(reason)
            }
            _ => Next::Continue,
        })
    }
}

/// A running [`GenServer`]. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Server {
    pid: Pid,
    task: JoinHandle<Term>,
}

impl Server {
    /// The pid of the server.
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Waits for its end; returns the reason, which is `panic` if it has panicked.
    pub async fn ended(self) -> Term {
        self.task.await.unwrap_or_else(|_| crate::term!(panic))
    }

    /// Ends it at once, in the middle of what it does.
    pub fn abort(&self) {
        self.task.abort();
    }
}

impl Node {
    /// Runs `server` as a process of this node, on a task of its own, registered under `name` if
    /// there is one.
    pub fn serve(
        &self,
        name: Option<&str>,
        mut server: impl GenServer,
    ) -> Result<Server, RegisterError> {
        let mut process = self.spawn();
        if let Some(name) = name {
            process.register(name)?;
        }
        let pid = process.pid().clone();
        let task = self.0.runtime.spawn(async move {
            while let Some(received) = process.receive().await {
                let next = match received {
                    Received::Call { caller, request } => {
                        server.handle_call(&process, request, caller).await
                    }
                    Received::Cast(message) => server.handle_cast(&process, message).await,
                    info => server.handle_info(&process, info).await,
                };
                if let Next::Stop(reason) = next {
                    process.exit(&reason);
                    return reason;
                }
            }
            crate::term!(shutdown)
        });
        Ok(Server { pid, task })
    }
}
