use super::{
    EngineConfig, Event, Shared, Stats,
    active::Active,
    prefix::{PrefixCache, page_key},
};
use crate::{
    EngineError, Model,
    arch::{Ask, Backend, Given, Row, Weights, decoder::Scratch},
    kv::KvCache,
    sampler::TokenLogprobs,
};
use kernels::PAGE;
use std::{collections::VecDeque, sync::PoisonError};
use tracing::{debug, error};

pub(super) struct Scheduler<'m> {
    model: &'m Model,
    backend: Backend,
    config: EngineConfig,
    pages_max: usize,
    shared: &'m Shared,
    active: Vec<Active<'m>>,
    /// Answers under way that had to give up their pages; they go on before new jobs start.
    preempted: VecDeque<Active<'m>>,
    prefixes: PrefixCache,
    scratch: Scratch,
    stats: Stats,
    /// Which answer's prompt is read first; moves on, so that long prompts share a step fairly.
    turn: usize,
}

impl<'m> Scheduler<'m> {
    pub(super) fn new(
        model: &'m Model,
        backend: Backend,
        config: EngineConfig,
        pages_max: usize,
        shared: &'m Shared,
    ) -> Self {
        Self {
            model,
            backend,
            config,
            pages_max,
            shared,
            active: Vec::new(),
            preempted: VecDeque::new(),
            prefixes: PrefixCache::default(),
            scratch: Scratch::default(),
            stats: Stats { pages_max, ..Stats::default() },
            turn: 0,
        }
    }

    pub(super) fn run(&mut self) {
        while self.admit() {
            self.embed();
            if !self.active.is_empty() {
                self.step();
            }
            self.active.retain(|a| !a.done);
            self.publish();
        }
        debug!("the engine has stopped");
    }

    /// Shows the counters, and says when there is nothing left to do.
    fn publish(&mut self) {
        self.stats.running = self.active.len() + self.preempted.len();
        self.stats.pages_used = self.pages_used();
        let mut state = self.shared.lock();
        state.stats = self.stats;
        if self.stats.running == 0 && state.queue.len() + state.texts.len() == 0 {
            self.shared.idle.notify_all();
        }
    }

    /// Takes waiting jobs into the batch; sleeps while there is nothing to do. False when it is time to stop.
    fn admit(&mut self) -> bool {
        let busy = !self.active.is_empty() || !self.preempted.is_empty();
        let mut state = self.shared.lock();
        while !busy && state.queue.len() + state.texts.len() == 0 && !state.stopped {
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped && !busy {
            while let Some(mut job) = state.queue.pop() {
                let _ = (job.on_event)(Event::Failed(EngineError::Stopped));
            }
            return false;
        }
        let Ok(decoder) = self.model.decoder() else { return true };
        while self.active.len() < self.config.batch_max.max(1) {
            let next = match self.preempted.pop_front() {
                Some(preempted) => preempted,
                None => match state.queue.pop() {
                    Some(job) => {
                        let cache = self.backend.cache(decoder.spec.kv_shape());
                        Active::new(self.model, cache, job, self.pages_max * PAGE)
                    }
                    None => break,
                },
            };
            self.active.push(next);
        }
        state.stats.running = self.active.len() + self.preempted.len();
        true
    }

    /// Pages in use: those of the prefix cache, and those that only one answer has.
    fn pages_used(&self) -> usize {
        let own = |a: &Active<'_>| a.cache.page_count() - self.shared_pages(a);
        self.prefixes.len() + self.active.iter().map(own).sum::<usize>()
    }

    fn shared_pages(&self, a: &Active<'_>) -> usize {
        let held = |(i, key): (usize, &[u8; 32])| self.prefixes.holds(key, &a.cache, i);
        a.keys.iter().enumerate().filter(|(i, key)| held((*i, key))).count()
    }

    /// Whether answer `i` had better wait for its first page: an earlier one is computing it.
    fn waits_for_another(&self, i: usize) -> bool {
        let first_page = |a: &Active<'m>| -> Option<Vec<u32>> {
            let fresh_page = a.cache.positions() < PAGE && a.tokens.len() > PAGE;
            fresh_page.then(|| a.tokens[..PAGE].to_vec())
        };
        let Some(mine) = first_page(&self.active[i]).filter(|_| self.active[i].cache.positions() == 0) else {
            return false;
        };
        self.config.prefix_cache && self.active[..i].iter().any(|a| first_page(a).as_ref() == Some(&mine))
    }

    /// Gives answers that have nothing yet what others have computed in the meantime.
    fn attach_prefixes(&mut self) {
        if !self.config.prefix_cache {
            return;
        }
        for a in self.active.iter_mut().filter(|a| a.cache.positions() == 0) {
            a.keys = self.prefixes.attach(&a.tokens, &mut a.cache);
            a.cached_tokens = a.cached_tokens.max(a.cache.positions().min(a.prompt));
            self.stats.cached_tokens += a.cache.positions() as u64;
        }
    }

    /// Which rows the next forward pass has: a token of every answer under way, and a part of the prompts.
    fn plan(&mut self) -> Vec<Row> {
        let alone = self.active.iter().all(|a| a.missing() > 1);
        let mut prefill =
            if alone { self.config.prefill_chunk_alone } else { self.config.prefill_chunk }.max(1);
        let n = self.active.len();
        let mut counts = vec![0; n];
        for (count, a) in counts.iter_mut().zip(&self.active) {
            *count = usize::from(a.missing() == 1);
        }
        self.turn = self.turn.wrapping_add(1);
        for i in (0..n).map(|i| (i + self.turn) % n) {
            let missing = self.active[i].missing();
            if missing > 1 && !self.waits_for_another(i) {
                counts[i] = missing.min(prefill);
                prefill -= counts[i];
            }
        }
        let mut rows = Vec::new();
        for (sequence, (a, count)) in self.active.iter().zip(counts).enumerate() {
            let from = a.cache.positions();
            for position in from..from + count {
                let wants_logits = position + 1 == a.tokens.len();
                rows.push(Row { sequence, token: a.tokens[position], position, wants_logits });
            }
        }
        rows
    }

    /// Finds pages for the rows: drops pages that nobody uses, then lets the youngest answers wait.
    fn make_room(&mut self) -> Vec<Row> {
        loop {
            let rows = self.plan();
            let mut ends = vec![0; self.active.len()];
            for row in &rows {
                ends[row.sequence] = row.position + 1;
            }
            let new = |(a, end): (&Active<'_>, &usize)| {
                KvCache::pages_for(*end).saturating_sub(a.cache.page_count())
            };
            let needed: usize = self.active.iter().zip(&ends).map(new).sum();
            while self.pages_used() + needed > self.pages_max && self.prefixes.evict() {}
            if self.pages_used() + needed <= self.pages_max || self.active.len() == 1 {
                return rows;
            }
            if let Some(mut youngest) = self.active.pop() {
                youngest.cache.clear();
                youngest.keys.clear();
                self.stats.preemptions += 1;
                self.preempted.push_front(youngest);
            }
        }
    }

    /// Computes the embedding of one waiting text.
    fn embed(&mut self) {
        let Weights::Encoder(encoder) = &self.model.weights else { return };
        let Some((tokens, reply)) = self.shared.lock().texts.pop_front() else { return };
        self.stats.prompt_tokens += tokens.len() as u64;
        reply(encoder.embed(&self.backend, &tokens));
    }

    fn step(&mut self) {
        let Ok(decoder) = self.model.decoder() else { return };
        self.attach_prefixes();
        let rows = self.make_room();
        let wanted = rows.iter().filter(|r| r.wants_logits);
        // Owned, because the caches are borrowed next; mostly there is no bias at all.
        let biases: Option<Vec<Vec<(u32, f32)>>> =
            wanted.map(|r| self.active[r.sequence].greedy_biases().map(<[_]>::to_vec)).collect();
        let biases: Option<Vec<&[(u32, f32)]>> =
            biases.as_ref().map(|all| all.iter().map(Vec::as_slice).collect());
        let ask = biases.as_deref().map_or(Ask::Logits, Ask::Largest);
        let mut caches: Vec<_> = self.active.iter_mut().map(|a| &mut a.cache).collect();
        let given = match decoder.forward(&self.backend, &rows, &mut caches, ask, &mut self.scratch) {
            Ok(given) => given,
            Err(e) => {
                error!(%e, "a step failed");
                self.active.iter_mut().for_each(|a| a.fail(e.clone()));
                return;
            }
        };
        for row in &rows {
            match row.position < self.active[row.sequence].prompt {
                true => self.stats.prompt_tokens += 1,
                false => self.stats.generated_tokens += u64::from(row.wants_logits),
            }
        }
        self.keep_full_pages();
        self.choose(&rows, given);
    }

    /// Chooses a token for every row that has logits. Answers do not look at each other, so they are shared out among the workers.
    fn choose(&mut self, rows: &[Row], given: Vec<Given>) {
        type Chosen = Option<Result<(u32, Option<TokenLogprobs>), EngineError>>;
        let wanted = rows.iter().filter(|r| r.wants_logits).map(|r| r.sequence);
        let mut by_sequence: Vec<Option<Given>> = vec![None; self.active.len()];
        for (sequence, given) in wanted.zip(given) {
            by_sequence[sequence] = Some(given);
        }
        let mut items: Vec<(&mut Active<'m>, Option<Given>, Chosen)> =
            self.active.iter_mut().zip(by_sequence).map(|(a, given)| (a, given, None)).collect();
        self.backend.pool.for_each_chunk(&mut items, 1, &|_, items| {
            for (active, given, chosen) in items {
                *chosen = given.as_mut().map(|given| active.choose(given));
            }
        });
        for (active, _, chosen) in items {
            match chosen {
                None => active.report_prefill(),
                Some(Ok((token, logprobs))) => {
                    active.take(token, self.model.ends_turn(token), logprobs);
                }
                Some(Err(e)) => {
                    error!(%e, "an answer failed");
                    active.fail(e);
                }
            }
        }
    }

    /// Gives pages that became full to the prefix cache.
    fn keep_full_pages(&mut self) {
        if !self.config.prefix_cache {
            return;
        }
        for a in &mut self.active {
            while let Some(page) = a.cache.full_page(a.keys.len()) {
                let from = a.keys.len() * PAGE;
                let key = page_key(a.keys.last(), &a.tokens[from..from + PAGE]);
                self.prefixes.insert(key, page);
                a.keys.push(key);
            }
        }
    }
}
