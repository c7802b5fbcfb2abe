use types::tlog::witness::Refusal;

/// A transparency log, as static files (C2SP tlog-tiles). Calls may read a disk; the server makes them off its own threads.
pub trait TransparencyLog: Send + Sync + 'static {
    /// The newest signed checkpoint, a [`Note`](types::tlog::Note).
    fn checkpoint(&self) -> String;

    /// Bytes of a tile of `width` hashes (1 to 256), or `None` when there is none so wide; see
    /// [`tiles::tile`](types::tlog::tiles::tile).
    fn tile(&self, level: u8, index: u64, width: u16) -> Option<Vec<u8>>;

    /// Bytes of a bundle of `width` entries (1 to 256), or `None` when there are not so many; see
    /// [`tiles::bundle`](types::tlog::tiles::bundle).
    fn entries(&self, index: u64, width: u16) -> Option<Vec<u8>>;
}

/// A witness of logs (C2SP tlog-witness). Calls may write to a disk; the server makes them off its own threads.
pub trait Witness: Send + Sync + 'static {
    /// Answers a request: signature lines. See
    /// [`types::tlog::witness::Witness::add_checkpoint`], which wants the time.
    ///
    /// # Errors
    /// [`Refusal`], which has the HTTP status.
    fn add_checkpoint(&self, body: &[u8]) -> Result<String, Refusal>;
}
