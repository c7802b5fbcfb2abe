"""Byte code by hand, for tests that need a contract of a few instructions. No test in here."""

REVERTS = "0x60006000fd"
LOOPS = "0x5b600056"
# sstore(0, calldataload(0)); log1(0, 32, topic 7)
STORES = "0x600035600055600035600052600760206000a100"
SLOT_0 = f"0x{0:064x}"


def word(number):
    """A number as 32 bytes in hexadecimal."""
    return f"0x{number:064x}"


def returns(code):
    """A contract that returns the word that `code` leaves on the stack."""
    return f"0x{code}60005260206000f3"


def deploys(runtime):
    """Init code of a short contract."""
    runtime = runtime.removeprefix("0x")
    size = len(runtime) // 2
    return f"0x60{size:02x}600c60003960{size:02x}6000f3{runtime}"
