//! Calls from other processes and to other processes.

use std::time::Duration;

use gater_term::{Reference, Term};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::state::{Pending, Via};
use super::{CallError, Destination, Node, SendError, Target, wire};
use crate::gen_server::From;
use crate::protocol::flags::Watch;
use crate::term;

/// A process that waits for the answer to its call. If the caller is dropped without a reply, the
/// process runs into its time-out.
#[derive(Debug)]
pub struct Caller {
    node: Node,
    from: From,
}

impl Caller {
    pub(super) fn new(node: Node, from: From) -> Self {
        Self { node, from }
    }

    /// Returns the calling process.
    pub fn pid(&self) -> &gater_term::Pid {
        &self.from.pid
    }

    /// Answers the call.
    pub fn reply(self, reply: &Term) -> Result<(), SendError> {
        let inner = &self.node.0;
        if self.from.pid.node == *inner.lower.name() {
            if let Some(alias) = self.from.tag.alias() {
                inner.answered(alias, &Term::Tuple(vec![term!([]), reply.clone()]).to_vec());
            }
            return Ok(());
        }
        let (reply, node) = (reply.to_vec(), self.from.pid.node.as_str());
        let (bytes, limit) = (reply.len(), inner.max_message);
        if bytes > limit {
            return Err(SendError::TooLong { bytes, limit });
        }
        let lost = || SendError::NoConnection(format!("the connection to {node} is lost"));
        inner.lower.connection(node).ok_or_else(lost)?.reply(&self.from, reply);
        Ok(())
    }
}

/// Ends a call, whether it was answered, timed out or was given up: the process is no longer
/// monitored, and a late answer is dropped.
struct Waiting<'a> {
    node: &'a Node,
    alias: &'a Reference,
    target: &'a Target,
    over: Option<std::sync::Arc<crate::Connection>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let inner = &self.node.0;
        let mut state = inner.state.lock();
        state.answered(self.alias);
        match &self.over {
            None => state.unwatch(self.alias, &inner.caller),
            Some(connection) if connection.format().watch == Watch::Monitor => {
                let signal = wire::monitor(false, &inner.caller, self.target, self.alias);
                connection.signal(signal);
            }
            Some(_) => {}
        }
    }
}

impl Node {
    /// Calls a `gen_server`, as `gen_server:call/3` does, and connects to its node first if
    /// necessary. The process is monitored during the call, so that its end is reported at once.
    pub async fn call(
        &self,
        to: impl Into<Destination>,
        request: Term,
        within: Duration,
    ) -> Result<Term, CallError> {
        let target = self.0.resolve(to)?;
        let calling = self.call_target(&target, &request);
        timeout(within, calling).await.unwrap_or(Err(CallError::Timeout(within)))
    }

    async fn call_target(&self, target: &Target, request: &Term) -> Result<Term, CallError> {
        let (inner, alias) = (&self.0, self.0.reference());
        let (sender, answer) = oneshot::channel();
        let payload = wire::gen_call(&inner.caller, &alias, request);
        let waiting;
        if target.node() == inner.lower.name() {
            waiting = Waiting { node: self, alias: &alias, target, over: None };
            self.call_here(target, &alias, sender)?;
            inner.send(&inner.caller, target, payload).await?;
        } else {
            let connection = inner.connection(target.node()).await?;
            let over = Some(connection.clone());
            waiting = Waiting { node: self, alias: &alias, target, over };
            let pending = Pending { answer: sender, via: Via::over(&connection) };
            inner.state.lock().call(alias.clone(), pending);
            if connection.format().watch == Watch::Monitor {
                connection.signal(wire::monitor(true, &inner.caller, target, &alias));
            }
            inner.send_over(&connection, &inner.caller, target, payload)?;
            if connection.is_closed() {
                inner.state.lock().lost(&connection);
            }
        }
        let lost = || Err(CallError::NoConnection("the node has ended".into()));
        let answer = answer.await.unwrap_or_else(|_| lost());
        drop(waiting);
        answer
    }

    /// Records a call of a process of this node.
    fn call_here(
        &self,
        target: &Target,
        alias: &Reference,
        answer: oneshot::Sender<Result<Term, CallError>>,
    ) -> Result<(), CallError> {
        let mut state = self.0.state.lock();
        let watching = state.watch(&self.0.caller, target.clone(), alias.clone(), Via::HERE);
        watching.map_err(|_| CallError::NoProc)?;
        state.call(alias.clone(), Pending { answer, via: Via::HERE });
        Ok(())
    }

    /// Calls a function on `node`, as `rpc:call/5` does.
    pub async fn rpc(
        &self,
        node: &str,
        (module, function): (&str, &str),
        arguments: Vec<Term>,
        within: Duration,
    ) -> Result<Term, CallError> {
        let atom = |text: &str| {
            Term::atom(text).map_err(|_| CallError::Refused(SendError::BadName(text.to_owned())))
        };
        let (module, function) = (atom(module)?, atom(function)?);
        let request = term!({call, (module), (function), (arguments), user});
        match self.call(("rex", node), request, within).await? {
            Term::Tuple(mut answer)
                if answer.len() == 2
                    && answer.first().and_then(Term::as_atom) == Some("badrpc") =>
            {
                Err(answer.pop().map_or(CallError::BadAnswer, CallError::BadRpc))
            }
            answer => Ok(answer),
        }
    }
}
