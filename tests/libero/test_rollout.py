"""The protocol of an episode, on a scene without a simulator."""

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.libero.rollout import rollout


class Corridor:
    """Done after `length` steps of +1 on the first axis; pictures are white only where asked for."""

    prompt = "go"
    max_steps = 23

    def __init__(self, length: float) -> None:
        self.length, self.at, self.rendered = length, 0.0, []

    def _observe(self, render: bool):
        picture = np.full((256, 256, 3), 255 if render else 0, dtype=np.uint8)
        state = np.array([self.at] + [0.0] * 7)
        return {
            "observation/image": picture,
            "observation/wrist_image": picture,
            "observation/state": state,
            "prompt": "go",
        }

    def reset(self, init_state: int):
        self.at, self.rendered = float(init_state), [0]
        return self._observe(True)

    def step(self, action, *, render: bool):
        self.at += action[0]
        if render:
            self.rendered.append(len(self.rendered))
        return self._observe(render), self.at >= self.length


def steady(observation):
    assert observation["observation/image"].all(), "the policy was shown a picture that was not rendered"
    return np.tile(np.array([1.0] + [0.0] * 6), (10, 1))


def test_success_ends_the_episode_at_that_step():
    episode = rollout(Corridor(7), steady, 0, replan=5)
    assert (episode.success, episode.steps, episode.timing.chunks) == (True, 7, 2)


def test_failure_uses_every_step_and_no_more():
    episode = rollout(Corridor(99), steady, 0, replan=5)
    assert (episode.success, episode.steps, episode.timing.chunks) == (False, 23, 5)


@pytest.mark.parametrize(("every", "pictures"), [(1, 24), (2, 12), (5, 5)])
def test_a_film_shows_every_so_many_steps_and_no_blank(every: int, pictures: int):
    shown: list[np.ndarray] = []
    rollout(Corridor(99), steady, 0, replan=4, film=shown.append, film_every=every)
    assert len(shown) == pictures
    assert all(frame.shape == (256, 512, 3) and frame.all() for frame in shown)


def test_a_film_ends_with_the_picture_of_success():
    shown: list[np.ndarray] = []
    assert rollout(Corridor(7), steady, 0, film=shown.append).steps == 7
    assert len(shown) == 8


def test_nothing_is_rendered_that_nobody_looks_at():
    scene = Corridor(99)
    rollout(scene, steady, 0, replan=4)
    assert len(scene.rendered) == 6


@pytest.mark.parametrize("chunk", [np.zeros((4, 7)), np.zeros((10, 8)), np.full((10, 7), np.nan)])
def test_unusable_chunk_is_refused(chunk):
    with pytest.raises(InputError, match="the policy gave"):
        rollout(Corridor(9), lambda _: chunk, 0, replan=5)
