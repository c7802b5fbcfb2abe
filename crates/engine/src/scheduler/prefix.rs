use crate::kv::{KvCache, SharedPage};
use kernels::PAGE;
use std::collections::HashMap;

/// Names a full page: a hash over all tokens up to its end.
pub(super) type PageKey = [u8; 32];

/// Key of the page that holds `tokens` behind the page `before`.
pub(super) fn page_key(before: Option<&PageKey>, tokens: &[u32]) -> PageKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before.unwrap_or(&[0; 32]));
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Full pages of past and present sequences. Exact arithmetic makes them good for every sequence that begins with the same tokens.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    pages: HashMap<PageKey, (SharedPage, u64)>,
    clock: u64,
}

impl PrefixCache {
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Attaches all pages of `tokens` that are here, except that at least one token stays to be computed. Gives the keys of the attached
    /// pages.
    pub(super) fn attach(&mut self, tokens: &[u32], cache: &mut KvCache) -> Vec<PageKey> {
        let mut keys: Vec<PageKey> = Vec::new();
        let whole = tokens.len().saturating_sub(1) / PAGE;
        for page in tokens.chunks_exact(PAGE).take(whole) {
            let key = page_key(keys.last(), page);
            self.clock += 1;
            let Some((shared, used)) = self.pages.get_mut(&key) else { break };
            *used = self.clock;
            cache.attach(shared.clone());
            keys.push(key);
        }
        keys
    }

    /// Takes a full page.
    pub(super) fn insert(&mut self, key: PageKey, page: SharedPage) {
        self.clock += 1;
        let clock = self.clock;
        self.pages.entry(key).or_insert((page, clock));
    }

    /// Whether the page that `cache` holds at `i` is the one kept here, so that it is counted here.
    pub(super) fn holds(&self, key: &PageKey, cache: &KvCache, i: usize) -> bool {
        self.pages.get(key).is_some_and(|(shared, _)| cache.holds(i, &shared.page))
    }

    /// Drops the page that was not used for longest and that no sequence holds. False when there is none.
    pub(super) fn evict(&mut self) -> bool {
        let free = self.pages.iter().filter(|(_, (shared, _))| shared.page.is_free());
        let oldest = free.min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
        oldest.is_some_and(|key| self.pages.remove(&key).is_some())
    }
}
