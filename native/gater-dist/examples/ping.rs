//! Connects to a BEAM, as `net_adm:ping/1` does.
//!
//! `ping NODE COOKIE`

use gater_dist::Settings;
use gater_dist::process::Node;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (node, cookie) = arguments.next().zip(arguments.next()).ok_or("usage: ping NODE COOKIE")?;
    let own = format!("ping-{}@127.0.0.1", std::process::id());
    let ping = Node::start(Settings::new(own, cookie.into_bytes().into())).await?;
    match ping.connect(&node).await {
        Ok(()) => println!("pong"),
        Err(error) => println!("pang: {error}"),
    }
    Ok(())
}
