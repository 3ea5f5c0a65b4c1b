"""Few-shot tasks: functions and images of which the learner sees a few labelled examples."""

from envs.few_shot.digits import DigitsConfig
from envs.few_shot.folders import FoldersConfig
from envs.few_shot.glyphs import GlyphsConfig
from envs.few_shot.omniglot import OmniglotConfig
from envs.few_shot.sinusoid import SinusoidConfig

__all__ = ["DigitsConfig", "FoldersConfig", "GlyphsConfig", "OmniglotConfig", "SinusoidConfig"]
