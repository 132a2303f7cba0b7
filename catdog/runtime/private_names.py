"""Private names of Ray and Keras that catdog uses because no public one does the same.

Each comes with its purpose; a test looks for each of them in the installed version.
"""

from __future__ import annotations

_SHARED_ACTORS = "starting what Ray Data's jobs share on the head, whose node outlives drivers"
_OWN_KEY = "a token for each local cluster, in a process that may connect to others"

RAY = {
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator."
    "get_or_create_autoscaling_coordinator": _SHARED_ACTORS,
    "ray.data._internal.execution.node_trackers.actor_location."
    "get_or_create_actor_location_tracker": _SHARED_ACTORS,
    "ray.data._internal.stats.get_or_create_stats_actor": _SHARED_ACTORS,
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": "having local clusters listen on loopback only",
    "ray._private.utils.set_sigterm_handler": "keeping the command's own handling of SIGTERM",
    "ray._raylet.AuthenticationTokenLoader.reset_cache": _OWN_KEY,
    "ray._raylet.Config.initialize": _OWN_KEY,
    "ray._private.state.available_resources_per_node": "what others leave of the nodes with a label",
    "ray.experimental.internal_kv._internal_kv_get": "asking whether an autoscaler is at work",
}
# Earlier versions do without; `ray_quirks` and `embedded` say how.
RAY_SINCE = {
    "ray._raylet.AuthenticationTokenLoader.reset_cache": (2, 52),
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator."
    "get_or_create_autoscaling_coordinator": (2, 53),
    "ray.data._internal.stats.get_or_create_stats_actor": (2, 52),
}
KERAS = {
    "keras.Optimizer._all_reduce_sum_gradients": "clipping gradients that are summed already",
    "keras.layers.Layer._outbound_nodes": "knowing that nothing but the pooling uses a ReLU",
}
