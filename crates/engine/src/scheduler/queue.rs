use super::Job;
use std::collections::VecDeque;

/// Waiting jobs: first come, first served within a client, and clients in turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Clients that have jobs, the next one first.
    clients: VecDeque<(u64, VecDeque<Job>)>,
    len: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, job: Job) {
        self.len += 1;
        match self.clients.iter_mut().find(|(client, _)| *client == job.client) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.clients.push_back((job.client, VecDeque::from([job]))),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Job> {
        let (client, mut jobs) = self.clients.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.clients.push_back((client, jobs));
        }
        self.len -= 1;
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;
    use types::Sampling;

    #[test]
    fn clients_are_served_in_turn() {
        let mut queue = Queue::default();
        for (client, max) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)] {
            let on_event = Box::new(|_| ControlFlow::Continue(()));
            queue.push(Job { client, ..Job::new(vec![1], Sampling::GREEDY, max, on_event) });
        }
        assert_eq!(queue.len(), 6);
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|j| j.max_tokens).collect();
        assert_eq!(order, [10, 20, 30, 11, 21, 12]);
        assert_eq!(queue.len(), 0);
    }
}
