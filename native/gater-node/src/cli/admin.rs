//! `esdb-gater cluster`: asks a running gateway, as a node that is there for as long
//! as that takes.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gater_dist::{
    Chain, Connection, DownReason, Events, Lane, Message, Node, Payload, Settings, Target,
    gen_server,
};
use gater_term::{Atom, Pid, ReadError, Reader, encode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::Config;
use crate::registry::cluster::ADD_WITHIN;
use crate::services::cluster;

/// How long connections may take to end.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long a gateway may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The tag of the one call that is made.
const TAG: &str = "esdb_gater";

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Tell what the cluster is like.
    Status,
    /// Let a gateway in.
    Add(String),
    /// Put a gateway out.
    Remove(String),
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What to print.
    pub text: String,
    /// The exit code: 0, or what is wrong with the cluster whose status was asked for.
    pub code: u8,
}

/// The exit code of the status of a cluster that carries out no commands.
pub(super) const NO_QUORUM: u8 = 1;
/// The exit code of the status of a cluster that lacks a gateway.
pub(super) const DEGRADED: u8 = 2;

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Threads or timers could not be had.
    #[error("the operating system refused what is needed")]
    System(#[from] io::Error),
    /// A name is none.
    #[error("{0:?} is not a node name")]
    Name(String),
    /// The node for the question could not be started.
    #[error("cannot start a node")]
    Start(#[from] gater_dist::StartError),
    /// The gateway cannot be reached.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, String),
    /// The gateway does not answer.
    #[error("{0} does not answer")]
    Silent(String),
    /// The gateway says no, for a reason.
    #[error("{0}")]
    Refused(String),
    /// The answer is none that is known.
    #[error("the answer is not understood: the gateway may be of another version")]
    Answer,
}

impl From<ReadError> for OrderError {
    fn from(_: ReadError) -> Self {
        Self::Answer
    }
}

/// Hands messages to the one process of this node.
struct Inbox(mpsc::UnboundedSender<Bytes>);

impl Events for Inbox {
    fn knows(&self, _name: &str) -> bool {
        false
    }

    fn up(&self, _peer: &Arc<Connection>) {}

    fn down(&self, _peer: &Arc<Connection>, _reason: &DownReason) {}

    fn message(&self, _peer: &Arc<Connection>, message: Message<'_>) {
        if let Target::Pid(_) = &message.to {
            // Nobody takes a second answer.
            let _ = self.0.send(message.payload);
        }
    }

    fn exited(&self, _peer: &Arc<Connection>, _pid: &Pid, _reason: Bytes) {}
}

/// Carries out `order` at the gateway of `config`.
pub fn run(config: &Config, order: &Order) -> Result<Outcome, OrderError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(config, order))
}

async fn ask(config: &Config, order: &Order) -> Result<Outcome, OrderError> {
    let gateway = Atom::new(&config.name).map_err(|_| OrderError::Name(config.name.clone()))?;
    let host = config.name.split_once('@').map_or("", |(_, host)| host);
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let mut settings =
        Settings::new(format!("esdb_gater_ctl_{number:x}@{host}"), config.cookie.clone());
    // Nobody is to connect to this node.
    settings.listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    settings.start_epmd = false;
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let node = Node::start(settings, Arc::new(Inbox(messages))).await?;
    let answer = async {
        let unreachable = |reason: String| OrderError::Unreachable(config.name.clone(), reason);
        let connection = timeout(CONNECT_WITHIN, node.connect(&gateway))
            .await
            .map_err(|_| unreachable("it takes too long".into()))?
            .map_err(|error| unreachable(Chain(&error).to_string()))?;
        let pid = node.new_pid();
        connection.send_name(Lane::Control, cluster::NAME, &call(&pid, order));
        let within = if *order == Order::Status { CONNECT_WITHIN } else { ADD_WITHIN * 2 };
        match timeout(within, inbox.recv()).await {
            Ok(Some(answer)) => read(&answer),
            _ => Err(OrderError::Silent(config.name.clone())),
        }
    };
    let answer = answer.await;
    node.shutdown(END_WITHIN).await;
    answer
}

fn call(pid: &Pid, order: &Order) -> Payload {
    gen_server::call(
        pid,
        |out| encode::atom(out, TAG),
        |out| match order {
            Order::Status => encode::atom(out, "status"),
            Order::Add(node) => change(out, "add", node),
            Order::Remove(node) => change(out, "remove", node),
        },
    )
}

fn change(out: &mut Vec<u8>, what: &str, node: &str) {
    encode::tuple(out, 2);
    encode::atom(out, what);
    encode::atom(out, node);
}

/// Reads `{Tag, ok | {ok, Status} | {error, Reason}}` into a text for people.
fn read(answer: &[u8]) -> Result<Outcome, OrderError> {
    let mut reader = Reader::new(answer);
    reader.tuple_of(2)?;
    if !reader.is_atom(TAG) {
        return Err(OrderError::Answer);
    }
    if reader.is_atom("ok") {
        return Ok(Outcome { text: "done\n".into(), code: 0 });
    }
    reader.tuple_of(2)?;
    if reader.is_atom("ok") {
        return status(&mut reader);
    }
    if !reader.is_atom("error") {
        return Err(OrderError::Answer);
    }
    if let Ok(reason) = reader.atom() {
        return Err(OrderError::Refused(reason.into_owned()));
    }
    reader.tuple_of(2)?;
    reader.atom()?;
    Err(OrderError::Refused(String::from_utf8_lossy(reader.binary()?).into_owned()))
}

/// The map of a status, a line for the gateway and one for each member.
fn status(reader: &mut Reader<'_>) -> Result<Outcome, OrderError> {
    let mut lines = String::new();
    let mut members = String::new();
    let mut missing = String::new();
    let mut code = 0;
    for _ in 0..reader.map()? {
        let key = reader.atom()?.into_owned();
        if key == "members" {
            for _ in 0..reader.list()? {
                let member = fields(reader)?;
                // Writing to a string cannot fail.
                let _ = writeln!(members, "  {}", member.join("  "));
            }
            // An empty list has no end of its own.
            let _ = reader.nil();
        } else if key == "unseen" {
            for _ in 0..reader.list()? {
                let name = reader.atom()?;
                let _ = writeln!(
                    members,
                    "  {name}  NEVER SEEN: in --cluster and no member; is the name misspelt?"
                );
            }
            let _ = reader.nil();
        } else if key == "missing" {
            for _ in 0..reader.list()? {
                let text = String::from_utf8_lossy(reader.binary()?).into_owned();
                let _ = writeln!(missing, "  {text}");
            }
            let _ = reader.nil();
        } else {
            let value = value(reader)?;
            let value = match (key.as_str(), value.as_str()) {
                ("health", "no_quorum") => {
                    code = NO_QUORUM;
                    "NO QUORUM: commands are refused, look-ups go on"
                }
                ("health", "degraded") => {
                    code = DEGRADED;
                    "degraded: a gateway is missing"
                }
                (_, value) => value,
            };
            let _ = writeln!(lines, "{key:<14}{value}");
        }
    }
    if !members.is_empty() {
        let _ = writeln!(lines, "members");
    }
    if !missing.is_empty() {
        members.push_str("missing\n");
    }
    Ok(Outcome { text: lines + &members + &missing, code })
}

fn fields(reader: &mut Reader<'_>) -> Result<Vec<String>, OrderError> {
    let mut fields = Vec::new();
    for _ in 0..reader.map()? {
        let key = reader.atom()?.into_owned();
        let value = value(reader)?;
        fields.push(match (key.as_str(), value.as_str()) {
            ("connected", "true") => "connected".into(),
            ("connected", _) => "NOT CONNECTED".into(),
            ("id", id) => format!("id {id}"),
            ("settled", entries) => format!("{entries} settled"),
            (_, value) => value.to_owned(),
        });
    }
    Ok(fields)
}

/// An atom or a number, as text.
fn value(reader: &mut Reader<'_>) -> Result<String, OrderError> {
    if let Ok(atom) = reader.atom() {
        return Ok(atom.into_owned());
    }
    let mut number = Reader::new(reader.skip()?);
    Ok(number.integer().map_or_else(|_| "?".into(), |number| number.to_string()))
}
