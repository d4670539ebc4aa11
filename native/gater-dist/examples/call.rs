//! Calls a function and a `gen_server` of a BEAM, a server that is too slow, and a missing one.
//!
//! `call NODE COOKIE`

use std::time::Duration;

use gater_dist::process::{CallError, Node};
use gater_dist::{Settings, term};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (beam, cookie) = arguments.next().zip(arguments.next()).ok_or("usage: call NODE COOKIE")?;
    let own = format!("call-{}@127.0.0.1", std::process::id());
    let node = Node::start(Settings::new(own, cookie.into_bytes().into())).await?;
    let within = Duration::from_secs(5);

    let reversed = node.rpc(&beam, ("lists", "reverse"), vec![term!([1, 2, 300])], within).await?;
    println!("rpc: {reversed}");

    let rex = ("rex", beam.as_str());
    let answer = node.call(rex, term!({call, erlang, node, [], user}), within).await?;
    println!("gen_server: {answer}");

    let sleep = node.rpc(&beam, ("timer", "sleep"), vec![term!(5000)], Duration::from_millis(100));
    println!("slow: {}", sleep.await.unwrap_err());

    match node.call(("nobody", beam.as_str()), term!(hello), within).await {
        Err(CallError::NoProc) => println!("nobody: noproc"),
        other => println!("nobody: {other:?}"),
    }
    Ok(())
}
