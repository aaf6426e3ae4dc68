//! A bad network on the loopback: datagrams between nodes are delayed, lost,
//! doubled, reordered, throttled or swallowed, by a seed that is printed.
//!
//! Every node gets a front port that stands for it. Nodes are told only of
//! fronts, and advertise their own, so nothing goes past the relay. Behind a
//! front each other node has a socket of its own: the relay knows which pair
//! a datagram belongs to, both ways.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cluster::Cluster;
use crate::random::Random;

/// Datagrams under way; beyond it they are lost, as in a router.
const UNDER_WAY_MAX: usize = 50_000;

/// How long a datagram may queue for a throttled line before it is lost.
const QUEUE_MAX: Duration = Duration::from_millis(150);

/// Between two looks for an order to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Datagrams taken from one socket before the others have their turn.
const BURST_MAX: usize = 64;

/// What happens to the datagrams between two nodes, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    pub delay: Duration,
    /// Of a thousand datagrams.
    pub lost: u64,
    pub doubled: u64,
    /// Late by half the delay: others overtake them.
    pub overtaken: u64,
    /// Room on the line; no limit where there is none.
    pub bytes_per_second: Option<u64>,
    /// Nothing passes.
    pub dark: bool,
}

impl Weather {
    pub const DARK: Self = Self {
        delay: Duration::ZERO,
        lost: 0,
        doubled: 0,
        overtaken: 0,
        bytes_per_second: None,
        dark: true,
    };
}

/// What the relay has done so far, for a story to see that it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub datagrams: u64,
    /// Those of the datagrams that came.
    pub bytes: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Came after one of the same sender that was sent later.
    pub overtaken: u64,
}

/// The relay of one cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    nodes: usize,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// For each pair, the lower number first.
    weather: Mutex<Vec<Weather>>,
    over: AtomicBool,
    datagrams: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    overtaken: AtomicU64,
}

impl Relay {
    /// Puts a relay before every node of a cluster that has not started yet.
    pub fn before(cluster: &mut Cluster, seed: u64) -> io::Result<Self> {
        println!("the relay's seed is {seed}");
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.settings.port).collect();
        let lines = Lines::new(&ports)?;
        let fronts = lines.fronts()?;
        for (number, node) in cluster.nodes_mut().iter_mut().enumerate() {
            for peer in &mut node.settings.peers {
                if let Some(at) = ports.iter().position(|port| port == peer) {
                    *peer = fronts[at];
                }
            }
            let own = format!("127.0.0.1:{}", fronts[number]);
            node.settings.options.extend(["--advertise".into(), own.into()]);
        }
        let nodes = ports.len();
        let shared = Arc::new(Shared::default());
        *shared.weather() = vec![Weather::default(); nodes * nodes];
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            lines,
            random: Random::new(seed),
            under_way: BinaryHeap::new(),
            number: 0,
            free: vec![Instant::now(); nodes * nodes],
            delivered: vec![0; nodes * nodes],
        };
        let worker = thread::Builder::new().name("relay".into()).spawn(move || worker.run())?;
        Ok(Self { shared, nodes, worker: Some(worker) })
    }

    /// The same weather between all nodes.
    pub fn set(&self, weather: Weather) {
        self.shared.weather().fill(weather);
    }

    /// The weather between two nodes.
    pub fn set_between(&self, one: usize, other: usize, weather: Weather) {
        self.shared.weather()[one.min(other) * self.nodes + one.max(other)] = weather;
    }

    pub fn passed(&self) -> Passed {
        Passed {
            datagrams: self.shared.datagrams.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            doubled: self.shared.doubled.load(Ordering::Relaxed),
            overtaken: self.shared.overtaken.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            // A relay that panicked has failed its story already.
            let _ = worker.join();
        }
        println!("the relay passed {:?}", self.passed());
    }
}

impl Shared {
    fn weather(&self) -> std::sync::MutexGuard<'_, Vec<Weather>> {
        // Each change is one assignment.
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sockets.
struct Lines {
    ports: Vec<u16>,
    /// What others send to a node comes in at its front.
    fronts: Vec<UdpSocket>,
    /// `backs[to * nodes + from]` is what `to` takes for `from`.
    backs: Vec<UdpSocket>,
}

impl Lines {
    fn new(ports: &[u16]) -> io::Result<Self> {
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            // A burst must be lost by the weather and not by a full buffer.
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
            Ok(socket)
        };
        let count = ports.len();
        Ok(Self {
            ports: ports.to_vec(),
            fronts: (0..count).map(|_| open()).collect::<io::Result<_>>()?,
            backs: (0..count * count).map(|_| open()).collect::<io::Result<_>>()?,
        })
    }

    fn fronts(&self) -> io::Result<Vec<u16>> {
        self.fronts.iter().map(|front| Ok(front.local_addr()?.port())).collect()
    }

    /// Takes a datagram from one of the sockets: from whom to whom it is.
    fn receive(&self, socket: usize, buffer: &mut [u8]) -> Option<(usize, usize, usize)> {
        let nodes = self.ports.len();
        if let Some(back) = socket.checked_sub(nodes) {
            let (length, _) = self.backs[back].recv_from(buffer).ok()?;
            return Some((back / nodes, back % nodes, length));
        }
        // Whoever is no node of the cluster is not heard.
        let (length, source) = self.fronts[socket].recv_from(buffer).ok()?;
        let from = self.ports.iter().position(|port| *port == source.port())?;
        Some((from, socket, length))
    }

    /// Gives `to` a datagram of `from`, by the way this pair's connection was
    /// made.
    fn deliver(&self, datagram: &Datagram) {
        let Datagram { from, to, dialed_by_sender, ref bytes, .. } = *datagram;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[to]));
        let socket = match dialed_by_sender {
            true => &self.backs[to * self.ports.len() + from],
            false => &self.fronts[from],
        };
        // A node that is not there takes nothing.
        let _ = socket.send_to(bytes, address);
    }
}

struct Worker {
    shared: Arc<Shared>,
    lines: Lines,
    random: Random,
    under_way: BinaryHeap<Reverse<Datagram>>,
    number: u64,
    /// When the line of a pair, each way, has sent what it was given.
    free: Vec<Instant>,
    /// The highest number that a pair, each way, has been given.
    delivered: Vec<u64>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    due: Instant,
    number: u64,
    from: usize,
    to: usize,
    dialed_by_sender: bool,
    bytes: Vec<u8>,
}

impl Worker {
    fn run(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        while !self.shared.over.load(Ordering::Relaxed) {
            for socket in self.ready() {
                for _ in 0..BURST_MAX {
                    let Some((from, to, length)) = self.lines.receive(socket, &mut buffer) else {
                        break;
                    };
                    let dialed_by_sender = socket < self.lines.ports.len();
                    self.take(from, to, dialed_by_sender, &buffer[..length]);
                }
            }
            let now = Instant::now();
            while self.under_way.peek().is_some_and(|Reverse(first)| first.due <= now) {
                if let Some(Reverse(datagram)) = self.under_way.pop() {
                    self.lines.deliver(&datagram);
                    self.count(&datagram);
                }
            }
        }
    }

    fn count(&mut self, datagram: &Datagram) {
        self.shared.bytes.fetch_add(datagram.bytes.len() as u64, Ordering::Relaxed);
        let pair = datagram.from * self.lines.ports.len() + datagram.to;
        let highest = &mut self.delivered[pair];
        if datagram.number < *highest {
            self.shared.overtaken.fetch_add(1, Ordering::Relaxed);
        }
        *highest = datagram.number.max(*highest);
    }

    /// The sockets that have something, at the latest when a datagram is due.
    fn ready(&self) -> Vec<usize> {
        let sockets = self.lines.fronts.iter().chain(&self.lines.backs);
        let mut waiting: Vec<_> =
            sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let due = self.under_way.peek().map(|Reverse(first)| first.due);
        let pause = due.map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(Instant::now()));
        let pause = pause.min(LONGEST_SLEEP);
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        // Interrupted, it looks again.
        let _ = poll(&mut waiting, Some(&pause));
        let has = |(at, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(at);
        waiting.iter().enumerate().filter_map(has).collect()
    }

    fn take(&mut self, from: usize, to: usize, dialed_by_sender: bool, bytes: &[u8]) {
        let nodes = self.lines.ports.len();
        let weather = self.shared.weather()[from.min(to) * nodes + from.max(to)];
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        count(&self.shared.datagrams);
        let mut copies = 1 + u64::from(self.random.below(1000) < weather.doubled);
        if weather.dark || self.random.below(1000) < weather.lost {
            copies = 0;
        }
        let now = Instant::now();
        let mut sent = now;
        if let Some(rate) = weather.bytes_per_second {
            let free = &mut self.free[from * nodes + to];
            if free.saturating_duration_since(now) > QUEUE_MAX {
                copies = 0;
            } else {
                let takes = Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / rate);
                *free = (*free).max(now) + takes;
                sent = *free;
            }
        }
        if copies == 0 || self.under_way.len() >= UNDER_WAY_MAX {
            count(&self.shared.lost);
            return;
        }
        if copies > 1 {
            count(&self.shared.doubled);
        }
        for _ in 0..copies {
            let late = self.random.below(1000) < weather.overtaken;
            let due = sent + weather.delay + if late { weather.delay / 2 } else { Duration::ZERO };
            self.number += 1;
            let (number, bytes) = (self.number, bytes.to_vec());
            self.under_way.push(Reverse(Datagram {
                due,
                number,
                from,
                to,
                dialed_by_sender,
                bytes,
            }));
        }
    }
}
