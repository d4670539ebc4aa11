//! Looking up the addresses of hosts.
//!
//! The system's resolver blocks its thread, for half a minute if its servers are silent. So look-ups
//! have a few threads of their own: nothing else waits for them, and a program that ends does not
//! either.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::places::Places;

/// The greatest number of addresses of a host that are tried.
const MAX_ADDRESSES: usize = 8;
/// The greatest number of look-ups under way. Each may have two descriptors open.
const MAX_LOOK_UPS: usize = 16;

static RESOLVER: LazyLock<Resolver> =
    LazyLock::new(|| Resolver::new(MAX_LOOK_UPS, Arc::new(look_up)));

/// Returns the addresses of a host, of both families, in the order of the system. Returns none if the
/// look-up fails or takes longer than `within`.
pub async fn resolve(host: &str, within: Duration) -> Vec<IpAddr> {
    if let Ok(ip) = host.parse() {
        return vec![ip];
    }
    RESOLVER.resolve(host, within).await
}

type LookUp = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

struct Resolver {
    places: Places<String>,
    look_up: Arc<LookUp>,
}

impl Resolver {
    fn new(most: usize, look_up: Arc<LookUp>) -> Self {
        Self { places: Places::new(most), look_up }
    }

    async fn resolve(&self, host: &str, within: Duration) -> Vec<IpAddr> {
        let host = host.to_owned();
        let found = timeout(within, self.on_a_thread(&host)).await.ok().flatten();
        self.places.ended(&host, found.as_ref().is_some_and(|found| !found.is_empty()));
        found.unwrap_or_default()
    }

    async fn on_a_thread(&self, host: &String) -> Option<Vec<IpAddr>> {
        let place = self.places.take(host).await?;
        let (sender, found) = oneshot::channel();
        let (look_up, host) = (self.look_up.clone(), host.clone());
        let run = move || {
            // The place is taken until the system has answered, whoever still waits.
            let _place = place;
            drop(sender.send(look_up(&host)));
        };
        thread::Builder::new().name("resolver".into()).spawn(run).ok()?;
        found.await.ok()
    }
}

fn look_up(host: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in (host, 0).to_socket_addrs().into_iter().flatten() {
        if !addresses.contains(&address.ip()) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address.ip());
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn hosts_that_are_never_found_keep_no_host_from_being_found_again() {
        // Look-ups of hosts named "silent..." end with the test.
        let (silence, until) = std::sync::mpsc::channel::<()>();
        let until = Arc::new(Mutex::new(until));
        let under_way = Arc::new(AtomicUsize::new(0));
        let resolver = Arc::new(Resolver::new(8, {
            let under_way = under_way.clone();
            Arc::new(move |host: &str| {
                if host.starts_with("silent") {
                    under_way.fetch_add(1, Ordering::SeqCst);
                    let _ = until.lock().recv();
                    return Vec::new();
                }
                vec![LOCAL]
            })
        }));
        let minute = Duration::from_secs(60);
        assert_eq!(resolver.resolve("honest", minute).await, [LOCAL]);
        let waiting: Vec<_> = (0..100)
            .map(|n| {
                let resolver = resolver.clone();
                tokio::spawn(async move { resolver.resolve(&format!("silent{n}"), minute).await })
            })
            .collect();
        while under_way.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        assert_eq!(resolver.resolve("honest", minute).await, [LOCAL]);
        assert_eq!(under_way.load(Ordering::SeqCst), 4);
        waiting.iter().for_each(|task| task.abort());
        drop(silence);
    }

    #[tokio::test]
    async fn an_address_is_its_own_host() {
        assert_eq!(resolve("::1", Duration::ZERO).await, ["::1".parse::<IpAddr>().unwrap()]);
    }
}
