"""Runs every step on drawn pictures; a trained model and a page come out."""

from catdog.demo import archives, drawings
from catdog.demo.story import DemoConfig, DemoResult, run

__all__ = ["DemoConfig", "DemoResult", "archives", "drawings", "run"]
