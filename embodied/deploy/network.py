"""The policy of a bundle as a function: observation and latent to action and target, by onnxruntime on one thread."""

import numpy as np
import onnxruntime

from .bundle import POLICY, Bundle
from .errors import InputError

OUTPUTS = ["action", "target", "finite"]


class Network:
    """policy.onnx, ready to run."""

    def __init__(self, bundle: Bundle):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a robot has other work for its cores
        options.log_severity_level = 3
        try:
            # From memory: what was verified, and nothing beside it, can be loaded.
            self._session = onnxruntime.InferenceSession(
                bundle.content[POLICY], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own types share no base
            raise InputError(f"{bundle.directory / POLICY}: onnxruntime refuses it ({error})") from error
        found = {one.name: tuple(one.shape) for one in self._session.get_inputs()}
        expected = {"obs": (1, bundle.contract.width)}
        if bundle.contract.command.width:
            expected["z"] = (1, bundle.contract.command.width)
        if found != expected:
            raise InputError(f"{bundle.directory / POLICY}: inputs are {found}, the contract says {expected}")
        self._prompted = "z" in found

    def __call__(self, obs: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """(action [A] clipped and rescaled, target [A] within its limits, whether the network gave numbers).

        Where it gave none the action is 0 and the target is the offset.
        """
        inputs = {"obs": np.asarray(obs, np.float32)[None]}
        if self._prompted:
            inputs["z"] = np.asarray(z, np.float32)[None]
        action, target, finite = self._session.run(OUTPUTS, inputs)
        return action[0], target[0], bool(finite[0] > 0)
