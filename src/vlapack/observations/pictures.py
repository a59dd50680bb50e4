"""Pictures that were recorded as files: PNG or JPEG in, uint8 RGB out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from vlapack.errors import InputError

# What Pillow raises on damaged files of the formats that people record in.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_rgb(source: Path | IO[bytes], where: str) -> np.ndarray:
    """Decode a picture, uint8 [H, W, 3].

    Raises:
        InputError: it cannot be decoded, or is no color picture (gray, with alpha, 16 bits): LeRobot gives no policy
            those, and converting them would be a guess. The message begins with `where`.
    """
    try:
        with Image.open(source) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except BROKEN as error:
        raise InputError(f"{where}: not a readable picture: {error}; copy it again") from error
    if mode != "RGB":
        raise InputError(f"{where}: a picture of mode {mode}; a policy sees RGB, 8 bits per channel")
    return pixels
