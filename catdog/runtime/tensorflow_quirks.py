"""The one place for the quirks of TensorFlow and Keras, with explanations."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from catdog import machine

if TYPE_CHECKING:
    from catdog.runtime.all_reduce import SharedMemoryAllReduce

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def prepare_environment() -> None:
    """Set the variables that TensorFlow reads when a process first imports it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up chatter of the C++ runtime
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


_EXTRAS_OF_KERAS = ("matplotlib", "sklearn")


def import_keras(threads: int, *, lean: bool = False) -> Any:
    """Import Keras 3 on TensorFlow with a bounded number of threads.

    Args:
        threads: operator threads of this process; TensorFlow's own default is all cores, even if
            other workers need their share of them.
        lean: leave out Keras' plots and its wrappers for scikit-learn, whose libraries take a third
            of the import's time. Only for processes that run nothing but this package.
    """
    prepare_environment()
    with _without(_EXTRAS_OF_KERAS) if lean else contextlib.nullcontext():
        import tensorflow as tf  # it imports Keras

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(2)  # compute and collectives
    except RuntimeError:
        pass  # TensorFlow already runs in this process; its threads are what they are
    import keras

    return keras


@contextlib.contextmanager
def _without(modules: Iterable[str]) -> Iterator[None]:
    """Have imports of these modules fail within the block, as if they were not installed."""
    missing = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is what import asks for
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def resolve_precision(
    precision: Precision, *, gpu: bool
) -> Literal["float32", "bfloat16", "float16"]:
    """The precision that `auto` means on this machine.

    bfloat16 if the CPU has hardware for it (AVX512-BF16 or AMX: 1.7 times as fast in training,
    3.5 times in inference, measured), float16 on GPUs, float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if gpu:
        return "float16"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU has hardware for bfloat16 (Linux on x86; False elsewhere)."""
    return bool({"amx_bf16", "avx512_bf16"} & machine.cpu_flags())


def dtype_policy(precision: Literal["float32", "bfloat16", "float16"]) -> str:
    """Keras' name of the policy that computes in `precision` and keeps float32 weights."""
    return "float32" if precision == "float32" else f"mixed_{precision}"


SumOverWorkers = Callable[..., list[Any]]
"""Sums each float32 tensor of a list over the workers; all call it equally often, in the same order.

With `passing=True` the sums only need to last until the next call.
"""


def train_backend() -> Any:
    """A backend for Ray Train that tells each worker the addresses of all, in TensorFlow's form.

    Ray's own backend does the same. But it imports TensorFlow and Keras, with everything that
    `import_keras` can leave out, in the driver, then in Ray Train's controller, then in each worker, one
    after the other, before a worker begins.
    """
    import ray
    from ray.train.backend import Backend, BackendConfig

    class TellAddresses(Backend):  # type: ignore[misc]  # Ray has no types
        def on_start(self, worker_group: Any, _: BackendConfig) -> None:
            addresses = worker_group.execute(_free_address)
            ray.get(
                [
                    worker_group.execute_single_async(number, _set_addresses, addresses, number)
                    for number in range(len(worker_group))
                ]
            )

    class Config(BackendConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return TellAddresses

    return Config()


def _free_address() -> str:
    """This node's address and a free port, on a training worker."""
    import ray

    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _set_addresses(addresses: list[str], number: int) -> None:
    """Set `TF_CONFIG`: the addresses of all workers, and the number of this one."""
    task = {"type": "worker", "index": number}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})


def multi_worker_strategy() -> Any:
    """The strategy for the workers that Ray Train started with `train_backend`.

    By default a collective waits for a dead worker for ever. With a timeout the survivors fail, and Ray
    Train restarts the group.
    """
    import tensorflow as tf

    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=COLLECTIVE_TIMEOUT_S)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def traced(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`tf.function`, without rewriting Python's `if` and `for`.

    TensorFlow writes the rewritten code to temporary files, which a killed process leaves behind.

    Args:
        function: a function from tensors to tensors.
        options: options of `tf.function`.
    """
    import tensorflow as tf

    one: Callable[..., Any] = tf.function(function, autograph=False, **options)
    return one


@contextlib.contextmanager
def without_generated_files() -> Iterator[None]:
    """At the end of the block, remove the code files that TensorFlow generated.

    Keras' exports rewrite functions into temporary files. TensorFlow removes them when the interpreter
    exits, for which workers and commands do not wait.
    """
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name.startswith("__autograph_generated_file") and path:
                compiled_to = Path(importlib.util.cache_from_source(path))
                for each in (Path(path), compiled_to):
                    with contextlib.suppress(OSError):
                        each.unlink()
                with contextlib.suppress(OSError):  # others may have something there
                    compiled_to.parent.rmdir()


def compiled(function: Callable[..., Any], *, assigns: bool = False) -> Callable[..., Any]:
    """Have XLA compile a chain of elementwise operations into one pass, on CPUs.

    With XLA on CPUs, whole networks are slower, but long chains three times as fast (measured).

    Args:
        function: a function from tensors to tensors.
        assigns: whether it assigns to variables. XLA cannot compile that under a distribution
            strategy, where the function then stays as it is.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") or (assigns and tf.distribute.has_strategy()):
        return function
    return traced(function, jit_compile=True)


def sum_by_collectives(tensors: list[Any], *, passing: bool = False) -> list[Any]:
    """`SumOverWorkers` through TensorFlow's collectives; call it within `run` of `multi_worker_strategy`."""
    import tensorflow as tf

    del passing  # they are TensorFlow's own
    # The identity gives a value a device, which the collective asks for.
    identities = [tf.identity(tensor) for tensor in tensors]
    summed: list[Any] = tf.distribute.get_replica_context().all_reduce("SUM", identities)
    return summed


def sum_by(all_reduce: SharedMemoryAllReduce) -> SumOverWorkers:
    """`SumOverWorkers` through shared memory."""
    import tensorflow as tf

    last: list[Any] = []

    def sum_over_workers(tensors: list[Any], *, passing: bool = False) -> list[Any]:
        def summed_arrays(*arrays: Any) -> list[Any]:
            sums = all_reduce.sum(arrays)
            # Copies of `article`'s gradient take as long as its sum.
            return sums if passing else [each.copy() for each in sums]

        # A graph runs operations that do not need each other in any order, each worker its own.
        graph = tf.compat.v1.get_default_graph()
        before = [operation for operation in last if operation.graph is graph]
        with tf.control_dependencies(before):
            summed: list[Any] = tf.numpy_function(
                summed_arrays, tensors, [tf.float32] * len(tensors)
            )
        for tensor, one in zip(tensors, summed, strict=True):
            one.set_shape(tensor.shape)
        if not tf.executing_eagerly():
            last[:] = [summed[0].op]
        return summed

    return sum_over_workers


def expect_summed_gradients(optimizer: Any) -> None:
    """Have an optimizer accept gradients that are already summed over the workers.

    Keras' optimizer clips each worker's own gradients and sums them afterwards, which is not the
    clipping of one large batch. There is no public switch; a test of clipping with two workers
    fails if Keras renames this method.
    """
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables  # noqa: SLF001


def fuse_batch_norm(model: Any, workers: int, sum_over_workers: SumOverWorkers) -> None:
    """Have batch normalisation of images run as TensorFlow's fused operation, over all workers.

    Keras 3 writes it as a dozen float32 operations. On a CPU the fused operation makes the training step
    of a small network twice as fast (1.2 instead of 2.3 ms an image, measured), and it takes bfloat16.
    Keras' `synchronized=True` sums three tensors a layer over the workers, one after the other, and as
    many on the way back; one each way is enough.
    """
    import keras

    for layer in _layers(model):
        if (
            isinstance(layer, keras.layers.BatchNormalization)
            and len(layer.input.shape) == 4
            and layer.axis in (-1, 3)
        ):
            layer.call = functools.partial(_batch_norm, layer, workers, sum_over_workers)


def _layers(model: Any) -> Iterator[Any]:
    """Every layer of a model and of the models in it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def pool_before_relu(model: Any) -> None:
    """Have a convolution's ReLU run after the max pooling that follows it.

    ReLU and max pooling commute, and so do their gradients, bit for bit. But after the pooling there are
    four times fewer numbers, and TensorFlow's gradient of ReLU in bfloat16 is slow: it took 38 of 138 ms
    of `article`'s step (measured).
    """
    import keras

    layers = [model, *_layers(model)]
    results = {id(output) for layer in layers for output in getattr(layer, "outputs", ())}
    convolutions = {
        id(layer.output): layer
        for layer in layers
        if isinstance(layer, keras.layers.Conv2D)
        and layer.activation is keras.activations.relu
        and len(layer._outbound_nodes) == 1  # noqa: SLF001
        and id(layer.output) not in results
    }
    for pooling in layers:
        if isinstance(pooling, keras.layers.MaxPooling2D) and id(pooling.input) in convolutions:
            convolutions[id(pooling.input)].activation = keras.activations.linear
            pooling.call = functools.partial(_relu_of, pooling.call)


def _relu_of(call: Callable[[Any], Any], inputs: Any) -> Any:
    import tensorflow as tf

    def gradient(upstream: Any, output: Any) -> Any:
        return tf.raw_ops.ReluGrad(gradients=upstream, features=output)

    @tf.custom_gradient  # type: ignore[untyped-decorator, unused-ignore]
    def relu(inputs: Any) -> Any:
        output = tf.nn.relu(inputs)
        return output, lambda upstream: compiled(gradient)(upstream, output)

    return relu(call(inputs))


def _batch_norm(
    layer: Any,
    workers: int,
    sum_over_workers: SumOverWorkers,
    inputs: Any,
    training: bool = False,
    mask: Any = None,
) -> Any:
    """The computation of `layer.call`, for images (n, H, W, channels)."""
    import tensorflow as tf

    del mask  # images have none
    channels = layer.moving_mean.shape[0]
    scale = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones(channels)
    offset = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros(channels)
    if not (training and layer.trainable):
        moving = (
            tf.convert_to_tensor(layer.moving_mean),
            tf.convert_to_tensor(layer.moving_variance),
        )
        return _normalized(inputs, scale, offset, layer.epsilon, moving)[0]
    if workers == 1:
        output, mean, variance, *_ = _normalized(inputs, scale, offset, layer.epsilon)
    else:
        output, mean, variance = _globally_normalized(
            inputs, scale, offset, layer.epsilon, workers, sum_over_workers
        )
    for statistic, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        statistic.assign(statistic * layer.momentum + value * (1.0 - layer.momentum))
    return output


def _normalized(
    inputs: Any, scale: Any, offset: Any, epsilon: float, statistics: tuple[Any, Any] | None = None
) -> Any:
    """Normalise by a given mean and variance, by default those of this batch.

    Returns:
        The operation's six outputs, the first three: normalised inputs, mean, unbiased variance.
    """
    import tensorflow as tf

    mean, variance = statistics or (tf.zeros([0]), tf.zeros([0]))
    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=statistics is None,
    )


def _globally_normalized(
    inputs: Any,
    scale: Any,
    offset: Any,
    epsilon: float,
    workers: int,
    sum_over_workers: SumOverWorkers,
) -> tuple[Any, Any, Any]:
    """The same over the inputs of all workers, which have equal sizes.

    With statistics that depend on every input, the gradient of an input x is
    `scale / deviation * (g - sum(g) / m - x^ * sum(g x^) / m)`, where g is the output's gradient,
    x^ the normalised input and the sums go over all m inputs of all workers (Ioffe and Szegedy
    2015, section 3). The fused operation gives the first term and both of this worker's sums.
    """
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator, unused-ignore]
    def normalize(inputs: Any, scale: Any, offset: Any) -> Any:
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        _, mean, variance, *_ = _normalized(inputs, scale, offset, epsilon)
        squares = variance * (count - 1.0) / count + tf.square(mean)
        (total,) = sum_over_workers([tf.concat([mean, squares], axis=0)])
        mean, squares = tf.split(total / workers, 2)
        variance = tf.maximum(squares - tf.square(mean), 0.0)
        every = count * workers
        output, *_, reserve_1, reserve_2, reserve_3 = _normalized(
            inputs, scale, offset, epsilon, (mean, variance)
        )

        def gradient(upstream: Any, *_: Any) -> tuple[Any, Any, Any]:
            direct, scale_gradient, offset_gradient, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=inputs,
                scale=scale,
                reserve_space_1=reserve_1,
                reserve_space_2=reserve_2,
                reserve_space_3=reserve_3,
                epsilon=epsilon,
                is_training=False,
            )
            (total,) = sum_over_workers([tf.concat([scale_gradient, offset_gradient], axis=0)])
            scale_sum, offset_sum = tf.split(total / every, 2)
            deviation = tf.sqrt(variance + epsilon)
            slope = scale * scale_sum / tf.square(deviation)
            constant = scale * offset_sum / deviation - slope * mean
            total = compiled(_minus_affine)(direct, inputs, slope, constant)
            return total, scale_gradient, offset_gradient

        unbiased = variance * every / (every - 1.0)
        return (output, tf.stop_gradient(mean), tf.stop_gradient(unbiased)), gradient

    output, mean, variance = normalize(inputs, scale, offset)
    return output, mean, variance


def _minus_affine(start: Any, inputs: Any, slope: Any, constant: Any) -> Any:
    """`start - (slope * inputs + constant)`, computed in float32."""
    import tensorflow as tf

    start32, inputs32 = tf.cast(start, tf.float32), tf.cast(inputs, tf.float32)
    return tf.cast(start32 - (inputs32 * slope + constant), start.dtype)


COLLECTIVE_TIMEOUT_S = 300.0
