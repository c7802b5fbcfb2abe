use crate::ports::ChainFault;
use alloy_primitives::Bytes;
use jsonrpsee::types::{ErrorObjectOwned, error::INVALID_PARAMS_CODE};
use serde_json::json;
use std::time::Duration;

/// geth's code for everything that the pool or the EVM refuses.
const SERVER_ERROR: i32 = -32000;
/// geth's code for a revert.
const REVERTED: i32 = 3;
/// The network's own code for "ask again in a second".
const NOT_FINALISED: i32 = -32001;

/// EIP-1474: limit exceeded.
const LIMIT_EXCEEDED: i32 = -32005;

pub(crate) type RpcResult<T> = Result<T, ErrorObjectOwned>;

pub(crate) fn invalid_params(message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS_CODE, message, None::<()>)
}

pub(crate) fn refused(message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(SERVER_ERROR, message, None::<()>)
}

/// Too many calls; says when to come back.
pub(crate) fn busy(retry_after: Duration) -> ErrorObjectOwned {
    let milliseconds = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
    let message = format!("too many calls; try again in {milliseconds} ms");
    ErrorObjectOwned::owned(LIMIT_EXCEEDED, message, Some(json!({"retryAfterMs": milliseconds})))
}

pub(crate) fn fault(fault: ChainFault) -> ErrorObjectOwned {
    match fault {
        ChainFault::Reverted(data) => {
            let message = match reason(&data) {
                Some(reason) => format!("execution reverted: {reason}"),
                None => "execution reverted".into(),
            };
            ErrorObjectOwned::owned(REVERTED, message, Some(data))
        }
        ChainFault::NotFinalised(_) => ErrorObjectOwned::owned(NOT_FINALISED, fault.to_string(), None::<()>),
        ChainFault::Coded { code, message } => ErrorObjectOwned::owned(code, message, None::<()>),
        other => refused(other.to_string()),
    }
}

/// The text of `Error(string)` or the meaning of `Panic(uint256)` (Solidity documentation, "Control structures").
fn reason(data: &Bytes) -> Option<String> {
    let (selector, rest) = data.split_at_checked(4)?;
    match selector {
        [0x08, 0xc3, 0x79, 0xa0] => {
            let len = usize::try_from(u64::from_be_bytes(rest.get(56..64)?.try_into().ok()?)).ok()?;
            let text = rest.get(64..64usize.checked_add(len)?)?;
            Some(String::from_utf8_lossy(text).into_owned())
        }
        [0x4e, 0x48, 0x7b, 0x71] => {
            let code = *rest.get(31)?;
            let meaning = match code {
                0x01 => "assert(false)",
                0x11 => "arithmetic underflow or overflow",
                0x12 => "division or modulo by zero",
                0x21 => "enum overflow",
                0x31 => "out-of-bounds array access; popping on an empty array",
                0x32 => "out-of-bounds access of an array or bytesN",
                0x41 => "out of memory",
                0x51 => "uninitialized function",
                _ => "unknown panic code",
            };
            Some(meaning.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;

    #[test]
    fn reasons_are_decoded_and_hostile_ones_survived() {
        let good = hex!(
            "08c379a00000000000000000000000000000000000000000000000000000000000000020000000000000000000000000000000000000000000000000000000000000000568656c6c6f000000000000000000000000000000000000000000000000000000"
        );
        assert_eq!(reason(&good.into()).as_deref(), Some("hello"));
        let mut huge = good;
        huge[4 + 32..4 + 64].fill(0xff);
        assert_eq!(reason(&huge.into()), None);
        let panic = hex!("4e487b710000000000000000000000000000000000000000000000000000000000000011");
        assert_eq!(reason(&panic.into()).as_deref(), Some("arithmetic underflow or overflow"));
        for n in 0..70 {
            let _ = reason(&Bytes::copy_from_slice(&good[..n]));
        }
    }
}
