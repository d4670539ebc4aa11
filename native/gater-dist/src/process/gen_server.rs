//! Servers that BEAMs can call, cast to, monitor and link to.

use std::future::{Future, ready};

use gater_term::{Pid, Term};
use tokio::task::JoinHandle;

use super::{Caller, Node, Process, Received, RegisterError};

/// The next step of a server.
#[derive(Debug)]
pub enum Next {
    /// The server handles its next message.
    Continue,
    /// The server ends with this reason; `normal` and `shutdown` are not failures.
    Stop(Term),
}

/// A server in the manner of OTP's `gen_server`, which handles one message at a time.
///
/// A server that takes long to answer passes its [`Caller`] to a task of its own.
pub trait GenServer: Send + 'static {
    /// Handles a call, which is answered with [`Caller::reply`].
    fn handle_call(
        &mut self,
        me: &Process,
        request: Term,
        caller: Caller,
    ) -> impl Future<Output = Next> + Send;

    /// Handles a cast. The default implementation ignores it.
    fn handle_cast(&mut self, _me: &Process, _message: Term) -> impl Future<Output = Next> + Send {
        ready(Next::Continue)
    }

    /// Handles any other message or signal. The default implementation ends the server with the
    /// reason of a linked process whose exit reason is not `normal`, and ignores everything else.
    fn handle_info(&mut self, _me: &Process, info: Received) -> impl Future<Output = Next> + Send {
        ready(match info {
            Received::Exit { reason, .. } if reason.as_atom() != Some("normal") => {
                Next::Stop(reason)
            }
            _ => Next::Continue,
        })
    }
}

/// A running [`GenServer`]. Dropping this handle does not stop the server.
#[derive(Debug)]
pub struct Server {
    pid: Pid,
    task: JoinHandle<Term>,
}

impl Server {
    /// Returns the pid of the server.
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Waits for the end of the server and returns its reason, which is `panic` if the server
    /// panicked.
    pub async fn ended(self) -> Term {
        self.task.await.unwrap_or_else(|_| crate::term!(panic))
    }

    /// Ends the server at once, even while it handles a message.
    pub fn abort(&self) {
        self.task.abort();
    }
}

impl Node {
    /// Runs `server` as a process of this node on a task of its own, registered under `name` if
    /// that is given.
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
