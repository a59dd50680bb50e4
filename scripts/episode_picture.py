"""Draw the README's picture: one episode, the float policy beside its pack, as an animation.

    vlapack eval PACK --baseline tiny-libero --task-ids 6 --trials 1 --out RUN
    python scripts/episode_picture.py RUN --task-id 6

Both started from the same state with the same noise. The captions come from the run's own `episodes.jsonl`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import tyro
from PIL import Image, ImageDraw

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "episode.gif"
FLOAT, PACKED = "baseline", "policy"
FOLDERS = {FLOAT: "videos/baseline", PACKED: "videos"}
SIDE, CAPTION, GAP = 256, 22, 8
MOST, HELD, COLORS = 50, 8, 128
"""At most so many frames; the last one stays; few colors make a small file."""


def main(
    run: tyro.conf.Positional[Path],
    *,
    suite: str = "libero_spatial",
    task_id: int = 6,
    init_state: int = 0,
    out: Path = PICTURE,
) -> None:
    """Draw.

    Args:
        run: A folder of `vlapack eval` with a baseline.
        suite: Of the episode.
        task_id: Of the episode.
        init_state: Of the episode.
        out: The animation.
    """
    wanted = (suite, task_id, init_state)
    with (run / "episodes.jsonl").open(encoding="utf-8") as lines:
        episodes = [json.loads(line) for line in lines]
    played = {each["role"]: each for each in episodes if (each["suite"], each["task_id"], each["init_state"]) == wanted}
    name = f"{suite}_{task_id}/eval_episode_{init_state}.mp4"
    files = {role: run / folder / name for role, folder in FOLDERS.items()}
    videos = {role: imageio.imread(file) for role, file in files.items()}
    every = -(-max(map(len, videos.values())) // MOST)
    videos = {role: video[::every] for role, video in videos.items()}
    milliseconds = round(1000 * every / imageio.immeta(files[FLOAT])["fps"])  # real time
    longest = max(map(len, videos.values())) + HELD
    frames = [_frame(videos, played, number) for number in range(longest)]
    palette = frames[len(frames) // 2].quantize(COLORS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(out, save_all=True, append_images=small[1:], duration=milliseconds, loop=0, optimize=True)


def _frame(videos: dict[str, np.ndarray], played: dict[str, dict[str, Any]], number: int) -> Image.Image:
    picture = Image.new("RGB", (2 * SIDE + GAP, SIDE + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for place, (role, video) in enumerate(videos.items()):
        left, episode = place * (SIDE + GAP), played[role]
        shown = min(number, len(video) - 1)
        picture.paste(Image.fromarray(video[shown][:SIDE, :SIDE]), (left, CAPTION))
        over = number >= len(video) - 1
        state = f"{'success' if episode['success'] else 'failure'} after {episode['steps']} steps"
        megabytes = f"{episode['held_bytes'] / 1e6:.1f} MB"
        title = "float" if role == FLOAT else "packed"
        draw.text((left + 4, 5), f"{title}, {megabytes}{': ' + state if over else ''}", fill="black")
    return picture


if __name__ == "__main__":
    tyro.cli(main)
