//! Three registries in one simulated world: late and lost messages, partitions, crashes.
//!
//! Consensus, coalescing, forwarding and the state machine are the real ones; network, disk
//! and time are not, so a run of many seconds takes some milliseconds. A seed gives the
//! course of events: `SIMULATION_SEED=n` runs one again, `SIMULATION_SEEDS=n` runs that many.

mod dice;
mod disk;
mod net;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Change, Command};
use gater_node::registry::replica::{
    Coalescer, Destination, Machine, Member, NodeId, SnapshotFile, TypeConfig,
};
use gater_term::{Atom, Pid};
use openraft::storage::RaftStateMachine;
use openraft::{
    Config, Entry, LogId, Raft, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError,
    StoredMembership,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use self::dice::Dice;
use self::disk::Disk;
use self::net::Net;

const HOSTS: [&str; 3] = ["g1", "g2", "g3"];
/// A tick of the simulation; every wait is a number of them.
const TICK: Duration = Duration::from_millis(5);
/// How long the world is in trouble, and how long it may take to be well again.
const TROUBLE: Duration = Duration::from_secs(6);
const RECOVERY: Duration = Duration::from_secs(30);
/// Seeds of a run, unless the environment says otherwise.
const SEEDS: u64 = 100;

/// What is known of a worker from the answers that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Registered,
    Unregistered,
    /// A command was not answered, or not well: it may still be carried out.
    Unknown,
}

/// What everybody sees, whoever crashes.
#[derive(Default)]
struct World {
    fates: Mutex<BTreeMap<u32, Fate>>,
    next_worker: Mutex<u32>,
    /// The entry that was applied at each place of the log, whoever applied it first.
    applied: Mutex<BTreeMap<u64, LogId<NodeId>>>,
    machines: Mutex<HashMap<&'static str, Machine>>,
    /// Clients stop; each host then has one last command to get through.
    over: Mutex<bool>,
    recovered: Mutex<BTreeSet<&'static str>>,
}

impl World {
    fn new_worker(&self) -> u32 {
        let mut next = self.next_worker.lock();
        *next += 1;
        *next
    }

    /// State machine safety: nobody ever applies another entry at the same place. (One leader
    /// a term is not promised: openraft's terms are pairs of a number and a node.)
    fn applied(&self, id: LogId<NodeId>) {
        let known = *self.applied.lock().entry(id.index).or_insert(id);
        assert_eq!(known, id, "two entries were applied at the same place");
    }
}

/// The state machine, watched and without the snapshots that nobody takes here.
#[derive(Clone)]
struct Watched(Machine, Arc<World>);

impl RaftStateMachine<TypeConfig> for Watched {
    type SnapshotBuilder = <Machine as RaftStateMachine<TypeConfig>>::SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, Member>), StorageError<NodeId>>
    {
        self.0.applied_state().await
    }

    async fn apply<I>(
        &mut self,
        entries: I,
    ) -> Result<Vec<gater_node::registry::replica::Applied>, StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> =
            entries.into_iter().inspect(|entry| self.1.applied(entry.log_id)).collect();
        self.0.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.0.get_snapshot_builder().await
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<std::io::Cursor<Vec<u8>>>, StorageError<NodeId>> {
        self.0.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, Member>,
        snapshot: Box<std::io::Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<NodeId>> {
        self.0.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig>>, StorageError<NodeId>> {
        Ok(None)
    }
}

fn register(id: u32) -> Command {
    Command::Register { store: Atom::new("orders").unwrap(), pid: pid(id) }
}

fn unregister(id: u32) -> Command {
    Command::Unregister { store: Atom::new("orders").unwrap(), pid: pid(id), epoch: None }
}

fn pid(id: u32) -> Pid {
    Pid { node: Atom::new("worker@host").unwrap(), id, serial: 0, creation: 9 }
}

/// One life of a host.
async fn live(
    host: usize,
    world: Arc<World>,
    disk: Disk,
    folder: Arc<TempDir>,
    mut dice: Dice,
) -> turmoil::Result {
    let id = host as NodeId + 1;
    let file = folder.path().join(HOSTS[host]);
    let (file, _) = SnapshotFile::open(&file, id)?;
    // What it is told must always lead from what it had to what it has.
    let told: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let follower = told.clone();
    let machine = Machine::new(
        file,
        None,
        Box::new(move |changes: &[Change]| {
            let mut told = follower.lock();
            for change in changes {
                match change {
                    Change::Registered { pid, .. } => assert!(told.insert(pid.id), "{change:?}"),
                    Change::Unregistered { pid, .. } => assert!(told.remove(&pid.id), "{change:?}"),
                }
            }
        }),
    )?;
    let config = Config {
        heartbeat_interval: 50,
        election_timeout_min: 150,
        election_timeout_max: 300,
        // The dice decide when to stand.
        enable_elect: false,
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let net = Net::open(dice.below(1 << 62)).await?;
    let log = disk.open(Dice::new(dice.below(u64::MAX), 1));
    let raft =
        Raft::new(id, config, net.clone(), log, Watched(machine.clone(), world.clone())).await?;
    machine.go_live(|state| {
        told.lock().extend(state.workers("orders").map(|(_, pid)| pid.id));
    });
    world.machines.lock().insert(HOSTS[host], machine.clone());
    tokio::spawn(net.clone().serve(raft.clone()));
    let members = (1..).zip(HOSTS).map(|(id, name)| (id, Member { name: name.into() })).collect();
    let members: BTreeMap<NodeId, Member> = members;
    // All found it with the same members, whenever they come.
    let _ = raft.initialize(members).await;

    let way = Destination {
        raft: raft.clone(),
        machine,
        leader: Arc::new(net.clone()),
        space: Arc::default(),
    };
    let coalescer = Arc::new(Coalescer::start(way, 1000, Duration::from_secs(2)));
    for number in 0..2 {
        let client =
            client(world.clone(), coalescer.clone(), Dice::new(dice.below(1 << 60), number));
        tokio::spawn(client);
    }
    tokio::spawn(last_word(HOSTS[host], world.clone(), coalescer.clone()));
    loop {
        tokio::time::sleep(Duration::from_millis(150 + dice.below(300))).await;
        let leads = raft.metrics().borrow().state.is_leader();
        if !leads && net.silence() > Duration::from_millis(250) {
            raft.trigger().elect().await?;
        }
    }
}

/// Registers and unregisters, and writes down what it was answered.
async fn client(world: Arc<World>, coalescer: Arc<Coalescer>, mut dice: Dice) {
    let mut mine: Vec<u32> = Vec::new();
    while !*world.over.lock() {
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
        let (worker, command, fate) = if mine.len() > 3 && dice.once_in(2) {
            let worker = mine.swap_remove(dice.below(mine.len() as u64) as usize);
            (worker, unregister(worker), Fate::Unregistered)
        } else {
            let worker = world.new_worker();
            (worker, register(worker), Fate::Registered)
        };
        world.fates.lock().insert(worker, Fate::Unknown);
        if coalescer.propose(command).await.is_ok() {
            world.fates.lock().insert(worker, fate);
            if fate == Fate::Registered {
                mine.push(worker);
            }
        }
    }
}

/// When all is over, a command that must get through: everything before it is then known here.
async fn last_word(host: &'static str, world: Arc<World>, coalescer: Arc<Coalescer>) {
    while !*world.over.lock() {
        tokio::time::sleep(TICK).await;
    }
    let worker = world.new_worker();
    while let Err(error) = coalescer.propose(register(worker)).await {
        // Then the host does not recover.
        if error.is_final() {
            return;
        }
    }
    world.fates.lock().insert(worker, Fate::Registered);
    world.recovered.lock().insert(host);
}

/// Runs the course of events of `seed`; what is wrong with it at the end.
fn simulate(seed: u64, lies: bool) -> Result<(), String> {
    let mut dice = Dice::new(seed, 0);
    let mut sim = turmoil::Builder::new()
        .tick_duration(TICK)
        .simulation_duration(TROUBLE + RECOVERY + Duration::from_secs(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10 + dice.below(60)))
        .udp_capacity(1 << 14)
        .enable_random_order()
        .rng_seed(seed)
        .build();
    let world = Arc::new(World::default());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    for (host, name) in HOSTS.into_iter().enumerate() {
        let (world, disk, folder) = (world.clone(), Disk::new(lies), folder.clone());
        let lives = Arc::new(Mutex::new(Dice::new(seed, host as u64 + 10)));
        sim.host(name, move || {
            let dice = Dice::new(lives.lock().below(u64::MAX), 0);
            live(host, world.clone(), disk.clone(), folder.clone(), dice)
        });
    }
    let mut down = BTreeSet::new();
    while sim.elapsed() < TROUBLE {
        sim.step().map_err(|error| error.to_string())?;
        if dice.once_in(40) {
            trouble(&mut sim, &mut dice, &mut down);
        }
    }
    sim.set_fail_rate(0.0);
    for name in HOSTS {
        for other in HOSTS.into_iter().filter(|other| *other != name) {
            sim.release(name, other);
            sim.repair(name, other);
        }
    }
    for name in down {
        sim.bounce(name);
    }
    *world.over.lock() = true;
    while world.recovered.lock().len() < HOSTS.len() {
        if sim.elapsed() > TROUBLE + RECOVERY {
            return Err("it did not recover".into());
        }
        sim.step().map_err(|error| error.to_string())?;
    }
    // The last command of one may not be known to the others yet.
    for _ in 0..200 {
        sim.step().map_err(|error| error.to_string())?;
    }
    judge(&world)
}

/// One bad thing happens, or ends.
fn trouble(sim: &mut turmoil::Sim<'_>, dice: &mut Dice, down: &mut BTreeSet<&'static str>) {
    let one = HOSTS[dice.below(3) as usize];
    let other =
        HOSTS.into_iter().filter(|other| *other != one).nth(dice.below(2) as usize).unwrap();
    match dice.below(8) {
        0 if down.is_empty() || dice.once_in(3) => {
            sim.crash(one);
            down.insert(one);
        }
        1 | 2 => {
            if down.remove(one) {
                sim.bounce(one);
            }
        }
        3 => sim.partition(one, other),
        4 => sim.hold(one, other),
        5 => sim.release(one, other),
        6 => sim.repair(one, other),
        _ => sim.set_fail_rate([0.0, 0.05, 0.3][dice.below(3) as usize]),
    }
}

/// Whether what the registries hold is what was answered.
fn judge(world: &World) -> Result<(), String> {
    let machines = world.machines.lock();
    let states: Vec<BTreeSet<u32>> = HOSTS
        .iter()
        .map(|name| {
            machines[name].read(|state| state.workers("orders").map(|(_, pid)| pid.id).collect())
        })
        .collect();
    if states.iter().any(|state| *state != states[0]) {
        return Err("the registries differ".into());
    }
    for (worker, fate) in world.fates.lock().iter() {
        match (fate, states[0].contains(worker)) {
            (Fate::Registered, false) => return Err(format!("worker {worker} is lost")),
            (Fate::Unregistered, true) => return Err(format!("worker {worker} is back")),
            _ => {}
        }
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn what_was_acknowledged_holds_whatever_happens_to_network_and_hosts() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return simulate(seed, false).unwrap();
    }
    let first = u64::from(std::process::id()) << 20;
    let started = std::time::Instant::now();
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    for seed in first..first + seeds {
        if let Err(error) = simulate(seed, false) {
            panic!("{error}: SIMULATION_SEED={seed} runs this again");
        }
    }
    println!("{seeds} seeds in {:?}", started.elapsed());
}

#[test]
fn a_disk_that_loses_what_it_said_was_safe_is_found_out() {
    let caught = (0..500).find(|seed| simulate(*seed, true).is_err());
    assert!(caught.is_some(), "nobody noticed");
}
