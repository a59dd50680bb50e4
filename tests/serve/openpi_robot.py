"""A robot with openpi's own client, in an environment that knows nothing of vlapack: run by test_openpi_client.py.

python openpi_robot.py PORT KEY FOLDER    FOLDER holds observations.npz; answers.npz and packed.bin are written
"""

import pathlib
import sys

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, key, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
assert np.__version__.startswith("1."), np.__version__
recorded = np.load(folder / "observations.npz")
client = WebsocketClientPolicy("127.0.0.1", port, api_key=key)
observations = [
    {
        "observation/image": recorded["image"][n],
        "observation/wrist_image": recorded["wrist_image"][n],
        "observation/state": recorded["state"][n],
        "prompt": str(recorded["prompt"][n]),
        "noise": recorded["noise"][n],
    }
    for n in range(len(recorded["state"]))
]
answers = [client.infer(observation) for observation in observations]
assert set(answers[0]) == {"actions", "policy_timing", "server_timing"}
assert "prev_total_ms" in answers[1]["server_timing"]
metadata = client.get_server_metadata()
np.savez(folder / "answers.npz", actions=[answer["actions"] for answer in answers], reset_pose=metadata["reset_pose"])
(folder / "packed.bin").write_bytes(msgpack_numpy.packb(observations[0]))
try:
    client.infer({"prompt": "what now?"})
except RuntimeError as error:
    assert "observation/image" in str(error), error  # noqa: PT017 - there is no pytest here
else:
    raise AssertionError("an observation without pictures was answered")
