use crate::{
    Block, Executed, LedgerError, State,
    execute::Results,
    state::{AccountChange, Changes},
};
use alloy_consensus::ReceiptEnvelope;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::{Decodable as _, RlpDecodable, RlpEncodable};
use imbl::OrdMap;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::InMemoryBackend};
use std::{path::Path, sync::Arc};

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
const CERTIFICATES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("certificates");
const NUMBERS: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("numbers");
const TRANSACTIONS: TableDefinition<'_, [u8; 32], (u64, u32)> = TableDefinition::new("transactions");
const ACCOUNTS: TableDefinition<'_, [u8; 20], &[u8]> = TableDefinition::new("accounts");
const STORAGE: TableDefinition<'_, [u8; 52], [u8; 32]> = TableDefinition::new("storage");
const CODES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("codes");

/// Hashes that are read back for the EVM's BLOCKHASH.
const ANCESTORS: u64 = 256;

#[derive(RlpEncodable, RlpDecodable)]
struct StoredAccount {
    nonce: u64,
    balance: U256,
    code_hash: B256,
}

/// Final blocks, receipts, certificates and the newest state on disk (redb: ACID, one file).
///
/// One final block is one transaction of the store: after a crash at any point, either all of it is there or nothing.
pub struct Store(Database);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

fn fault(e: impl std::fmt::Display) -> LedgerError {
    LedgerError::Store(e.to_string())
}

fn storage_key(address: &Address, slot: &U256) -> [u8; 52] {
    let mut key = [0u8; 52];
    key[..20].copy_from_slice(address.as_slice());
    key[20..].copy_from_slice(&slot.to_be_bytes::<32>());
    key
}

impl Store {
    /// Opens or creates the store in the file `path`.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the file cannot be opened or another process has it open.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let named = |e: redb::DatabaseError| LedgerError::Store(format!("{}: {e}", path.display()));
        Self::prepare(Database::create(path).map_err(named)?)
    }

    /// A store that lives in memory, for tests and simulations.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn in_memory() -> Result<Self, LedgerError> {
        Self::prepare(Database::builder().create_with_backend(InMemoryBackend::new()).map_err(fault)?)
    }

    fn prepare(db: Database) -> Result<Self, LedgerError> {
        let write = db.begin_write().map_err(fault)?;
        write.open_table(BLOCKS).map_err(fault)?;
        write.open_table(RECEIPTS).map_err(fault)?;
        write.open_table(CERTIFICATES).map_err(fault)?;
        write.open_table(NUMBERS).map_err(fault)?;
        write.open_table(TRANSACTIONS).map_err(fault)?;
        write.open_table(ACCOUNTS).map_err(fault)?;
        write.open_table(STORAGE).map_err(fault)?;
        write.open_table(CODES).map_err(fault)?;
        write.commit().map_err(fault)?;
        Ok(Self(db))
    }

    /// Writes a final block, its receipts and state changes, and its certificate when there is one. Durable on return.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn commit(&self, executed: &Executed, certificate: Option<&[u8]>) -> Result<(), LedgerError> {
        let number = executed.number();
        let write = self.0.begin_write().map_err(fault)?;
        {
            let mut blocks = write.open_table(BLOCKS).map_err(fault)?;
            blocks.insert(number, executed.block().encode().as_slice()).map_err(fault)?;
            let mut receipts = write.open_table(RECEIPTS).map_err(fault)?;
            let mut encoded = Vec::new();
            alloy_rlp::encode_list(executed.receipts(), &mut encoded);
            receipts.insert(number, encoded.as_slice()).map_err(fault)?;
            let mut numbers = write.open_table(NUMBERS).map_err(fault)?;
            numbers.insert(executed.hash().0, number).map_err(fault)?;
            let mut transactions = write.open_table(TRANSACTIONS).map_err(fault)?;
            for (index, tx) in executed.block().transactions.iter().enumerate() {
                transactions.insert(tx.tx_hash().0, (number, index as u32)).map_err(fault)?;
            }
            if let Some(bytes) = certificate {
                write.open_table(CERTIFICATES).map_err(fault)?.insert(number, bytes).map_err(fault)?;
            }
        }
        write_changes(&write, executed.changes())?;
        write.commit().map_err(fault)
    }

    /// Keeps the certificate of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn put_certificate(&self, number: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let mut write = self.0.begin_write().map_err(fault)?;
        // Losing the newest certificate in a crash loses nothing: consensus can give it again.
        write.set_durability(redb::Durability::None).map_err(fault)?;
        write.open_table(CERTIFICATES).map_err(fault)?.insert(number, bytes).map_err(fault)?;
        write.commit().map_err(fault)
    }

    /// The certificate of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn certificate(&self, number: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let table = read.open_table(CERTIFICATES).map_err(fault)?;
        Ok(table.get(number).map_err(fault)?.map(|v| v.value().to_vec()))
    }

    /// Block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn block(&self, number: u64) -> Result<Option<Block>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let table = read.open_table(BLOCKS).map_err(fault)?;
        table.get(number).map_err(fault)?.map(|v| Block::decode(v.value())).transpose()
    }

    /// Hash of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn block_hash(&self, number: u64) -> Result<Option<B256>, LedgerError> {
        Ok(self.block(number)?.map(|b| b.hash()))
    }

    /// Number of the block with `hash`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn number(&self, hash: &B256) -> Result<Option<u64>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let table = read.open_table(NUMBERS).map_err(fault)?;
        Ok(table.get(hash.0).map_err(fault)?.map(|v| v.value()))
    }

    /// Receipts of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn receipts(&self, number: u64) -> Result<Option<Vec<ReceiptEnvelope>>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let table = read.open_table(RECEIPTS).map_err(fault)?;
        let Some(bytes) = table.get(number).map_err(fault)? else { return Ok(None) };
        Vec::decode(&mut bytes.value()).map(Some).map_err(fault)
    }

    /// Block and position of a transaction.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn transaction(&self, hash: &B256) -> Result<Option<(u64, u32)>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let table = read.open_table(TRANSACTIONS).map_err(fault)?;
        Ok(table.get(hash.0).map_err(fault)?.map(|v| v.value()))
    }

    /// The newest final block with its state, or `None` in an empty store.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when the stored state does not hash to the root in the stored header.
    pub fn load_head(&self) -> Result<Option<Executed>, LedgerError> {
        let read = self.0.begin_read().map_err(fault)?;
        let blocks = read.open_table(BLOCKS).map_err(fault)?;
        let Some((number, bytes)) = blocks.last().map_err(fault)? else { return Ok(None) };
        let number = number.value();
        let block = Block::decode(bytes.value())?;
        let state = State::default().apply(&read_changes(&read)?);
        let (found, expected) = (state.root(), block.header.state_root);
        if found != expected {
            return Err(LedgerError::Damaged { number, found, expected });
        }
        let mut hashes = OrdMap::new();
        for n in number.saturating_sub(ANCESTORS - 1)..number {
            if let Some(bytes) = blocks.get(n).map_err(fault)? {
                hashes.insert(n, Block::decode(bytes.value())?.hash());
            }
        }
        let receipts = self.receipts(number)?.unwrap_or_default();
        // Outcomes are for those who watch blocks as they are executed; queries recompute them.
        let results = Results { receipts, outcomes: vec![] };
        Ok(Some(Executed::new(Arc::new(block), state, results, Changes::default(), hashes)))
    }
}

fn write_changes(write: &redb::WriteTransaction, changes: &Changes) -> Result<(), LedgerError> {
    let mut accounts = write.open_table(ACCOUNTS).map_err(fault)?;
    let mut storage = write.open_table(STORAGE).map_err(fault)?;
    let mut codes = write.open_table(CODES).map_err(fault)?;
    for (hash, code) in &changes.codes {
        codes.insert(hash.0, code.as_ref()).map_err(fault)?;
    }
    for (address, change) in &changes.accounts {
        if change.cleared || change.info.is_none() {
            let range = storage_key(address, &U256::ZERO)..=storage_key(address, &U256::MAX);
            storage.retain_in(range, |_, _| false).map_err(fault)?;
        }
        let Some((nonce, balance, code_hash)) = change.info else {
            accounts.remove(address.0.0).map_err(fault)?;
            continue;
        };
        let stored = alloy_rlp::encode(StoredAccount { nonce, balance, code_hash });
        accounts.insert(address.0.0, stored.as_slice()).map_err(fault)?;
        for (slot, value) in &change.storage {
            let key = storage_key(address, slot);
            if value.is_zero() {
                storage.remove(key).map_err(fault)?;
            } else {
                storage.insert(key, value.to_be_bytes::<32>()).map_err(fault)?;
            }
        }
    }
    Ok(())
}

fn read_changes(read: &redb::ReadTransaction) -> Result<Changes, LedgerError> {
    let mut changes = Changes::default();
    for entry in read.open_table(ACCOUNTS).map_err(fault)?.iter().map_err(fault)? {
        let (address, bytes) = entry.map_err(fault)?;
        let StoredAccount { nonce, balance, code_hash } =
            StoredAccount::decode(&mut bytes.value()).map_err(fault)?;
        let change = AccountChange { info: Some((nonce, balance, code_hash)), ..Default::default() };
        changes.accounts.insert(Address::from(address.value()), change);
    }
    for entry in read.open_table(STORAGE).map_err(fault)?.iter().map_err(fault)? {
        let (key, value) = entry.map_err(fault)?;
        let key = key.value();
        let address = Address::from_slice(&key[..20]);
        let account =
            changes.accounts.get_mut(&address).ok_or_else(|| fault("storage without an account"))?;
        account.storage.insert(U256::from_be_slice(&key[20..]), U256::from_be_bytes(value.value()));
    }
    for entry in read.open_table(CODES).map_err(fault)?.iter().map_err(fault)? {
        let (hash, code) = entry.map_err(fault)?;
        changes.codes.insert(B256::from(hash.value()), Bytes::copy_from_slice(code.value()));
    }
    Ok(changes)
}
