"""What start-up costs on this machine: `ray.init()` and `import tensorflow`, each once."""

import json
import os
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

started = time.time()
import ray  # noqa: E402

ray.init(include_dashboard=False, log_to_driver=False)
ray_s = time.time() - started
started = time.time()
import tensorflow as tf  # noqa: E402, F401

print(json.dumps({"ray_init_s": ray_s, "import_tensorflow_s": time.time() - started}))
