use crate::Chain;
use alloy_primitives::Bytes;
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::{Buf as _, Handle, Spawner};
use futures::{FutureExt as _, StreamExt as _, channel::mpsc};
use std::sync::Arc;
use tracing::debug;

/// Sends this validator's new transactions to all peers, and takes theirs into the mempool.
///
/// A transaction travels one hop: every validator talks to every other.
pub(crate) fn spawn<E, S, R>(context: E, chain: Arc<Chain>, sender: S, receiver: R) -> Handle<()>
where
    E: Spawner,
    S: Sender,
    R: Receiver<PublicKey = S::PublicKey>,
{
    let queue = chain.gossip_queue();
    context.spawn(move |_| run(chain, queue, sender, receiver))
}

async fn run<S, R>(chain: Arc<Chain>, mut queue: mpsc::Receiver<Bytes>, mut sender: S, mut receiver: R)
where
    S: Sender,
    R: Receiver<PublicKey = S::PublicKey>,
{
    loop {
        futures::select! {
            raw = queue.next() => {
                let Some(raw) = raw else { return };
                sender.send(Recipients::All, raw.0, false);
            }
            message = receiver.recv().fuse() => {
                let Ok((peer, mut message)) = message else { return };
                let raw = message.copy_to_bytes(message.remaining());
                // The network bounds the size; the mempool checks everything else.
                if let Err(e) = chain.admit(&raw) {
                    debug!(%peer, "a gossiped transaction was not taken: {e}");
                }
            }
        }
    }
}
