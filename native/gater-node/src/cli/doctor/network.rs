//! The way to a node, step by step: its host, its EPMD, its port, the handshake, the cookie.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gater_dist::probe::{self, Handshake, flag_names};
use gater_dist::{Chain, EpmdError, HandshakeError, Peer, Settings};
use gater_term::Atom;
use secrecy::{ExposeSecret, SecretSlice};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::local::{self, FINGERPRINT_IN_SHELL};
use super::stage::{Begun, Stage, begin, skipped};
use crate::config::FoundCookie;

/// Names of an EPMD that are shown.
const MAX_SHOWN: usize = 12;
/// The most changes that make one name of another that was meant.
const MAX_CHANGES: usize = 4;

/// Who looks for whom.
pub struct Way<'a> {
    /// The node that is looked for.
    pub target: &'a str,
    /// The node that looks.
    pub own: &'a str,
    /// The cookie, if there is one.
    pub cookie: Option<&'a FoundCookie>,
    /// How long each step may take.
    pub within: Duration,
}

/// What the stages have led to.
#[derive(Default)]
pub struct Reached {
    /// The stages, in their order.
    pub stages: Vec<Stage>,
    /// The node, if it was reached and takes the cookie.
    pub peer: Option<Peer>,
}

const AFTER_RESOLVE: [&str; 5] = ["epmd", "tcp", "tls", "handshake", "authentication"];

/// Goes the way from `resolve` to `authentication`.
pub async fn reach(way: &Way<'_>) -> Reached {
    let mut stages = Vec::new();
    let end = |mut stages: Vec<Stage>| {
        let left = AFTER_RESOLVE.iter().filter(|name| !stages.iter().any(|it| it.stage == **name));
        let left: Vec<&str> = left.copied().collect();
        let failed = stages.iter().rev().find(|stage| stage.cause.is_some());
        let why = failed.map_or("resolve", |stage| stage.stage).to_owned();
        stages.extend(left.into_iter().map(|name| skipped(name, format!("{why} failed"))));
        Reached { stages, peer: None }
    };
    let (stage, addresses) = resolve(way).await;
    stages.push(stage);
    let Some(first) = addresses.first().copied() else { return end(stages) };
    let (stage, found) = epmd(way, &addresses).await;
    stages.push(stage);
    let Some(address) = found else { return end(stages) };
    let (stage, socket) = tcp(way, address, first).await;
    stages.push(stage);
    let Some(mut socket) = socket else { return end(stages) };
    stages.push(skipped("tls", "the gateway speaks plain distribution"));
    let (more, peer) = shake(way, &mut socket, address).await;
    stages.extend(more);
    match peer {
        None => end(stages),
        peer => Reached { stages, peer },
    }
}

async fn resolve(way: &Way<'_>) -> (Stage, Vec<IpAddr>) {
    let stage = begin("resolve");
    let host = way.target.split_once('@').map_or("", |(_, host)| host);
    let addresses = probe::resolve(host, way.within).await;
    if addresses.is_empty() {
        let next = format!(
            "`getent hosts {host}` has to print an address: mend DNS or /etc/hosts here, or name \
             the node by its address"
        );
        return (stage.failed(format!("the host {host} is unknown here"), next), addresses);
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    (stage.ok(shown.join(", ")), addresses)
}

/// Asks the EPMD at each address, as a dial does: the first that knows the name wins.
async fn epmd(way: &Way<'_>, addresses: &[IpAddr]) -> (Stage, Option<SocketAddr>) {
    let stage = begin("epmd");
    let (alive, port) = (alive(way.target), epmd_port());
    let mut unreached = None;
    let mut known: Option<(SocketAddr, Vec<(String, u16)>)> = None;
    for ip in addresses {
        let epmd = SocketAddr::new(*ip, port);
        match probe::epmd_names(epmd, way.within).await {
            Ok(names) => {
                if let Some((_, port)) = names.iter().find(|(name, _)| name == alive) {
                    let found =
                        format!("{alive} is at port {port}; {epmd} knows {}", shown(&names));
                    return (stage.ok(found), Some(SocketAddr::new(*ip, *port)));
                }
                known.get_or_insert((epmd, names));
            }
            Err(error) => {
                unreached.get_or_insert((epmd, error));
            }
        }
    }
    let stage = match (known, unreached) {
        (Some((epmd, names)), _) => {
            let near = nearest(alive, &names)
                .map_or_else(String::new, |near| format!("; the nearest name is {near}"));
            stage.failed(
                format!("the EPMD at {epmd} knows no {alive}, but {}{near}", shown(&names)),
                format!(
                    "start the node, or correct its name; on its machine, `epmd -names` lists \
                     what runs there and `ps -C beam.smp -o args` how it was started{}",
                    if way.target.starts_with("gater") {
                        format!("; a gateway: `esdb-gater start --name {}`", way.target)
                    } else {
                        String::new()
                    }
                ),
            )
        }
        (None, Some((epmd, error))) => no_epmd(stage, epmd, &error),
        (None, None) => stage.failed("there is no address to ask", "give the node an address"),
    };
    (stage, None)
}

fn no_epmd(stage: Begun, epmd: SocketAddr, error: &EpmdError) -> Stage {
    let port = epmd.port();
    match error {
        EpmdError::Unreachable { .. } => stage.failed(
            Chain(error).to_string(),
            format!(
                "no Erlang node runs on that host (the first one starts EPMD), or it is cut off: \
                 open port {port}/tcp to it; where EPMD has another port, set ERL_EPMD_PORT to \
                 it here and there"
            ),
        ),
        EpmdError::Timeout(_) => stage.failed(
            format!("the EPMD at {epmd} is silent: {error}"),
            format!("a firewall drops packets: open port {port}/tcp from here to that host"),
        ),
        _ => stage.failed(
            format!("what answers at {epmd} is no EPMD: {}", Chain(error)),
            format!("see what has port {port} there: `ss -ltnp 'sport = :{port}'`"),
        ),
    }
}

async fn tcp(way: &Way<'_>, address: SocketAddr, first: IpAddr) -> (Stage, Option<TcpStream>) {
    let stage = begin("tcp");
    let error = match timeout(way.within, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => {
            let elsewhere = if address.ip() == first { "" } else { ", not the first of its host" };
            return (stage.ok(format!("connected to {address}{elsewhere}")), Some(socket));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", way.within.as_secs()),
    };
    let stage = stage.failed(
        format!(
            "EPMD names port {}, and {address} does not take connections: {error}",
            address.port()
        ),
        format!(
            "open port {0}/tcp from here to that host, and have the node listen where its name \
             leads (`--listen` of a gateway); a BEAM takes a port of a range with `-kernel \
             inet_dist_listen_min {0} inet_dist_listen_max {0}`",
            address.port()
        ),
    );
    (stage, None)
}

/// `handshake` and `authentication`.
async fn shake(
    way: &Way<'_>,
    socket: &mut TcpStream,
    address: SocketAddr,
) -> (Vec<Stage>, Option<Peer>) {
    let stage = begin("handshake");
    let (Ok(own), Ok(target)) = (Atom::new(way.own), Atom::new(way.target)) else {
        return (vec![stage.failed("a name is too long", "node names have 255 characters")], None);
    };
    // Without a cookie the handshake shows all the same who is there.
    let cookie = way.cookie.map_or_else(|| SecretSlice::from(Vec::new()), |it| it.cookie.clone());
    let shaken = probe::handshake(socket, own, cookie, target, way.within).await;
    let found = offers(&shaken);
    match (&shaken.outcome, way.cookie) {
        (Ok(peer), Some(_)) => {
            let authentication = begin("authentication");
            let stages =
                vec![stage.all_ok(found), authentication.ok("both sides know the same cookie")];
            (stages, Some(peer.clone()))
        }
        (Err(HandshakeError::WrongCookie) | Ok(_), cookie) => {
            let authentication = begin("authentication");
            let handshake = stage.all_ok(found);
            let authentication = match cookie {
                Some(cookie) => wrong_cookie(way, authentication, cookie),
                None => authentication.skipped("there is no cookie to prove"),
            };
            (vec![handshake, authentication], None)
        }
        (Err(error), _) => {
            let (cause, next) = explain(way, error, &shaken, address);
            (vec![stage.failed_after(found, cause, next)], None)
        }
    }
}

fn wrong_cookie(way: &Way<'_>, stage: Begun, cookie: &FoundCookie) -> Stage {
    let fingerprint = local::fingerprint(cookie.cookie.expose_secret());
    stage.failed(
        format!(
            "wrong cookie: that of {} is not the one from {} (fingerprint {fingerprint})",
            way.target, cookie.origin
        ),
        format!(
            "compare in the shell of {}: {FINGERPRINT_IN_SHELL} Then give both the same cookie: a \
             BEAM by its ~/.erlang.cookie or `-setcookie`, a gateway and this command by \
             `--cookie-file`",
            way.target
        ),
    )
}

/// Both offers by name, and what is missing.
fn offers(shaken: &Handshake) -> Vec<String> {
    let Some(theirs) = shaken.theirs else { return Vec::new() };
    let mut found = vec![
        format!("offered here: {}", flag_names(shaken.offered).join(" ")),
        format!("offered there: {}", flag_names(theirs).join(" ")),
    ];
    let missing = shaken.missing();
    found.push(match missing {
        0 => "missing: nothing that is needed".into(),
        missing => format!("missing there: {}", flag_names(missing).join(" ")),
    });
    found
}

/// The cause of a failed handshake and the next step.
fn explain(
    way: &Way<'_>,
    error: &HandshakeError,
    shaken: &Handshake,
    address: SocketAddr,
) -> (String, String) {
    let target = way.target;
    match error {
        HandshakeError::WrongNode { found, .. } => {
            let form = match (local::is_long(target), local::is_long(found)) {
                (true, false) => ": it runs with short names (`-sname`)",
                (false, true) => ": it runs with long names (`-name`)",
                _ => "",
            };
            (
                format!("the node at {address} is called {found}, not {target}{form}"),
                format!(
                    "use the name {found}, or start that node as `-name {target}`; gateways and \
                     nodes need names of the same form"
                ),
            )
        }
        HandshakeError::NotErlang(protocol) => (
            format!("what listens at {address} is no Erlang node: it speaks {protocol}"),
            format!(
                "see what has the port there: `ss -ltnp 'sport = :{}'`; if the node is to use TLS \
                 for its distribution (`-proto_dist inet_tls`), the gateway cannot reach it",
                address.port()
            ),
        ),
        HandshakeError::Timeout(limit) => (
            format!("{address} takes the connection and says nothing for {} s", limit.as_secs()),
            "it is no Erlang node, or one that hangs: see what has the port there with `ss -ltnp`, \
             and whether that process works"
                .to_owned(),
        ),
        HandshakeError::Closed(_) | HandshakeError::Malformed(_) | HandshakeError::TooLong(_) => (
            format!("what listens at {address} is no Erlang node: {error}"),
            format!("see what has the port there: `ss -ltnp 'sport = :{}'`", address.port()),
        ),
        HandshakeError::MissingFlags(missing) => (
            format!("{target} lacks {}", flag_names(*missing).join(" ")),
            "use OTP 25 or newer there, or a newer version of its distribution library".to_owned(),
        ),
        HandshakeError::TooOld => (
            error.to_string(),
            "use OTP 25 or newer there".to_owned(),
        ),
        HandshakeError::NotAllowed => (
            format!("{target} refuses: it allows certain nodes only, or has too many connections"),
            "on a BEAM see `net_kernel:allow/1`; a gateway logs why, and `esdb-gater status` shows \
             its limit of connections"
                .to_owned(),
        ),
        error => {
            let name = shaken.name.as_deref().unwrap_or(target);
            (format!("{name}: {}", Chain(error)), "try again; its log tells more".to_owned())
        }
    }
}

/// `registration`: whether the name of the gateway is free in its EPMD, or its own.
pub async fn registration(gateway: &str, way: &Way<'_>) -> Stage {
    let stage = begin("registration");
    let (alive, host) = gateway.split_once('@').unwrap_or((gateway, ""));
    let addresses = probe::resolve(host, way.within).await;
    let Some(ip) = addresses.first() else {
        return stage.skipped(format!("the host {host} is unknown here"));
    };
    let epmd = SocketAddr::new(*ip, epmd_port());
    let names = match probe::epmd_names(epmd, way.within).await {
        Ok(names) => names,
        Err(EpmdError::Unreachable { .. }) => {
            return stage.ok(format!("no EPMD at {epmd} yet: {gateway} starts one"));
        }
        Err(error) => return stage.skipped(format!("{}", Chain(&error))),
    };
    let Some((_, port)) = names.iter().find(|(name, _)| name == alive) else {
        return stage.ok(format!("the name {alive} is free at {epmd}"));
    };
    let address = SocketAddr::new(*ip, *port);
    let Ok(Ok(mut socket)) = timeout(way.within, TcpStream::connect(address)).await else {
        return stage.failed(
            format!("the name {alive} is taken at {epmd} by a node at {address} that is not there"),
            format!(
                "the program that holds the name hangs or is behind a firewall: `ss -tnp 'dport = \
                 :{}'` on that host shows it; end it, and the name is free",
                epmd.port()
            ),
        );
    };
    let (Ok(own), Ok(expected)) = (Atom::new(way.own), Atom::new(gateway)) else {
        return stage.skipped("a name is too long");
    };
    let no_cookie = SecretSlice::from(Vec::new());
    let shaken = probe::handshake(&mut socket, own, no_cookie, expected, way.within).await;
    match shaken.name {
        Some(name) if name == gateway => stage.ok(format!("{alive} is registered for {gateway}")),
        Some(name) => stage.failed(
            format!("the name {alive} is taken on that host by {name}"),
            format!("give one of the two another name: {gateway} cannot start beside it"),
        ),
        None => stage.failed(
            format!("the name {alive} is taken at {epmd} by what is no Erlang node at {address}"),
            format!("see what has the port: `ss -ltnp 'sport = :{port}'`"),
        ),
    }
}

/// The part of a node name before the `@`.
fn alive(node: &str) -> &str {
    node.split_once('@').map_or(node, |(alive, _)| alive)
}

/// The port of EPMD: what `ERL_EPMD_PORT` says, as everywhere.
fn epmd_port() -> u16 {
    Settings::new("none@none", Vec::new().into()).epmd.port()
}

fn shown(names: &[(String, u16)]) -> String {
    if names.is_empty() {
        return "no node at all".into();
    }
    let first: Vec<&str> = names.iter().take(MAX_SHOWN).map(|(name, _)| name.as_str()).collect();
    match names.len().checked_sub(MAX_SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", first.join(", ")),
        _ => first.join(", "),
    }
}

/// The name that was meant, if one is near.
fn nearest<'a>(wrong: &str, names: &'a [(String, u16)]) -> Option<&'a str> {
    let rated = names.iter().map(|(name, _)| (strsim::osa_distance(wrong, name), name.as_str()));
    rated
        .min()
        .filter(|(changes, _)| *changes <= MAX_CHANGES.min(wrong.len() / 2))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let names = [("gater1".to_owned(), 1), ("app".to_owned(), 2)];
        assert_eq!(nearest("gatr1", &names), Some("gater1"));
        assert_eq!(nearest("ap", &names), Some("app"));
        assert_eq!(nearest("orders", &names), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(shown(&names), "gater1, app");
        assert_eq!(shown(&[]), "no node at all");
    }
}
