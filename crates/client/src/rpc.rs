use crate::{ClientError, light::Checkpoint};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing::debug;
use types::{FinalityCertificate, LedgerProof, NetworkConfig};

/// Longest answer of a validator (32 MiB).
const ANSWER_BYTES_MAX: usize = 32 << 20;
const TIMEOUT: Duration = Duration::from_secs(15);

/// An event of a contract.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventLog {
    /// Topics, the event's signature first.
    pub topics: Vec<B256>,
    /// The rest, ABI-encoded.
    pub data: Bytes,
    /// Block that has it.
    pub block_number: U64,
}

impl EventLog {
    /// The event, when it is one of this kind.
    pub fn decode<E: alloy_sol_types::SolEvent>(&self) -> Option<E> {
        E::decode_raw_log(&self.topics, &self.data).ok()
    }
}

/// Most servers of one client.
const SERVERS_MAX: usize = 16;

/// A small client for the JSON-RPC of validators: one, or several that are asked in turn when one cannot be reached or answers nonsense.
#[derive(Clone, Debug)]
pub struct RpcClient {
    urls: Arc<[String]>,
    /// The one that answered last; clones share it.
    at: Arc<AtomicUsize>,
    http: reqwest::Client,
}

/// Answer of `og_network`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInfo {
    /// The configuration.
    pub network: NetworkConfig,
    /// RLP of the genesis header.
    pub genesis_header: Bytes,
}

/// Answer of `og_finalized`.
#[derive(Clone, Debug, Deserialize)]
pub struct Finalized {
    /// Block number.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
    /// Who finalised it.
    pub certificate: FinalityCertificate,
    /// RLP of the header.
    pub header: Bytes,
}

/// An HTTP client that follows no redirect: a server must not be able to send us to an address of its choice.
pub(crate) fn http_client(
    configure: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    configure(builder).build().unwrap_or_default()
}

/// Reads a body, at most `max` bytes of it.
pub(crate) async fn read_bounded(
    url: &str,
    response: reqwest::Response,
    max: usize,
) -> Result<Vec<u8>, ClientError> {
    let mut response = response;
    let mut out = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if out.len() + chunk.len() > max => {
                return Err(ClientError::TooLarge { url: url.into(), max });
            }
            Ok(Some(chunk)) => out.extend_from_slice(&chunk),
            Ok(None) => return Ok(out),
            Err(e) => return Err(unreachable_at(url, &e)),
        }
    }
}

pub(crate) fn unreachable_at(url: &str, e: &reqwest::Error) -> ClientError {
    use std::error::Error as _;
    let mut reason = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        reason = s.to_string();
        source = s.source();
    }
    ClientError::Unreachable { url: url.into(), reason }
}

impl RpcClient {
    /// A client for the server at `url`, or for several with commas between them, at most 16.
    pub fn new(url: impl Into<String>) -> Self {
        let urls: String = url.into();
        let urls = urls.split(',').map(|u| u.trim().to_owned()).take(SERVERS_MAX).collect();
        Self { urls, at: Arc::default(), http: http_client(|b| b.timeout(TIMEOUT)) }
    }

    /// Where the server is that answered last.
    pub fn url(&self) -> &str {
        &self.urls[self.at.load(Ordering::Relaxed) % self.urls.len()]
    }

    /// Calls `method`: on the server that answered last, then on the others. An error that a server answers with is an answer.
    ///
    /// # Errors
    /// [`ClientError`] when no server can be reached, or they answer with an error, or with nonsense.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, ClientError> {
        let first = self.at.load(Ordering::Relaxed);
        let mut next = 0;
        loop {
            let at = (first + next) % self.urls.len();
            next += 1;
            match self.call_one(&self.urls[at], method, &params).await {
                Err(e) if next < self.urls.len() && !matches!(e, ClientError::Rpc { .. }) => {
                    debug!("{e}; asking another server");
                }
                answer => {
                    self.at.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
    }

    /// Calls `method` on all servers at once: one that keeps a transaction back must not be the only one that has it.
    ///
    /// # Errors
    /// That of the first server when none has done it; an error that a server answers with says more than one that was not reached.
    pub async fn call_all<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, ClientError> {
        let calls = self.urls.iter().map(|url| self.call_one(url, method, &params));
        let mut fault = None;
        for answer in futures::future::join_all(calls).await {
            match (answer, &fault) {
                (Ok(answer), _) => return Ok(answer),
                (Err(e), Some(ClientError::Rpc { .. })) => debug!("{e}"),
                (Err(e), _) => fault = Some(e),
            }
        }
        Err(fault.unwrap_or(ClientError::Malformed { url: self.url().into(), reason: "no server".into() }))
    }

    async fn call_one<T: DeserializeOwned>(
        &self,
        url: &str,
        method: &str,
        params: &Value,
    ) -> Result<T, ClientError> {
        let malformed = |reason: String| ClientError::Malformed { url: url.into(), reason };
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let response = self.http.post(url).json(&request).send().await;
        let response = response.map_err(|e| unreachable_at(url, &e))?;
        let body = read_bounded(url, response, ANSWER_BYTES_MAX).await?;
        let mut answer: Value =
            serde_json::from_slice(&body).map_err(|e| malformed(format!("{method}: not JSON-RPC: {e}")))?;
        if let Some(error) = answer.get("error").filter(|e| !e.is_null()) {
            return Err(ClientError::Rpc {
                method: method.into(),
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or("no message").into(),
                data: error["data"].as_str().map(str::to_owned),
            });
        }
        serde_json::from_value(answer["result"].take()).map_err(|e| malformed(format!("{method}: {e}")))
    }

    /// Calls a contract's view.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ClientError> {
        let data = Bytes::from(call.abi_encode());
        let out: Bytes = self.call("eth_call", json!([{"to": to, "input": data}, "latest"])).await?;
        C::abi_decode_returns(&out).map_err(|e| ClientError::Malformed {
            url: self.url().into(),
            reason: format!("{}: {e}", C::SIGNATURE),
        })
    }

    /// Logs of `contract` whose first topic is one of `events`, from block `from` to `to`, in order.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn logs(
        &self,
        contract: Address,
        events: &[B256],
        from: u64,
        to: u64,
    ) -> Result<Vec<EventLog>, ClientError> {
        let filter = json!({"address": contract, "topics": [events], "fromBlock": U64::from(from), "toBlock": U64::from(to)});
        self.call("eth_getLogs", json!([filter])).await
    }

    /// Seconds since the Unix epoch of the newest block.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn block_time(&self) -> Result<u64, ClientError> {
        let block: Value = self.call("eth_getBlockByNumber", json!(["latest", false])).await?;
        let time = block["timestamp"]
            .as_str()
            .and_then(|t| u64::from_str_radix(t.trim_start_matches("0x"), 16).ok());
        time.ok_or_else(|| ClientError::Malformed {
            url: self.url().into(),
            reason: "a block without time".into(),
        })
    }

    /// Configuration and genesis header of the network.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn network(&self) -> Result<NetworkInfo, ClientError> {
        self.call("og_network", json!([])).await
    }

    /// The newest block with a certificate.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn finalized(&self) -> Result<Finalized, ClientError> {
        self.call("og_finalized", json!([])).await
    }

    /// Proof that the root of `size` receipts of `node` is on the ledger; and, for the receipt with this id and index, what became of
    /// it. For a reader whose trust begins at `checkpoint`, or at genesis.
    ///
    /// # Errors
    /// [`ClientError::NotFinalised`] when it is not there yet, else as [`call`](Self::call).
    pub async fn receipt_log_proof(
        &self,
        node: Address,
        size: u64,
        answer: Option<(B256, u64)>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<LedgerProof, ClientError> {
        let answer = answer.map(|(receipt, index)| json!({"receipt": receipt, "index": index}));
        let checkpoint = checkpoint.map(|c| U64::from(c.number));
        match self.call("og_receiptLogProof", json!([node, size, answer, checkpoint])).await {
            Err(ClientError::Rpc { code: -32001, .. }) => Err(ClientError::NotFinalised),
            other => other,
        }
    }

    /// Hash of block `number`, when it exists.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>, ClientError> {
        let block: Value = self.call("eth_getBlockByNumber", json!([U64::from(number), false])).await?;
        Ok(block["hash"].as_str().and_then(|h| h.parse().ok()))
    }

    /// Number of the newest block.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn block_number(&self) -> Result<u64, ClientError> {
        Ok(self.call::<U64>("eth_blockNumber", json!([])).await?.to())
    }

    /// Balance in wei.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn balance(&self, address: Address) -> Result<U256, ClientError> {
        self.call("eth_getBalance", json!([address, "latest"])).await
    }
}
