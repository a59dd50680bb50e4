"""The compiled half of the `cpu` engine (csrc/module.cpp). Addresses are `Tensor.data_ptr()`; 0 is an absent tensor."""

def available() -> list[str]: ...
def isa() -> str: ...
def choose(name: str) -> None: ...
def thread_source() -> str: ...
def waits() -> tuple[int, int]: ...
def meet(threads: int, times: int) -> None: ...
def peak(threads: int, rounds: int) -> float: ...
def stream(address: int, bytes: int, threads: int) -> float: ...
def all_finite(floats: int, count: int, bytes: int, exponent: int) -> bool: ...
def prepare(bits: int, outputs: int, inputs: int, stored: int, prepared: int, threads: int) -> None: ...
def restore(bits: int, outputs: int, inputs: int, prepared: int, stored: int) -> None: ...

Source = tuple[int, bool, int, int, int]
Steps = tuple[int, int, int, int, int, int, int, int, int, bool]
Results = tuple[int, int, int, int, int, bool]
Norm = tuple[int, int, int, int, int, int, int, float, int, int]
Weight = tuple[int, int, int, int, int, int]
Product = tuple[int, Steps, int, int, list[Weight]]

def activate(rows: int, channels: int, source: Source, steps: Steps, results: Results, threads: int, /) -> None: ...
def gelu(rows: int, channels: int, source: Source, steps: Steps, results: Results, threads: int, /) -> None: ...
def norm(
    rows: int, channels: int, source: Source, norm: Norm, steps: Steps, results: Results, threads: int, /
) -> None: ...
def turn(
    bf16: bool,
    batch: int,
    tokens: int,
    heads: int,
    groups: int,
    width: int,
    product: int,
    pitch: int,
    here: int,
    rest: int,
    rest_pitch: int,
    cos: int,
    sin: int,
    table_pitch: int,
    keys: int,
    values: int,
    capacity: int,
    first: int,
    queries: int,
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
def linear_gradient(
    rows: int,
    inputs: int,
    outputs: int,
    g: int,
    weight: int,
    bits: int,
    weight_scale: int,
    group: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def attend(
    bf16: bool,
    batches: int,
    groups: int,
    width: int,
    queries: int,
    shared: int,
    tokens: int,
    prefix: int,
    state_token: bool,
    exists: int,
    threads: int,
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
    out: int,
    out_batch: int,
    out_group: int,
    out_row: int,
    /,
) -> None: ...
def laid_out_elements(groups: int, room: int, width: int) -> tuple[int, int]: ...
def lay_out(
    batches: int,
    groups: int,
    room: int,
    width: int,
    laid_keys: int,
    laid_values: int,
    keys: int,
    values: int,
    first: int,
    count: int,
    threads: int,
    /,
) -> None: ...

class Expert:
    def __init__(self, width: int, heads: int, groups: int, head_dim: int, eps: float, norm: int, /) -> None: ...
    def add_layer(self, products: list[Product], first_norm: int, second_norm: int, /) -> None: ...
    def step(
        self,
        bf16: bool,
        batch: int,
        tokens: int,
        x: int,
        modulations: int,
        modulations_pitch: int,
        modulated: int,
        cos: int,
        sin: int,
        table_pitch: int,
        past: list[tuple[int, int, int, int]],
        capacity: int,
        exists: int,
        state_token: bool,
        out: int,
        threads: int,
        /,
    ) -> None: ...
