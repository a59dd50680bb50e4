"""The processors of a pack: those in its folder."""

from typing import Any

from lerobot.policies.factory import make_pre_post_processors

from lerobot_policy_vlapack.configuration_vlapack import VlapackConfig


def make_vlapack_pre_post_processors(
    config: VlapackConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Read both from the pack; statistics of another data set are no part of it.

    Raises:
        ValueError: the configuration came from no pack.
    """
    if not config.pretrained_path:
        raise ValueError("a vlapack policy is a pack: give --policy.path=PACK, whose folder holds its processors")
    return make_pre_post_processors(config, pretrained_path=str(config.pretrained_path))
