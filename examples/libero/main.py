"""Quantize a policy as the OPENPI_DUQUANT_* variables say, and evaluate it in LIBERO.

The flags are those of openpi's examples/libero/main.py and of the DuQuant scripts guide:

    python examples/libero/main.py --args.headless --args.policy-config pi05_libero --args.policy-dir "$CKPT" \
        --args.task-suite-name libero_spatial --args.num-trials-per-task 20

With variables set, the pack in OPENPI_DUQUANT_PACKDIR is made, or used if it is there already (another pack there is
an error), and evaluated. OPENPI_DUQUANT_DRYRUN=1 lists the layers and stops. Without variables the float policy is
evaluated. With --host and --port, as in openpi's own script, the policy of a server (`vlapack serve`, or openpi's) is
evaluated, and no weights are needed here. Everything happens by the calls of `vlapack quantize` and `vlapack eval`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from vlapack.commands.eval import eval as evaluate
from vlapack.commands.inspect import inspect
from vlapack.commands.quantize import quantize
from vlapack.commands.shared_flags import PlayFlags, PolicyFlags
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say
from vlapack.errors import InputError
from vlapack.libero.suites import simulator
from vlapack.recipe.environment import PREFIX
from vlapack.recipe.resolve import RecipeFlags, resolve

SHIPPED = "tiny-libero"


@dataclass(frozen=True)
class Args:
    """What to evaluate, and on which episodes.

    Args:
        host: Evaluate the policy of a server, instead of a folder's: its name, or wss://NAME. Its key is read from
            VLAPACK_API_KEY. With --port alone, the server of this machine.
        port: Where that server listens; 8000 if only --host is given.
        policy_dir: A checkpoint folder or a pack; empty: tiny-libero, the policy that comes with the package.
        policy_config: What the policy in an openpi folder is: a configuration's name or JSON file.
        norm_stats: norm_stats.json or its folder, where it is not in the checkpoint.
        tokenizer: PaliGemma's SentencePiece model, where it is not found by itself.
        calib: Recorded observations to calibrate on. Default: the ones that come with the package.
        task_suite_name: libero_spatial, libero_object, libero_goal, libero_10 or libero_90.
        task_ids: Ids and ranges such as 0,3,6-7. Default: the tasks the policy says it was trained for, else all.
        num_trials_per_task: Episodes per task, from the official init states 0, 1, 2, …
        replan_steps: Actions carried out of each chunk before the next is asked for.
        seed: Root of the simulator's seed and of every episode's flow noise.
        baseline: Play the same episodes with the float policy too, and compare.
        compile: Compile the networks with torch.compile: minutes at first, faster chunks then. Off where one of
            OPENPI_DISABLE_TORCH_COMPILE, TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE is 1.
        workers: Processes that hold a simulator. No result depends on it.
        video_out_path: Folder for videos and results. Default: outputs/eval/<date>/<time>_<policy>.
        headless: Accepted as in the guide's commands; rendering never needs a screen.
    """

    host: Annotated[str | None, tyro.conf.arg(aliases=["--host"])] = None
    port: Annotated[int | None, tyro.conf.arg(aliases=["--port"])] = None
    policy_dir: str = ""
    policy_config: str | None = None
    norm_stats: Path | None = None
    tokenizer: Path | None = None
    calib: Path | None = None
    task_suite_name: str = "libero_spatial"
    task_ids: str | None = None
    num_trials_per_task: int = 50
    replan_steps: int = 5
    seed: int = 7
    baseline: bool = False
    compile: bool = False
    workers: int = 2
    video_out_path: Path | None = None
    headless: bool = True


def main(args: Args) -> int:
    """Quantize if variables say so, then evaluate; return the exit code."""
    if args.host is not None or args.port is not None:
        return play(args, server(args), policy_dir(args) if args.baseline else None)
    parent = policy_dir(args)
    if not any(name.startswith(PREFIX) for name in os.environ):
        return play(args, parent, parent)
    recipe, _, options = resolve(None, None, RecipeFlags(), os.environ)
    flags = opening(args, parent)
    if options.dryrun:
        say(f"{PREFIX}DRYRUN=1: these layers would be quantized; nothing is")
        return inspect(parent, config=flags.config, layers=True)
    pack = options.packdir or Path(f"duquant_packed_{recipe.digest()[:12]}")
    simulator()  # what could not be evaluated is not quantized either
    code = quantize(parent, out=pack, calib=args.calib, flags=flags)
    return play(args, str(pack), parent) if code == 0 else code


def play(args: Args, policy: str, parent: str | None) -> int:
    """Evaluate a policy, beside its float parent if that was asked for."""
    return evaluate(
        policy,
        baseline=parent if args.baseline else None,
        suite=args.task_suite_name,
        task_ids=args.task_ids,
        trials=args.num_trials_per_task,
        seed=args.seed,
        replan=args.replan_steps,
        playing=PlayFlags(workers=args.workers),
        out=args.video_out_path,
        flags=opening(args, parent),
    )


def opening(args: Args, parent: str | None) -> PolicyFlags:
    """What the folder does not say itself; the shipped one says what it is."""
    config = None if parent == SHIPPED else args.policy_config
    return PolicyFlags(config=config, norm_stats=args.norm_stats, tokenizer=args.tokenizer, compile=args.compile)


def server(args: Args) -> str:
    """Return the address of the policy server; what it serves was decided when it was started.

    Raises:
        InputError: something here says what to quantize or load.
    """
    given = [name for name in os.environ if name.startswith(PREFIX)]
    if args.policy_dir and not args.baseline:
        given.append("--args.policy-dir")
    if given:
        raise InputError(f"--host, --port: the server holds its policy already; drop {', '.join(given)}")
    host = args.host or "127.0.0.1"
    if host.startswith(("ws://", "wss://")):
        return host if args.port is None else f"{host}:{args.port}"
    return f"ws://{host}:{8000 if args.port is None else args.port}"


def policy_dir(args: Args) -> str:
    """Return the checkpoint to work on; a dry run may do with a configuration's name.

    Raises:
        InputError: a configuration of a policy that does not come with the package, and no folder.
    """
    if args.policy_dir:
        return args.policy_dir
    if args.policy_config in (None, SHIPPED.replace("-", "_")):
        return SHIPPED
    if os.environ.get(f"{PREFIX}DRYRUN") == "1":
        return str(args.policy_config)
    raise InputError(
        f"--args.policy-dir is empty: {args.policy_config} needs its checkpoint folder (is CKPT set?); without "
        f"--args.policy-config the policy that comes with the package, {SHIPPED}, is used"
    )


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
