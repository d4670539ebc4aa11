//! The address on which a gateway accepts connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::Config;

/// The time limit of resolving the gateway's own host.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// An address to listen on, and a warning for the operator.
#[derive(Debug)]
pub struct Listen {
    /// The address; port 0 selects any free port.
    pub address: SocketAddr,
    /// A sentence for the operator, if action is needed.
    pub warning: Option<String>,
}

/// Chooses the address on which the gateway of `config` listens: the configured one, or else the
/// address of the host of its name, where other nodes look for it. If that host does not appear to
/// be this machine, the loopback address is chosen.
pub async fn choose(config: &Config) -> Listen {
    if config.piped {
        // The gateway does not listen.
        return Listen {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            warning: None,
        };
    }
    if let Some(address) = config.listen {
        let warning = (!address.ip().is_loopback()).then(|| open(address, "listen is"));
        return Listen { address, warning };
    }
    let host = config.name.split_once('@').map_or("", |(_, host)| host);
    let mut found = Vec::new();
    for address in resolve(host).await {
        if is_ours(address) {
            let address = SocketAddr::new(address, 0);
            let warning = (!address.ip().is_loopback()).then(|| {
                open(address, &format!("the name {} has other nodes connect to", config.name))
            });
            return Listen { address, warning };
        }
        found.push(address.to_string());
    }
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let found = if found.is_empty() { "no address".into() } else { found.join(", ") };
    let warning = format!(
        "other nodes look for {} at {host}, which has {found}: none of this machine's. The gateway \
         listens on {address}, where only nodes of this machine reach it. Give it a name with \
         another host, or an address with --listen",
        config.name
    );
    Listen { address, warning: Some(warning) }
}

fn open(address: SocketAddr, why: &str) -> String {
    format!(
        "{why} {address}: whoever reaches it and knows the cookie is let in, and nothing is encrypted"
    )
}

async fn resolve(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let Ok(Ok(found)) = timeout(RESOLVE_WITHIN, lookup_host((host, 0))).await else {
        return Vec::new();
    };
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    // BEAMs use IPv4 by default, so it comes first. The order within each family is preserved.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// Returns whether sockets of this machine can be bound to the address.
fn is_ours(address: IpAddr) -> bool {
    std::net::TcpListener::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Environment, Flags};

    async fn of(name: &str, listen: Option<&str>) -> Listen {
        let flags = Flags {
            name: Some(name.into()),
            cookie: Some("c".into()),
            listen: listen.map(Into::into),
            ..Flags::default()
        };
        choose(&config::load(flags, Environment::default()).unwrap().config).await
    }

    #[tokio::test]
    async fn a_gateway_listens_where_other_nodes_look_for_it() {
        for (name, ip) in [("g@127.0.0.1", "127.0.0.1"), ("g@127.0.0.9", "127.0.0.9")] {
            let listen = of(name, None).await;
            assert_eq!(listen.address, SocketAddr::new(ip.parse().unwrap(), 0));
            assert_eq!(listen.warning, None);
        }
        assert!(of("g@localhost", None).await.address.ip().is_loopback());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_another_machine_is_warned_of() {
        // These addresses are reserved for documentation, so no machine has them.
        for host in ["192.0.2.1", "2001:db8::1"] {
            let listen = of(&format!("g@{host}"), None).await;
            assert!(listen.address.ip().is_loopback());
            assert!(listen.warning.unwrap().contains(host));
        }
        assert!(of("g@host.invalid", None).await.warning.unwrap().contains("--listen"));
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_warned_of() {
        let listen = of("g@192.0.2.1", Some("0.0.0.0:7000")).await;
        assert_eq!(listen.address, "0.0.0.0:7000".parse().unwrap());
        assert!(listen.warning.unwrap().contains("0.0.0.0:7000"));
        assert_eq!(of("g@192.0.2.1", Some("127.0.0.1:7000")).await.warning, None);
    }
}
