//! Keys and values of sequences, in pages that sequences with one beginning share.

use kernels::{KvPage, KvShape, PAGE};
use std::sync::{Arc, Mutex, PoisonError};
use types::B256;

/// Numbers of the pages in a device's memory that nobody has.
#[derive(Debug)]
pub(crate) struct PagePool(Mutex<Vec<u32>>);

impl PagePool {
    /// A pool of `count` pages.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new((0..count as u32).rev().collect())))
    }

    fn take(self: &Arc<Self>) -> DevicePage {
        let number = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let number = number.expect("the scheduler takes no more pages than there are");
        DevicePage { number, pool: self.clone() }
    }
}

/// A page in a device's memory; it goes back to the pool when nobody has it any more.
#[derive(Debug)]
pub(crate) struct DevicePage {
    number: u32,
    pool: Arc<PagePool>,
}

impl Drop for DevicePage {
    fn drop(&mut self) {
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

/// A page that sequences may share, wherever it is.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Host(Arc<KvPage>),
    Device(Arc<DevicePage>),
}

impl Page {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => Arc::ptr_eq(a, b),
            (Self::Device(a), Self::Device(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether nobody else has it.
    pub(crate) fn is_free(&self) -> bool {
        match self {
            Self::Host(page) => Arc::strong_count(page) == 1,
            Self::Device(page) => Arc::strong_count(page) == 1,
        }
    }
}

/// A full page that may be shared, with the trace leaves of its positions.
#[derive(Clone, Debug)]
pub(crate) struct SharedPage {
    pub(crate) page: Page,
    pub(crate) leaves: Vec<B256>,
}

/// The pages of one sequence.
#[derive(Clone, Debug)]
enum Pages {
    Host(Vec<Arc<KvPage>>),
    Device(Arc<PagePool>, Vec<Arc<DevicePage>>),
}

/// Keys and values of one sequence, and the trace leaf of every position.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: KvShape,
    pages: Pages,
    leaves: Vec<B256>,
}

impl KvCache {
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, pages: Pages::Host(Vec::new()), leaves: Vec::new() }
    }

    /// A cache whose pages are numbers of `pool`.
    pub(crate) fn on_device(shape: KvShape, pool: Arc<PagePool>) -> Self {
        Self { shape, pages: Pages::Device(pool, Vec::new()), leaves: Vec::new() }
    }

    /// Positions that are filled.
    pub(crate) fn positions(&self) -> usize {
        self.leaves.len()
    }

    /// Trace leaves of the filled positions.
    pub(crate) fn leaves(&self) -> &[B256] {
        &self.leaves
    }

    /// Number of pages.
    pub(crate) fn page_count(&self) -> usize {
        match &self.pages {
            Pages::Host(pages) => pages.len(),
            Pages::Device(_, pages) => pages.len(),
        }
    }

    /// The pages in this machine's memory.
    pub(crate) fn pages(&self) -> &[Arc<KvPage>] {
        match &self.pages {
            Pages::Host(pages) => pages,
            Pages::Device(..) => &[],
        }
    }

    /// Numbers of the pages in the device's memory.
    pub(crate) fn device_pages(&self) -> Vec<u32> {
        match &self.pages {
            Pages::Host(_) => Vec::new(),
            Pages::Device(_, pages) => pages.iter().map(|p| p.number).collect(),
        }
    }

    /// Whether page `i` is `page`.
    pub(crate) fn holds(&self, i: usize, page: &Page) -> bool {
        self.page(i).is_some_and(|own| own.is(page))
    }

    fn page(&self, i: usize) -> Option<Page> {
        match &self.pages {
            Pages::Host(pages) => pages.get(i).cloned().map(Page::Host),
            Pages::Device(_, pages) => pages.get(i).cloned().map(Page::Device),
        }
    }

    /// Pages that `positions` positions need.
    pub(crate) fn pages_for(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    /// Makes room for `positions` positions.
    pub(crate) fn reserve(&mut self, positions: usize) {
        while self.page_count() * PAGE < positions {
            match &mut self.pages {
                Pages::Host(pages) => pages.push(Arc::new(KvPage::new(self.shape))),
                Pages::Device(pool, pages) => pages.push(Arc::new(pool.take())),
            }
        }
    }

    /// Puts a full page, computed for the same tokens, behind what is there.
    pub(crate) fn attach(&mut self, shared: SharedPage) {
        assert!(
            self.leaves.len() == self.page_count() * PAGE && shared.leaves.len() == PAGE,
            "whole pages only"
        );
        match (&mut self.pages, shared.page) {
            (Pages::Host(pages), Page::Host(page)) => pages.push(page),
            (Pages::Device(_, pages), Page::Device(page)) => pages.push(page),
            _ => unreachable!("an engine keeps all pages in one place"),
        }
        self.leaves.extend(shared.leaves);
    }

    /// Page `i`, when it is full.
    pub(crate) fn full_page(&self, i: usize) -> Option<SharedPage> {
        let leaves = self.leaves.get(i * PAGE..(i + 1) * PAGE)?.to_vec();
        Some(SharedPage { page: self.page(i)?, leaves })
    }

    /// Stores the halves of key and value of `position`, which comes next or is under way. A device stores them by itself.
    pub(crate) fn store(&mut self, layer: usize, position: usize, row: &[u16]) {
        assert!(position >= self.leaves.len(), "filled positions are never written again");
        self.reserve(position + 1);
        if let Pages::Host(pages) = &mut self.pages {
            let page = Arc::get_mut(&mut pages[position / PAGE]);
            page.expect("a page that is still filled is never shared").store(layer, position % PAGE, row);
        }
    }

    /// The halves of key and value of a filled position.
    pub(crate) fn row(&self, layer: usize, position: usize) -> Vec<u16> {
        self.pages()[position / PAGE].row(layer, position % PAGE)
    }

    /// Notes that all layers of `position` are stored.
    pub(crate) fn advance(&mut self, position: usize, leaf: B256) {
        assert_eq!(position, self.leaves.len(), "rows of a sequence come in order");
        self.leaves.push(leaf);
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        match &mut self.pages {
            Pages::Host(pages) => pages.clear(),
            Pages::Device(_, pages) => pages.clear(),
        }
        self.leaves.clear();
    }
}
