//! A `gen_server` that BEAMs can call, monitor and link to: `gen_server:call({echo, Node}, Term)`.
//! The cast `stop` ends it.
//!
//! `echo_server NAME COOKIE`

use gater_dist::process::{Caller, GenServer, Next, Node, Process, Term};
use gater_dist::{Settings, term};

struct Echo;

impl GenServer for Echo {
    async fn handle_call(&mut self, _me: &Process, request: Term, caller: Caller) -> Next {
        match caller.reply(&request) {
            Ok(()) => Next::Continue,
            Err(error) => Next::Stop(term!({no_answer, (error.to_string())})),
        }
    }

    async fn handle_cast(&mut self, _me: &Process, message: Term) -> Next {
        if message == term!(stop) { Next::Stop(term!(stopped)) } else { Next::Continue }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let given = arguments.next().zip(arguments.next());
    let (name, cookie) = given.ok_or("usage: echo_server NAME COOKIE")?;
    let node = Node::start(Settings::new(name, cookie.into_bytes().into())).await?;
    let server = node.serve(Some("echo"), Echo)?;
    println!("ready");
    println!("ended: {}", server.ended().await);
    node.shutdown(std::time::Duration::from_secs(1)).await;
    Ok(())
}
