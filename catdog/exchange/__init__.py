"""Models in and out: foreign files become model folders, model folders become files of other runtimes.

Training runs are logged to MLflow.
"""

from catdog.exchange.config import ExportConfig, PackageConfig
from catdog.exchange.export import Exported, export
from catdog.exchange.package import Packaged, package
from catdog.exchange.tracking import tracked

__all__ = ["ExportConfig", "Exported", "PackageConfig", "Packaged", "export", "package", "tracked"]
