"""The GPU that work is to run on: is there one that can be used, what is it, and how much memory is free.

torch answers "no CUDA" in one breath for a build without CUDA, a missing or old driver, an empty machine and a hidden
card. Each of them has another remedy, so here each has a message of its own. Nothing is asked of a card before somebody
names the device `cuda`: asking makes a context, which takes memory and seconds.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from vlapack.errors import InputError
from vlapack.machine.memory import available_bytes

CPU = torch.device("cpu")
DEVICES = ("cpu", "cuda")
OTHER_WORDS = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "amd": "cuda"}
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
SMALLEST_CAPABILITY = (8, 0)
"""The first NVIDIA cards whose tensor cores Triton multiplies int8 with."""
AMD_ARCHITECTURES = ("gfx942", "gfx950", "gfx11", "gfx12")
"""AMD cards with integer matrix instructions, by the beginnings of their names."""
WITH_CUDA = "`pip install --force-reinstall torch --index-url https://pypi.org/simple` brings CUDA on Linux"
DRIVER_REMEDY = (
    "install NVIDIA's driver (Debian or Ubuntu: apt-get install -y nvidia-driver; in a container: start it with "
    "NVIDIA's container toolkit)"
)
DRIVER_FILES = (
    Path("/sys/module/nvidia/version"),
    Path("/proc/driver/nvidia/version"),
    Path("/sys/module/amdgpu/version"),
)
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"


@dataclass(frozen=True)
class Card:
    """One GPU: what results name it by.

    Attributes:
        name: as its maker calls it.
        architecture: what its code is compiled for: `sm_90`, `gfx942`.
        driver: its version; None where the system does not say.
    """

    name: str
    architecture: str
    driver: str | None

    def __str__(self) -> str:
        return ", ".join((self.name, self.architecture, *([f"driver {self.driver}"] if self.driver else [])))


def parse_device(device: str | torch.device) -> torch.device:
    """Return the device of that name; whether it is there is `require_gpu`'s to say.

    Raises:
        InputError: the text is no device; the message has the nearest one.
    """
    if isinstance(device, torch.device):
        return device
    kind, colon, index = device.partition(":")
    if kind not in DEVICES or (colon and not re.fullmatch(r"[0-9]{1,3}", index)):
        word = kind.lower()
        near = OTHER_WORDS.get(word) or next(iter(difflib.get_close_matches(word, DEVICES, n=1)), None)
        meant = f"did you mean {near}? " if near else ""
        raise InputError(f"`device={device!r}`: no such device; {meant}Give cpu, cuda, or cuda:1 for the second card")
    return CPU if kind == "cpu" else torch.device(device)


def find_device(device: str | torch.device) -> torch.device:
    """Return a device that is there, a GPU with its number.

    Raises:
        InputError: as in `parse_device` and `require_gpu`.
    """
    parsed = parse_device(device)
    return require_gpu(parsed) if parsed.type == "cuda" else parsed


def require_gpu(device: torch.device) -> torch.device:
    """Return a `cuda` device with its number, if torch can compute there.

    Raises:
        InputError: torch has no CUDA, the driver is missing or does not fit, there is no card, or none of that number.
    """
    asked = f"`device={str(device)!r}`"
    if not built_for_gpus():
        raise InputError(f"{asked}: torch {torch.__version__} is built without CUDA; {WITH_CUDA} (or give cpu)")
    if (trouble := why_no_gpu()) is not None:
        raise InputError(f"{asked}: {trouble}")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        there = ", ".join(f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(count))
        raise InputError(f"{asked}: there is no card with that number; there are {there}")
    found = torch.device("cuda", index)
    # Of a card that is too old for the kernels `unsupported` says so, and no newer torch would help.
    if unsupported(found) is None and (compiled := _lacks_code_for(found)) is not None:
        raise InputError(
            f"{asked}: this build of torch has no code for {card(found)}, only for {compiled}; install a newer torch "
            "(`pip install --upgrade torch`)"
        )
    return found


def built_for_gpus() -> bool:
    """Whether torch is a build for CUDA or ROCm."""
    return torch.version.cuda is not None or torch.version.hip is not None


def why_no_gpu() -> str | None:
    """Return why a torch that is built for GPUs cannot use one, with what helps; None where it can."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    else:
        if torch.cuda.device_count():
            return None
        said = "No GPUs are available"
    if "too old" in said:
        version = re.search(r"version (\d+)", said)
        number = int(version[1]) if version else 0
        here = f" (it goes up to CUDA {number // 1000}.{number % 1000 // 10})" if number else ""
        return (
            f"the driver is too old{here} for torch {torch.__version__}, which is built for CUDA {torch.version.cuda}; "
            "update the driver, or install torch for that CUDA (https://pytorch.org/get-started/locally)"
        )
    if "no NVIDIA driver" in said:
        if cards := nvidia_cards():
            return f"{cards} NVIDIA card{'s' if cards > 1 else ''} without a driver; {DRIVER_REMEDY}"
        return "no NVIDIA driver and no card; give cpu, or start this container with NVIDIA's toolkit"
    if "GPUs are available" in said:
        hidden = [f"{name}={os.environ[name]}" for name in VISIBLE if name in os.environ]
        return f"no card is available{f'; {hidden[0]} may hide it' if hidden else ''}; give cpu"
    return (
        f"the driver does not work: {said}; its library and its kernel module may differ: restart, or install it again"
    )


def nvidia_cards(bus: Path = PCI) -> int:
    """Count NVIDIA's cards on the PCI bus, which needs no driver; 0 where the system does not tell."""
    if not bus.is_dir():
        return 0
    return sum(
        _text(place / "vendor") == NVIDIA and _text(place / "class").startswith(DISPLAY) for place in bus.iterdir()
    )


@cache
def card(device: torch.device) -> Card:
    """Describe the card of a `cuda` device with a number."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        architecture = str(properties.gcnArchName).partition(":")[0]
    else:
        architecture = f"sm_{properties.major}{properties.minor}"
    return Card(properties.name, architecture, driver_version())


def unsupported(device: torch.device) -> str | None:
    """Return why the kernels do not run on a card; None where they do."""
    found = card(device)
    if torch.version.hip is not None:
        if found.architecture.startswith(AMD_ARCHITECTURES):
            return None
        return f"{found}: AMD's cards work from {', '.join(AMD_ARCHITECTURES)} on"
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) >= SMALLEST_CAPABILITY:
        return None
    return f"{found}: NVIDIA's cards work from sm_80 on (A100, RTX 30, Orin)"


def driver_version(files: tuple[Path, ...] = DRIVER_FILES) -> str | None:
    """Return the version of the driver's kernel module."""
    for file in files:
        if (text := _text(file)) and (version := re.search(r"\d+\.\d+(\.\d+)*", text)):
            return version[0]
    return None


def free_bytes(device: torch.device) -> int:
    """Memory that can be taken on a card now.

    A board that has one memory for both (Orin, Thor) counts the kernel's file cache as taken; Linux knows better.
    """
    free, _ = torch.cuda.mem_get_info(device)
    # What torch keeps of tensors that are gone, such as another policy's, is taken again first.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if torch.cuda.get_device_properties(device).is_integrated:
        return max(free, available_bytes() or 0)
    return free


def require_free(device: torch.device, needed: int, claim: str, remedy: str) -> None:
    """Refuse what a GPU has no memory for; a CPU is never asked.

    Args:
        device: where it would be, a GPU with its number.
        needed: its bytes.
        claim: what needs them and how many they are, for the message.
        remedy: what helps beside ending what else uses the card, for the message.

    Raises:
        InputError: with the bytes that are free.
    """
    if device.type != "cuda":
        return
    free = free_bytes(device)
    if needed > free:
        raise InputError(
            f"`device={str(device)!r}`: {claim}, and {card(device)} has {free / 1e9:.2f} GB free; stop what else "
            f"uses it, {remedy}"
        )


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _lacks_code_for(device: torch.device) -> str | None:
    """Return what torch is compiled for, where none of it runs on this card."""
    compiled = torch.cuda.get_arch_list()
    if torch.version.hip is not None or not compiled:
        return None
    properties = torch.cuda.get_device_properties(device)
    for name in compiled:
        kind, _, number = name.partition("_")
        major, minor = divmod(int(re.sub(r"\D", "", number) or 0), 10)
        same = major == properties.major and minor <= properties.minor
        older = (major, minor) <= (properties.major, properties.minor)
        if (same and kind == "sm") or (older and kind == "compute"):  # machine code; PTX, which the driver compiles
            return None
    return ", ".join(compiled)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
