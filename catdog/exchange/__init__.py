"""Models in and out: other people's files become model folders, ours become other runtimes' files."""

from catdog.exchange.config import ExportConfig, PackageConfig
from catdog.exchange.export import Exported, export
from catdog.exchange.package import Packaged, package

__all__ = ["ExportConfig", "Exported", "PackageConfig", "Packaged", "export", "package"]
