"""Every step on drawn pictures: nothing comes in, a trained model and its page go out."""

from catdog.demo import archives, drawings
from catdog.demo.story import DemoConfig, DemoResult, run

__all__ = ["DemoConfig", "DemoResult", "archives", "drawings", "run"]
