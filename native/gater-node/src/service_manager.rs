//! What systemd is told by a gateway that runs as a service of `Type=notify`.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is told. A gateway that belongs to a BEAM
//! tells nothing either: the variable that it inherits is meant for the BEAM.

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// A service that has said that it is ready. Dropping it ends the signs of life.
#[derive(Debug)]
pub struct Service {
    watchdog: Option<JoinHandle<()>>,
}

impl Service {
    /// Says that the service is ready, and gives signs of life from then on if `WATCHDOG_USEC` asks
    /// for them: twice as often as that, by a task, so that a runtime that hangs gives none.
    pub fn ready(status: &str) -> Self {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        let watchdog = sd_notify::watchdog_enabled().map(|within| {
            let mut ticks = interval((within / 2).max(std::time::Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::spawn(async move {
                loop {
                    ticks.tick().await;
                    tell(&[NotifyState::Watchdog]);
                }
            })
        });
        Self { watchdog }
    }

    /// Says that the service stops. Signs of life go on until it has.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.abort();
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
