//! How revm is set up: rules, block environment, state access and the network's own precompiles.

use crate::{ChainParams, LedgerError, referee, state::State};
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, address};
use alloy_sol_types::SolValue as _;
use imbl::OrdMap;
use revm::{
    Context, DatabaseRef, MainBuilder as _, MainContext as _,
    context::{
        BlockEnv, Cfg, CfgEnv, ContextTr, Evm,
        result::{EVMError, InvalidTransaction},
    },
    context_interface::block::BlobExcessGasAndPrice,
    database_interface::{DBErrorMarker, Database},
    handler::{
        EthFrame, EthPrecompiles, MainnetContext, PrecompileProvider, instructions::EthInstructions,
        precompile_output_to_interpreter_result,
    },
    interpreter::{CallInputs, InterpreterResult, interpreter::EthInterpreter},
    precompile::{PrecompileHalt, PrecompileOutput},
    primitives::{AddressSet, hardfork::SpecId},
    state::{AccountInfo, Bytecode},
};
use types::Equivocation;
use verify::finality;

/// Ethereum rules in force.
pub(crate) const SPEC: SpecId = SpecId::OSAKA;

/// Precompile: input is vote key (96 bytes) ‖ proof (48 bytes) ‖ peer key (32 bytes) ‖ account (20 bytes); output is the word 1 when the holder of
/// the vote key signed for this registration, else 0.
pub const POSSESSION_PRECOMPILE: Address = address!("0000000000000000000000000000000000000a01");
/// Precompile: input is an [`Equivocation`]; output is `abi.encode(keccak256(vote key), epoch, view)` when it is proved, else empty.
pub const EQUIVOCATION_PRECOMPILE: Address = address!("0000000000000000000000000000000000000a02");

/// Precompile: the referee of disputes (`IReferee`); a refused call reverts with `Refused(string)`.
pub const REFEREE_PRECOMPILE: Address = address!("0000000000000000000000000000000000000a03");

/// About two pairings each, at the price of EIP-2537.
const POSSESSION_GAS: u64 = 150_000;
const EQUIVOCATION_GAS: u64 = 300_000;

impl DBErrorMarker for LedgerError {}

/// An EVM over `DB`, watched by `INSP`.
pub(crate) type OgEvm<DB, INSP = ()> = Evm<
    MainnetContext<DB>,
    INSP,
    EthInstructions<EthInterpreter, MainnetContext<DB>>,
    OgPrecompiles,
    EthFrame<EthInterpreter>,
>;

/// The EVM of a block; `tune` may relax the rules for calls that are not transactions.
pub(crate) fn evm<DB: Database>(
    db: DB,
    params: &ChainParams,
    genesis: B256,
    block: BlockEnv,
    tune: impl FnOnce(&mut CfgEnv),
) -> OgEvm<DB> {
    Context::mainnet()
        .with_db(db)
        .with_block(block)
        .modify_cfg_chained(|cfg| {
            cfg.chain_id = params.chain_id;
            cfg.set_spec_and_mainnet_gas_params(SPEC);
            tune(cfg);
        })
        .build_mainnet()
        .with_precompiles(OgPrecompiles::new(params.chain_id, genesis))
}

/// The environment of a block.
pub(crate) fn block_env(
    number: u64,
    timestamp: u64,
    beneficiary: Address,
    gas_limit: u64,
    base_fee: u64,
    prevrandao: B256,
) -> BlockEnv {
    BlockEnv {
        number: U256::from(number),
        beneficiary,
        timestamp: U256::from(timestamp),
        gas_limit,
        basefee: base_fee,
        difficulty: U256::ZERO,
        prevrandao: Some(prevrandao),
        // Blob transactions are refused, but the opcode BLOBBASEFEE needs a value.
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
        ..Default::default()
    }
}

/// Ethereum's precompiles and the network's own.
#[derive(Clone, Debug)]
pub(crate) struct OgPrecompiles {
    ethereum: EthPrecompiles,
    warm: AddressSet,
    chain_id: u64,
    genesis: B256,
}

impl OgPrecompiles {
    fn new(chain_id: u64, genesis: B256) -> Self {
        let ethereum = EthPrecompiles::new(SPEC);
        let mut warm = ethereum.warm_addresses().clone();
        warm.extend([POSSESSION_PRECOMPILE, EQUIVOCATION_PRECOMPILE, REFEREE_PRECOMPILE]);
        Self { ethereum, warm, chain_id, genesis }
    }

    fn possession(&self, input: &[u8]) -> Bytes {
        let good = input.len() == 196 && {
            let (vote, proof) =
                (FixedBytes::from_slice(&input[..96]), FixedBytes::from_slice(&input[96..144]));
            let (peer, operator) = (B256::from_slice(&input[144..176]), Address::from_slice(&input[176..]));
            finality::check_registration(self.chain_id, &vote, &proof, &peer, operator).is_ok()
        };
        U256::from(u8::from(good)).abi_encode().into()
    }

    fn equivocation(&self, input: &[u8]) -> Bytes {
        match Equivocation::decode(input) {
            Ok(evidence) if finality::check_equivocation(self.genesis, &evidence).is_ok() => {
                let key = alloy_primitives::keccak256(evidence.vote_key);
                (key, evidence.epoch, evidence.view).abi_encode().into()
            }
            _ => Bytes::new(),
        }
    }
}

impl<CTX: ContextTr<Cfg: Cfg<Spec = SpecId>>> PrecompileProvider<CTX> for OgPrecompiles {
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: SpecId) -> bool {
        PrecompileProvider::<CTX>::set_spec(&mut self.ethereum, spec)
    }

    fn run(&mut self, context: &mut CTX, inputs: &CallInputs) -> Result<Option<InterpreterResult>, String> {
        let gas = match inputs.bytecode_address {
            POSSESSION_PRECOMPILE => POSSESSION_GAS,
            EQUIVOCATION_PRECOMPILE => EQUIVOCATION_GAS,
            REFEREE_PRECOMPILE => referee::gas(&inputs.input.as_bytes(context)),
            _ => return self.ethereum.run(context, inputs),
        };
        let output = if gas > inputs.gas_limit {
            PrecompileOutput::halt(PrecompileHalt::OutOfGas, inputs.reservoir)
        } else {
            let input = inputs.input.as_bytes(context);
            match inputs.bytecode_address {
                POSSESSION_PRECOMPILE => {
                    PrecompileOutput::new(gas, self.possession(&input), inputs.reservoir)
                }
                REFEREE_PRECOMPILE => match referee::call(self.chain_id, self.genesis, &input) {
                    Ok(bytes) => PrecompileOutput::new(gas, bytes, inputs.reservoir),
                    Err(reason) => PrecompileOutput::revert(gas, reason, inputs.reservoir),
                },
                _ => PrecompileOutput::new(gas, self.equivocation(&input), inputs.reservoir),
            }
        };
        Ok(Some(precompile_output_to_interpreter_result(output, inputs.gas_limit)))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &self.warm
    }
}

/// revm's read access to a [`State`].
#[derive(Clone, Debug, Default)]
pub(crate) struct StateView {
    pub(crate) state: State,
    pub(crate) hashes: OrdMap<u64, B256>,
}

impl DatabaseRef for StateView {
    type Error = LedgerError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, LedgerError> {
        Ok(self.state.account(&address)?.map(|a| AccountInfo {
            balance: a.balance,
            nonce: a.nonce,
            code_hash: a.code_hash,
            code: None,
            ..Default::default()
        }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, LedgerError> {
        Ok(self.state.code_by_hash(&hash)?.map(Bytecode::new_raw).unwrap_or_default())
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, LedgerError> {
        self.state.storage(address, slot)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, LedgerError> {
        Ok(self.hashes.get(&number).copied().unwrap_or_default())
    }
}

/// EIP-7825: most gas of one transaction.
pub(crate) const TX_GAS_LIMIT_CAP: u64 = 1 << 24;

/// The EVM's refusal in geth's words, where it has one. A fault of the disk stays one.
pub(crate) fn evm_error(error: EVMError<LedgerError>) -> LedgerError {
    match error {
        EVMError::Database(fault) => fault,
        EVMError::Transaction(e) => LedgerError::Call(in_words(&e)),
        other => LedgerError::Call(format!("{other:?}")),
    }
}

/// What geth says of an invalid transaction.
fn in_words(error: &InvalidTransaction) -> String {
    use InvalidTransaction as E;
    match error {
        E::LackOfFundForMaxFee { fee, balance } => {
            format!("insufficient funds for gas * price + value: have {balance} want {fee}")
        }
        E::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
            format!("intrinsic gas too low: have {gas_limit}, want {initial_gas}")
        }
        E::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => {
            format!("insufficient gas for floor data gas cost: have {gas_limit}, want {gas_floor}")
        }
        E::GasPriceLessThanBasefee => "max fee per gas less than block base fee".into(),
        E::PriorityFeeGreaterThanMaxFee => "max priority fee per gas higher than max fee per gas".into(),
        E::NonceTooLow { tx, state } => format!("nonce too low: tx: {tx} state: {state}"),
        E::NonceTooHigh { tx, state } => format!("nonce too high: tx: {tx} state: {state}"),
        E::CreateInitCodeSizeLimit => "max initcode size exceeded".into(),
        other => other.to_string(),
    }
}

/// The code that `eth_simulateV1` has for an error (execution-apis, `eth_simulateV1`).
pub(crate) fn simulation_error(error: EVMError<LedgerError>) -> LedgerError {
    use InvalidTransaction as E;
    let EVMError::Transaction(invalid) = &error else { return evm_error(error) };
    let code = match invalid {
        E::NonceTooLow { .. } => -38010,
        E::NonceTooHigh { .. } => -38011,
        E::GasPriceLessThanBasefee => -38012,
        E::CallGasCostMoreThanGasLimit { .. } | E::GasFloorMoreThanGasLimit { .. } => -38013,
        E::LackOfFundForMaxFee { .. } => -38014,
        E::CallerGasLimitMoreThanBlock => -38015,
        E::CreateInitCodeSizeLimit => -38025,
        _ => -32000,
    };
    LedgerError::Simulation { code, message: in_words(invalid) }
}
