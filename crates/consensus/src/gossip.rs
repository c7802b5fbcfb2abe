use crate::Chain;
use alloy_primitives::Bytes;
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::{Buf as _, Clock, Handle, Metrics, Spawner};
use futures::{FutureExt as _, StreamExt as _, channel::mpsc};
use std::{sync::Arc, time::Duration};
use tracing::debug;

/// Most bytes of one message.
const BATCH_BYTES: usize = 256 << 10;
/// Most transactions of one message.
const BATCH_COUNT: usize = 2048;
/// How long a transaction waits for company.
const BATCH_DELAY: Duration = Duration::from_millis(5);

/// Sends this validator's new transactions to all peers, many at once, and takes theirs into the mempool.
///
/// A transaction travels one hop: every validator talks to every other.
pub(crate) fn spawn<E, S, R>(context: E, chain: Arc<Chain>, sender: S, receiver: R) -> Vec<Handle<()>>
where
    E: Spawner + Clock + Metrics,
    S: Sender,
    R: Receiver<PublicKey = S::PublicKey>,
{
    let queue = chain.gossip_queue();
    // Checking signatures keeps a thread busy.
    let receive = context.child("receive").dedicated();
    vec![
        context.child("send").spawn(move |context| send(context, queue, sender)),
        receive.spawn(move |_| take(chain, receiver)),
    ]
}

async fn send<E: Clock, S: Sender>(context: E, mut queue: mpsc::Receiver<Bytes>, mut sender: S) {
    while let Some(first) = queue.next().await {
        context.sleep(BATCH_DELAY).await;
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_COUNT
            && bytes < BATCH_BYTES
            && let Some(Some(next)) = queue.next().now_or_never()
        {
            bytes += next.len();
            batch.push(next);
        }
        sender.send(Recipients::All, alloy_rlp::encode(batch), false);
    }
}

async fn take<R: Receiver>(chain: Arc<Chain>, mut receiver: R) {
    while let Ok((peer, mut message)) = receiver.recv().await {
        // The network bounds the size of messages and how many come; the mempool checks everything else.
        let bytes = message.copy_to_bytes(message.remaining());
        match alloy_rlp::decode_exact::<Vec<Bytes>>(&bytes) {
            Ok(batch) if batch.len() <= BATCH_COUNT => {
                let taken = chain.admit_all(&batch);
                debug!(%peer, taken, of = batch.len(), "gossiped transactions");
            }
            _ => debug!(%peer, "a gossiped message is malformed"),
        }
    }
}
