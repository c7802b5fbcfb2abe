//! What one peer may take of a server, so that it cannot take everything.
//!
//! A peer is an IPv4 address, an IPv6 network of 64 bits (what one customer gets), or this machine. Connections and requests under way
//! are counted, and requests pay from a bucket of tokens that refills with time. This machine has higher limits of its own: the proxy, tests and a
//! reverse proxy come from there. Nothing that a client writes, such as `X-Forwarded-For`, is believed.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Most peers that are remembered. One that is not connected is forgotten when its bucket is full, so this is reached only by as many
/// addresses at once; those that do not fit share one entry.
const PEERS_MAX: usize = 16_384;
/// How much more this machine may have open at once.
const LOOPBACK_AT_ONCE: usize = 16;
/// How much faster this machine may ask.
const LOOPBACK_RATE: u32 = 100;
/// When to come again if too many requests are under way.
const AT_ONCE_PAUSE: Duration = Duration::from_secs(1);

/// Limits of one peer. This machine has 16 times as many places and 100 times the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Most connections at once.
    pub connections: usize,
    /// Most requests under way at once, over all connections.
    pub requests: usize,
    /// Requests per second in the long run. Each call of a JSON-RPC batch counts.
    pub rate: u32,
    /// Most requests at once after a pause.
    pub burst: u32,
}

impl Default for PeerLimits {
    /// Room for a proxy with a hundred users, and for 32 such peers before a server is full.
    fn default() -> Self {
        Self { connections: 128, requests: 128, rate: 50, burst: 400 }
    }
}

impl PeerLimits {
    fn of(&self, peer: Peer) -> Self {
        match peer.is_this_machine() {
            true => Self {
                connections: self.connections.saturating_mul(LOOPBACK_AT_ONCE),
                requests: self.requests.saturating_mul(LOOPBACK_AT_ONCE),
                rate: self.rate.saturating_mul(LOOPBACK_RATE),
                burst: self.burst.saturating_mul(LOOPBACK_RATE),
            },
            false => *self,
        }
    }
}

/// Who is counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl Peer {
    /// This machine.
    pub const LOOPBACK: Self = Self(IpAddr::V4(Ipv4Addr::LOCALHOST));
    /// Those who do not fit into the table.
    const OTHERS: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// The peer with this address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            a if a.is_loopback() => Self::LOOPBACK,
            IpAddr::V6(a) => Self(Ipv6Addr::from_bits(a.to_bits() >> 64 << 64).into()),
            a @ IpAddr::V4(_) => Self(a),
        }
    }

    /// Whether it is this machine.
    pub fn is_this_machine(&self) -> bool {
        *self == Self::LOOPBACK
    }
}

/// The peer has what it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// When to try again.
    pub retry_after: Duration,
}

#[derive(Debug)]
struct Entry {
    connections: usize,
    requests: usize,
    tokens: f64,
    at: Instant,
}

/// What every peer has of one server.
#[derive(Debug)]
pub struct Peers {
    limits: PeerLimits,
    table: Mutex<HashMap<Peer, Entry>>,
}

impl Peers {
    /// An empty table.
    pub fn new(limits: PeerLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Peer, Entry>> {
        // Counters are right after every statement, also one that panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the entry under which `peer` is counted now, and says which one that is.
    fn with<T>(&self, peer: Peer, now: Instant, f: impl FnOnce(&mut Entry, PeerLimits) -> T) -> (Peer, T) {
        let mut table = self.table();
        if table.len() >= PEERS_MAX && !table.contains_key(&peer) {
            table.retain(|p, e| {
                refill(e, self.limits.of(*p), now);
                e.connections > 0 || e.requests > 0 || e.tokens < f64::from(self.limits.of(*p).burst)
            });
        }
        let fits = table.len() < PEERS_MAX || table.contains_key(&peer);
        let peer = if fits { peer } else { Peer::OTHERS };
        let limits = self.limits.of(peer);
        let fresh = Entry { connections: 0, requests: 0, tokens: f64::from(limits.burst), at: now };
        let entry = table.entry(peer).or_insert(fresh);
        refill(entry, limits, now);
        (peer, f(entry, limits))
    }

    /// A place for a connection, until it is dropped; none when the peer has as many as it may.
    pub fn connect(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let (peer, taken) = self.with(peer, Instant::now(), |entry, limits| {
            let free = entry.connections < limits.connections;
            entry.connections += usize::from(free);
            free
        });
        taken.then(|| Place { peers: self.clone(), peer })
    }

    /// A place for a request, until it is dropped.
    ///
    /// # Errors
    /// [`Busy`] when the peer has too many under way or asks too fast.
    pub fn request(self: &Arc<Self>, peer: Peer) -> Result<Permit, Busy> {
        let (peer, taken) = self.with(peer, Instant::now(), |entry, limits| {
            if entry.requests >= limits.requests {
                return Err(Busy { retry_after: AT_ONCE_PAUSE });
            }
            pay(entry, limits, 1)?;
            entry.requests += 1;
            Ok(())
        });
        taken.map(|()| Permit { peers: self.clone(), peer })
    }

    /// Takes the price of `count` requests.
    ///
    /// # Errors
    /// [`Busy`] when the peer asks too fast; then nothing is taken.
    pub fn pay(&self, peer: Peer, count: u32) -> Result<(), Busy> {
        self.with(peer, Instant::now(), |entry, limits| pay(entry, limits, count)).1
    }
}

fn refill(entry: &mut Entry, limits: PeerLimits, now: Instant) {
    let passed = now.saturating_duration_since(entry.at).as_secs_f64();
    entry.tokens = (entry.tokens + passed * f64::from(limits.rate)).min(f64::from(limits.burst));
    entry.at = now;
}

fn pay(entry: &mut Entry, limits: PeerLimits, count: u32) -> Result<(), Busy> {
    let price = f64::from(count);
    if entry.tokens >= price {
        entry.tokens -= price;
        return Ok(());
    }
    let seconds = (price - entry.tokens) / f64::from(limits.rate.max(1));
    Err(Busy { retry_after: Duration::from_secs_f64(seconds) })
}

/// A connection of a peer that is counted.
#[derive(Debug)]
pub struct Place {
    peers: Arc<Peers>,
    peer: Peer,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(entry) = self.peers.table().get_mut(&self.peer) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

/// A request of a peer that is counted.
#[derive(Debug)]
pub struct Permit {
    peers: Arc<Peers>,
    peer: Peer,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(entry) = self.peers.table().get_mut(&self.peer) {
            entry.requests = entry.requests.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const LIMITS: PeerLimits = PeerLimits { connections: 2, requests: 3, rate: 10, burst: 5 };

    fn peer(text: &str) -> Peer {
        Peer::of(text.parse().unwrap())
    }

    #[test]
    fn what_one_customer_has_is_one_peer() {
        assert_eq!(peer("2001:db8:1:2::1"), peer("2001:db8:1:2:ffff::9"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!(peer("::ffff:203.0.113.7"), peer("203.0.113.7"));
        assert_ne!(peer("203.0.113.7"), peer("203.0.113.8"));
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(peer(local).is_this_machine(), "{local}");
        }
        assert!(!peer("10.0.0.1").is_this_machine());
    }

    #[test]
    fn a_peer_gets_its_share_and_leaves_the_others_theirs() {
        let peers = Peers::new(LIMITS);
        let (a, b) = (peer("203.0.113.7"), peer("203.0.113.8"));
        let places: Vec<_> = (0..2).map(|_| peers.connect(a).unwrap()).collect();
        assert!(peers.connect(a).is_none());
        assert!(peers.connect(b).is_some());
        drop(places);
        assert!(peers.connect(a).is_some());

        let permits: Vec<_> = (0..3).map(|_| peers.request(a).unwrap()).collect();
        assert_eq!(peers.request(a).unwrap_err().retry_after, AT_ONCE_PAUSE);
        drop(permits);
        drop(peers.request(a).unwrap());
        drop(peers.request(a).unwrap());
        // Five tokens are gone; a batch pays for each of its calls.
        assert!(peers.request(a).unwrap_err().retry_after <= Duration::from_millis(100));
        assert!(peers.pay(b, 6).is_err());
        peers.pay(b, 5).unwrap();
        assert!(peers.request(b).is_err());
    }

    #[test]
    fn the_table_has_an_end() {
        let peers = Peers::new(LIMITS);
        let now = Instant::now();
        for i in 0..PEERS_MAX as u32 + 1000 {
            let _ = peers.with(Peer(Ipv4Addr::from_bits(i + 1).into()), now, |e, l| pay(e, l, 1));
        }
        assert_eq!(peers.table().len(), PEERS_MAX + 1);
        // Those that did not fit were counted as one.
        let late = peer("198.51.100.1");
        let (counted, paid) = peers.with(late, now, |e, l| pay(e, l, 5));
        assert_eq!((counted, paid.is_err()), (Peer::OTHERS, true));
        // Who is gone for a while is forgotten.
        let later = now + Duration::from_secs(3600);
        let (kept, ()) = peers.with(late, later, |_, _| ());
        assert_eq!((kept, peers.table().len()), (late, 1));
    }

    proptest! {
        #[test]
        fn no_timing_gets_more_than_burst_and_rate(waits in prop::collection::vec(0u64..300, 1..200)) {
            let peers = Peers::new(LIMITS);
            let start = Instant::now();
            let (mut now, mut got) = (start, 0u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                got += u32::from(peers.with(peer("203.0.113.7"), now, |e, l| pay(e, l, 1)).1.is_ok());
            }
            let most = f64::from(LIMITS.burst) + now.duration_since(start).as_secs_f64() * f64::from(LIMITS.rate);
            prop_assert!(f64::from(got) <= most + 1e-6);
        }
    }
}
