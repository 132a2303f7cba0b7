"""Models in and out: other people's files become model folders, ours become other runtimes' files.

A training run goes to MLflow.
"""

from catdog.exchange.config import ExportConfig, PackageConfig
from catdog.exchange.export import Exported, export
from catdog.exchange.package import Packaged, package
from catdog.exchange.tracking import tracked

__all__ = ["ExportConfig", "Exported", "PackageConfig", "Packaged", "export", "package", "tracked"]
