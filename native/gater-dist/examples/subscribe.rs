//! Subscribes to a topic at a gateway, and subscribes again whenever the connection was lost.
//!
//! `subscribe GATEWAY COOKIE CHANNEL TOPIC`: the channel is `esdb_channel_events`, for one

use std::time::Duration;

use gater_dist::process::{Node, Received};
use gater_dist::{Settings, term};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [gateway, cookie, channel, topic] = given.as_slice() else {
        return Err("usage: subscribe GATEWAY COOKIE CHANNEL TOPIC".into());
    };
    let own = format!("subscribe-{}@127.0.0.1", std::process::id());
    let node = Node::start(Settings::new(own, cookie.clone().into_bytes().into())).await?;
    let mut process = node.spawn();
    loop {
        let request = term!({subscribe, (topic.as_str()), (process.pid())});
        let channel = (channel.as_str(), gateway.as_str());
        match node.call(channel, request, Duration::from_secs(5)).await {
            Ok(answer) => println!("subscribed: {answer}"),
            Err(error) => {
                eprintln!("not subscribed: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        process.monitor(channel).await?;
        loop {
            match process.receive().await {
                Some(Received::Message { body, .. }) => println!("{body}"),
                Some(Received::Down { .. }) => break,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}
