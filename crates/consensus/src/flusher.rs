//! A thread that writes states to disk, so that blocks need not wait for it.

use crate::{ConsensusError, chain::save};
use ledger::{Flush, RecoveredTx, Store};
use parking_lot::Mutex;
use std::{
    sync::{Arc, mpsc},
    thread,
};

/// States that may wait. Beyond that, blocks wait for the disk.
const QUEUE: usize = 2;

type Job = (Flush, Vec<Arc<RecoveredTx>>);

enum Message {
    Write(Box<Job>),
    /// Answers when everything before it is written.
    Barrier(mpsc::Sender<()>),
}

/// The thread; it ends when this is dropped, after writing what waits.
#[derive(Debug)]
pub(crate) struct Flusher {
    queue: Option<mpsc::SyncSender<Message>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flusher {
    pub(crate) fn start(
        store: Arc<Store>,
        failure: Arc<Mutex<Option<String>>>,
    ) -> Result<Self, ConsensusError> {
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        let run = move || {
            for message in jobs {
                match message {
                    Message::Barrier(done) => drop(done.send(())),
                    Message::Write(job) => {
                        let written =
                            store.flush(&job.0).map_err(Into::into).and_then(|()| save(&store, &job.1));
                        if let Err(e) = written {
                            failure.lock().get_or_insert(format!("cannot write the state: {e}"));
                            return;
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new()
            .name("flush".into())
            .spawn(run)
            .map_err(|e| ConsensusError::Stopped(e.to_string()))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(crate) fn push(&self, flush: Flush, waiting: Vec<Arc<RecoveredTx>>) -> Result<(), ConsensusError> {
        let sent = self.queue.as_ref().map(|q| q.send(Message::Write(Box::new((flush, waiting)))));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(ConsensusError::Stopped("the thread that writes states has ended".into())),
        }
    }

    /// Waits until everything is written.
    pub(crate) fn wait(&self) {
        let (done, barrier) = mpsc::channel();
        if let Some(queue) = &self.queue
            && queue.send(Message::Barrier(done)).is_ok()
        {
            let _ = barrier.recv();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
