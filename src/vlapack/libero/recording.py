"""Where simulator scripts find the recorder; a policy server writes folders of the same form with it."""

from vlapack.recording import Recorder

__all__ = ["Recorder"]
