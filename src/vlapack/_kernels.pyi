"""The compiled half of the `cpu` engine (csrc/module.cpp). Addresses are `Tensor.data_ptr()`; 0 is an absent tensor."""

def available() -> list[str]: ...
def isa() -> str: ...
def choose(name: str) -> None: ...
def thread_source() -> str: ...
def peak(threads: int, rounds: int) -> float: ...
def stream(address: int, bytes: int, threads: int) -> float: ...
def all_finite(floats: int, count: int, bytes: int, exponent: int) -> bool: ...
def prepare(bits: int, outputs: int, inputs: int, stored: int, prepared: int, threads: int) -> None: ...
def restore(bits: int, outputs: int, inputs: int, prepared: int, stored: int) -> None: ...
def activate(
    rows: int,
    channels: int,
    x: int,
    bf16: bool,
    pitch: int,
    smooth: int,
    pre_rotation: int,
    pre_count: int,
    pre_size: int,
    permutation: int,
    permutation_bytes: int,
    rotation: int,
    count: int,
    size: int,
    transposed: bool,
    scale: int,
    largest: int,
    q: int,
    s: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def linear(
    rows: int,
    inputs: int,
    outputs: int,
    q: int,
    s: int,
    weight: int,
    bits: int,
    weight_scale: int,
    group: int,
    bias: int,
    out: int,
    bf16: bool,
    threads: int,
    /,
) -> None: ...
def attend(
    batches: int,
    groups: int,
    width: int,
    queries: int,
    shared: int,
    tokens: int,
    prefix: int,
    state_token: bool,
    query: int,
    query_batch: int,
    query_group: int,
    query_row: int,
    key: int,
    key_batch: int,
    key_group: int,
    key_token: int,
    value: int,
    value_batch: int,
    value_group: int,
    value_token: int,
    exists: int,
    out: int,
    threads: int,
    /,
) -> None: ...
