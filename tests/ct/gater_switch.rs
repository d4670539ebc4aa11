//! A switch in user space: it makes one TAP device for each host, whose number is the last byte of
//! its hardware address, and carries frames between them with the delay, the loss and the bandwidth
//! that are set for each pair, one direction at a time.
//!
//! `gater_switch COUNT` prints `ready NAME...`, the devices in the order of the hosts, which may be
//! moved to other network namespaces then. A line `FROM TO DELAY_MS LOSS_PER_MILLE KBIT` on standard
//! input sets one direction; 0 KBIT is no limit. Each is answered `ok`. It ends with its input.

use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const TUNSETIFF: u64 = 0x4004_54ca;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
/// What waits for a slow link longer than this is lost, as in a router.
const QUEUE: Duration = Duration::from_millis(500);

extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

#[derive(Clone, Copy, Default)]
struct Link {
    delay: Duration,
    loss_per_mille: u64,
    bits_per_second: u64,
    free_at: Option<Instant>,
}

struct Frame {
    due: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Ord for Frame {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the greatest first.
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}
impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Frame {}

#[derive(Default)]
struct Waiting {
    frames: BinaryHeap<Frame>,
    number: u64,
    random: u64,
}

struct Switch {
    links: Mutex<Vec<Vec<Link>>>,
    waiting: Mutex<Waiting>,
    more: Condvar,
    devices: Vec<File>,
}

fn device() -> io::Result<(File, String)> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; 40];
    request[..5].copy_from_slice(b"gsw%d");
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the request is longer than the kernel's `struct ifreq` and lives as long as the call.
    if unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = request.iter().position(|byte| *byte == 0).unwrap_or(16);
    Ok((file, String::from_utf8_lossy(&request[..end]).into_owned()))
}

impl Switch {
    /// Takes a frame of the host `from`, and decides when it arrives, if at all.
    fn take(&self, from: usize, bytes: &[u8]) {
        let Some(&[0x02, 0x77, _, _, _, host]) = bytes.get(..6) else { return };
        let Some(to) = usize::from(host).checked_sub(1).filter(|to| *to < self.devices.len()) else {
            return;
        };
        let now = Instant::now();
        let (loss, due) = {
            let mut links = self.links.lock().unwrap();
            let link = &mut links[from][to];
            let mut sent_at = now;
            if link.bits_per_second > 0 {
                let begin = link.free_at.map_or(now, |free_at| free_at.max(now));
                if begin - now > QUEUE {
                    return;
                }
                let nanos = bytes.len() as u64 * 8 * 1_000_000_000 / link.bits_per_second;
                sent_at = begin + Duration::from_nanos(nanos);
                link.free_at = Some(sent_at);
            }
            (link.loss_per_mille, sent_at + link.delay)
        };
        let mut waiting = self.waiting.lock().unwrap();
        // A small generator: what is lost need not be unpredictable.
        waiting.random = waiting.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if (waiting.random >> 33) % 1000 < loss {
            return;
        }
        waiting.number += 1;
        let number = waiting.number;
        waiting.frames.push(Frame { due, number, to, bytes: bytes.to_vec() });
        self.more.notify_one();
    }

    /// Delivers what is due, for ever.
    fn deliver(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            let now = Instant::now();
            let pause = waiting.frames.peek().map(|frame| frame.due.saturating_duration_since(now));
            match pause {
                Some(Duration::ZERO) => {
                    let Some(frame) = waiting.frames.pop() else { continue };
                    drop(waiting);
                    // A device that is down takes nothing, as a host that is.
                    let _ = (&self.devices[frame.to]).write(&frame.bytes);
                    waiting = self.waiting.lock().unwrap();
                }
                Some(pause) => waiting = self.more.wait_timeout(waiting, pause).unwrap().0,
                None => waiting = self.more.wait(waiting).unwrap(),
            }
        }
    }

    fn set(&self, line: &str) -> Option<()> {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (from, to) = (next()? as usize, next()? as usize);
        let (delay, loss_per_mille, kbit) = (Duration::from_millis(next()?), next()?, next()?);
        let mut links = self.links.lock().unwrap();
        let link = links.get_mut(from.checked_sub(1)?)?.get_mut(to.checked_sub(1)?)?;
        *link = Link { delay, loss_per_mille, bits_per_second: kbit * 1000, free_at: None };
        Some(())
    }
}

fn main() -> io::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    let devices = (0..count).map(|_| device()).collect::<io::Result<Vec<_>>>()?;
    let (devices, names): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
    let switch = Arc::new(Switch {
        links: Mutex::new(vec![vec![Link::default(); count]; count]),
        waiting: Mutex::default(),
        more: Condvar::new(),
        devices,
    });
    for from in 0..count {
        let switch = switch.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            loop {
                match (&switch.devices[from]).read(&mut bytes) {
                    Ok(length) => switch.take(from, &bytes[..length]),
                    // It is down for as long as it is moved.
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }
    let delivering = switch.clone();
    std::thread::spawn(move || delivering.deliver());
    println!("ready {}", names.join(" "));
    for line in io::stdin().lock().lines() {
        println!("{}", if switch.set(&line?).is_some() { "ok" } else { "wrong" });
    }
    Ok(())
}
