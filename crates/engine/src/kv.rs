//! Keys and values of sequences, in pages that sequences with one beginning share.

use kernels::{KvPage, KvShape, PAGE};
use std::sync::Arc;
use types::B256;

/// A full page that may be shared, with the trace leaves of its positions.
#[derive(Clone, Debug)]
pub(crate) struct SharedPage {
    pub(crate) page: Arc<KvPage>,
    pub(crate) leaves: Vec<B256>,
}

/// Keys and values of one sequence, and the trace leaf of every position.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: KvShape,
    pages: Vec<Arc<KvPage>>,
    leaves: Vec<B256>,
}

impl KvCache {
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, pages: Vec::new(), leaves: Vec::new() }
    }

    /// Positions that are filled.
    pub(crate) fn positions(&self) -> usize {
        self.leaves.len()
    }

    /// Trace leaves of the filled positions.
    pub(crate) fn leaves(&self) -> &[B256] {
        &self.leaves
    }

    pub(crate) fn pages(&self) -> &[Arc<KvPage>] {
        &self.pages
    }

    /// Pages that `positions` positions need.
    pub(crate) fn pages_for(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    /// Makes room for `positions` positions.
    pub(crate) fn reserve(&mut self, positions: usize) {
        while self.pages.len() * PAGE < positions {
            self.pages.push(Arc::new(KvPage::new(self.shape)));
        }
    }

    /// Puts a full page, computed for the same tokens, behind what is there.
    pub(crate) fn attach(&mut self, shared: SharedPage) {
        assert!(
            self.leaves.len() == self.pages.len() * PAGE && shared.leaves.len() == PAGE,
            "whole pages only"
        );
        self.pages.push(shared.page);
        self.leaves.extend(shared.leaves);
    }

    /// Page `i`, when it is full.
    pub(crate) fn full_page(&self, i: usize) -> Option<SharedPage> {
        let leaves = self.leaves.get(i * PAGE..(i + 1) * PAGE)?.to_vec();
        Some(SharedPage { page: self.pages[i].clone(), leaves })
    }

    /// Stores the halves of key and value of `position`, which comes next or is under way.
    pub(crate) fn store(&mut self, layer: usize, position: usize, row: &[u16]) {
        assert!(position >= self.leaves.len(), "filled positions are never written again");
        self.reserve(position + 1);
        let page = Arc::get_mut(&mut self.pages[position / PAGE]);
        page.expect("a page that is still filled is never shared").store(layer, position % PAGE, row);
    }

    /// The halves of key and value of a filled position.
    pub(crate) fn row(&self, layer: usize, position: usize) -> Vec<u16> {
        self.pages[position / PAGE].row(layer, position % PAGE)
    }

    /// Notes that all layers of `position` are stored.
    pub(crate) fn advance(&mut self, position: usize, leaf: B256) {
        assert_eq!(position, self.leaves.len(), "rows of a sequence come in order");
        self.leaves.push(leaf);
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.leaves.clear();
    }
}
