//! Tests two nodes that connect to each other: with an unfinished handshake, with a peer that only
//! claims to be the other node, and again after a failure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gater_dist::{Connection, DownReason, Events, Lane, Message, Node, Payload, Settings};
use gater_term::Pid;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUNDS: usize = 300;
const WITHIN: Duration = Duration::from_secs(30);

struct Nothing;

impl Events for Nothing {
    fn knows(&self, _name: &str) -> bool {
        false
    }

    fn up(&self, _peer: &Arc<Connection>) {}

    fn down(&self, _peer: &Arc<Connection>, _reason: &DownReason) {}

    fn message(&self, _peer: &Arc<Connection>, _message: Message<'_>) {}

    fn exited(&self, _peer: &Arc<Connection>, _pid: &Pid, _reason: Bytes) {}
}

/// Panics on every message.
struct Fragile;

impl Events for Fragile {
    fn knows(&self, _name: &str) -> bool {
        true
    }

    fn up(&self, _peer: &Arc<Connection>) {}

    fn down(&self, _peer: &Arc<Connection>, _reason: &DownReason) {}

    fn message(&self, _peer: &Arc<Connection>, _message: Message<'_>) {
        panic!("as told");
    }

    fn exited(&self, _peer: &Arc<Connection>, _pid: &Pid, _reason: Bytes) {}
}

/// A port mapper daemon that implements the requests of two nodes.
async fn port_mapper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ports = Arc::new(Mutex::new(HashMap::new()));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, ports.clone()));
        }
    });
    address
}

async fn serve(mut socket: TcpStream, ports: Arc<Mutex<HashMap<Vec<u8>, u16>>>) {
    let mut length = [0; 2];
    while socket.read_exact(&mut length).await.is_ok() {
        let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
        socket.read_exact(&mut request).await.unwrap();
        let number = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let answer = match request[0] {
            // ALIVE2_REQ: the port, then four bytes about the node and its two versions.
            120 => {
                let name = request[11..11 + usize::from(number(9))].to_vec();
                ports.lock().insert(name, number(1));
                vec![118, 0, 0, 0, 0, 1]
            }
            // PORT_PLEASE2_REQ
            122 => {
                let name = &request[1..];
                let port = ports.lock().get(name).copied().unwrap();
                let length = (name.len() as u16).to_be_bytes();
                let head = [&[119, 0][..], &port.to_be_bytes(), &[72, 0, 0, 6, 0, 6]].concat();
                [&head, &length[..], name, &[0, 0]].concat()
            }
            other => panic!("request {other}"),
        };
        socket.write_all(&answer).await.unwrap();
        if request[0] == 122 {
            return;
        }
    }
}

/// Registers a node with a port mapper, which never forgets it.
async fn register(epmd: SocketAddr, name: &str, port: u16) {
    let mut socket = TcpStream::connect(epmd).await.unwrap();
    let mut request = vec![120];
    request.extend(port.to_be_bytes());
    request.extend([72, 0, 0, 6, 0, 6]);
    request.extend((name.len() as u16).to_be_bytes());
    request.extend(name.as_bytes());
    request.extend([0, 0]);
    socket.write_all(&(request.len() as u16).to_be_bytes()).await.unwrap();
    socket.write_all(&request).await.unwrap();
    socket.read_exact(&mut [0; 6]).await.unwrap();
}

async fn node(name: &str, epmd: SocketAddr) -> Node {
    node_with(name, epmd, Arc::new(Nothing)).await
}

async fn node_with(name: &str, epmd: SocketAddr, events: Arc<dyn Events>) -> Node {
    let mut settings = Settings::new(name, b"cookie".to_vec().into());
    (settings.epmd, settings.start_epmd) = (epmd, false);
    Node::start(settings, events).await.unwrap()
}

/// Connects and introduces itself under the name of another node, and sends nothing more.
async fn claim_to_be(name: &str, at: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", at)).await.unwrap();
    let mut message = vec![b'N'];
    // All flags are set except the one that asks for a name.
    message.extend((u64::MAX ^ 1 << 33).to_be_bytes());
    message.extend(1_u32.to_be_bytes());
    message.extend((name.len() as u16).to_be_bytes());
    message.extend(name.as_bytes());
    socket.write_all(&(message.len() as u16).to_be_bytes()).await.unwrap();
    socket.write_all(&message).await.unwrap();
    let mut length = [0; 2];
    socket.read_exact(&mut length).await.unwrap();
    let mut status = vec![0; usize::from(u16::from_be_bytes(length))];
    socket.read_exact(&mut status).await.unwrap();
    assert_eq!(status, b"sok_simultaneous");
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_claims_to_be_the_other_node_does_not_end_the_dial() {
    let (epmd, theirs) = (port_mapper().await, port_mapper().await);
    let a = node("a@127.0.0.1", epmd).await;
    let b = node("b@127.0.0.1", theirs).await;
    // At first the gate that the port mapper of `a` has registered as `b` passes nothing on.
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(epmd, "b", gate.local_addr().unwrap().port()).await;
    let dial = tokio::spawn({
        let (a, b) = (a.clone(), b.name().clone());
        async move { a.connect(&b).await }
    });
    let (mut dialled, _) = gate.accept().await.unwrap();
    let _claim = claim_to_be("b@127.0.0.1", a.port()).await;
    let mut through = TcpStream::connect(("127.0.0.1", b.port())).await.unwrap();
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut dialled, &mut through).await });
    let connected = tokio::time::timeout(WITHIN, dial).await.unwrap().unwrap();
    assert_eq!(connected.unwrap().peer().name, *b.name());
    a.shutdown(WITHIN).await;
    b.shutdown(WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disconnected_by_a_panic_can_come_back() {
    let epmd = port_mapper().await;
    let a = node_with("a@127.0.0.1", epmd, Arc::new(Fragile)).await;
    let b = node("b@127.0.0.1", epmd).await;
    for _ in 0..2 {
        let connected = tokio::time::timeout(WITHIN, b.connect(a.name())).await.unwrap();
        let connection = connected.unwrap();
        connection.send_name(Lane::Normal, "anybody", &Payload::from(vec![106]));
        let gone = async {
            while !connection.is_closed() || !a.connections().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(WITHIN, gone).await.unwrap();
    }
    a.shutdown(WITHIN).await;
    b.shutdown(WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_is_connected_whoever_dialled() {
    let epmd = port_mapper().await;
    let (a, b) = (node("a@127.0.0.1", epmd).await, node("b@127.0.0.1", epmd).await);
    for _ in 0..ROUNDS {
        let from = |own: &Node, other: &Node| {
            let (own, other) = (own.clone(), other.name().clone());
            tokio::spawn(async move { own.connect(&other).await })
        };
        let (of_a, of_b) = (from(&a, &b), from(&b, &a));
        let both = async { (of_a.await.unwrap(), of_b.await.unwrap()) };
        let both = tokio::time::timeout(WITHIN, both).await.unwrap();
        let (Ok(of_a), Ok(of_b)) = both else { panic!("{both:?}") };
        of_a.close("the round is over");
        of_b.close("the round is over");
        let gone = async {
            while !a.connections().is_empty() || !b.connections().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(WITHIN, gone).await.unwrap();
    }
    a.shutdown(WITHIN).await;
    b.shutdown(WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_refused_and_the_connection_stays() {
    let epmd = port_mapper().await;
    let (a, b) = (node("a@127.0.0.1", epmd).await, node("b@127.0.0.1", epmd).await);
    let connection = b.connect(a.name()).await.unwrap();
    let (nil, nothing) = (Payload::from(vec![106]), Payload::from(vec![]));
    let (theirs, ours) = (a.new_pid(), b.new_pid());
    assert!(connection.send_pid(Lane::Normal, &theirs, &nil));
    assert!(connection.send_name(Lane::Normal, "anybody", &nil));
    // The pid belongs to this node, but has the numbers of a process of the other node.
    assert!(!connection.send_pid(Lane::Normal, &ours, &nil));
    assert!(!connection.send_name(Lane::Normal, &"n".repeat(300), &nil));
    assert!(!connection.send_name(Lane::Normal, "anybody", &nothing));
    assert!(!connection.send_pid(Lane::Normal, &theirs, &nothing));
    // A list of three elements that has one.
    assert!(Payload::checked(Bytes::from_static(&[108, 0, 0, 0, 3, 97, 1, 106])).is_err());
    assert!(Payload::checked(Bytes::from_static(&[106, 106])).is_err());
    assert_eq!(Payload::checked(Bytes::from_static(&[106])), Ok(nil.clone()));
    assert!(!connection.is_closed());
    connection.close("the test is over");
    assert!(!connection.send_pid(Lane::Normal, &theirs, &nil));
    a.shutdown(WITHIN).await;
    b.shutdown(WITHIN).await;
}
