"""LeRobot finds this package by its name and imports it: that registers the policy type `vlapack`."""

from lerobot_policy_vlapack.configuration_vlapack import VlapackConfig
from lerobot_policy_vlapack.modeling_vlapack import VlapackPolicy
from lerobot_policy_vlapack.processor_vlapack import make_vlapack_pre_post_processors

__all__ = ["VlapackConfig", "VlapackPolicy", "make_vlapack_pre_post_processors"]
