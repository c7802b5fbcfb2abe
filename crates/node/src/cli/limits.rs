use api::{http::PeerLimits, rpc::CallLimits};
use clap::Args;
use std::time::Duration;

/// What one peer may take of a server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LimitArgs {
    /// Most connections of one address (IPv6: of one /64 network) at once. This machine may have 16 times as many, of this and of requests.
    #[arg(long, default_value_t = PeerLimits::default().connections, value_name = "N")]
    pub(crate) peer_connections: usize,
    /// Most requests of one address under way at once; others get status 429.
    #[arg(long, default_value_t = PeerLimits::default().requests, value_name = "N")]
    pub(crate) peer_requests: usize,
    /// Requests per second of one address in the long run; each call of a JSON-RPC batch counts. This machine may send 100 times as many.
    #[arg(long, default_value_t = PeerLimits::default().rate, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) peer_rate: u32,
    /// Requests that one address may send at once after a pause.
    #[arg(long, default_value_t = PeerLimits::default().burst, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) peer_burst: u32,
}

impl LimitArgs {
    /// The limits for a server.
    pub(crate) fn limits(&self) -> PeerLimits {
        PeerLimits {
            connections: self.peer_connections,
            requests: self.peer_requests,
            rate: self.peer_rate,
            burst: self.peer_burst,
        }
    }
}

/// Bounds of JSON-RPC calls that execute something.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CallArgs {
    /// Calls that execute something (eth_call and the like) at once, on threads of low priority; half of the cores when absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub(crate) rpc_call_places: Option<u16>,
    /// Longest time of such a call in milliseconds. None may use more than 50 million gas.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=60_000), value_name = "MS")]
    pub(crate) rpc_call_time: u64,
}

impl CallArgs {
    /// The bounds.
    pub(crate) fn limits(&self) -> CallLimits {
        let default = CallLimits::default();
        let places = self.rpc_call_places.map_or(default.places, usize::from);
        CallLimits { places, time: Duration::from_millis(self.rpc_call_time), ..default }
    }
}
