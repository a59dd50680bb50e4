"""What a robot's own program imports: a policy behind a server, and one that is asked while the robot acts."""

from vlapack.serve.asynchronous import AsyncPolicy
from vlapack.serve.remote import RemotePolicy

__all__ = ["AsyncPolicy", "RemotePolicy"]
