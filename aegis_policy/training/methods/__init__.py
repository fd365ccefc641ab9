"""Methods of fine-tuning: how a batch of demonstrations becomes gradients. One small class each, behind one interface.

naive             the flow loss flows wherever it likes                                     pi0, arXiv 2410.24164
stop-gradient     the expert learns, the backbone is left as it is             knowledge insulation, arXiv 2505.23705
aegis             as naive, minus what would undo the anchor's gradient, layer by layer             arXiv 2604.16067
distil-features   distance from the features before is added                                        arXiv 2510.25616
co-train          questions with true answers among the samples                               RT-2, arXiv 2307.15818
lora              low-rank adapters in place of the language model's weights                        arXiv 2106.09685
"""

from __future__ import annotations

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.methods.base import Asked, Batch, Given, Method

__all__ = ["Asked", "Batch", "Given", "Method", "make_method", "method_class"]


def method_class(name: MethodName) -> type[Method]:
    """The class of a method; a ModuleNotFoundError tells of lora without the extra `lora`."""
    from aegis_policy.training.methods import aegis, cotrain, features, plain

    classes: dict[MethodName, type[Method]] = {
        "aegis": aegis.Aegis,
        "co-train": cotrain.CoTrain,
        "distil-features": features.DistilFeatures,
        "naive": plain.Naive,
        "stop-gradient": plain.StopGradient,
    }
    if name == "lora":
        from aegis_policy.training.methods.lora import Lora

        return Lora
    return classes[name]


def make_method(config: TrainConfig, policy: AegisPolicy, given: Given) -> Method:
    """The method that `config` names.

    Raises:
        ValueError: the method needs an anchor and there is none, or the anchor is of another backbone.
    """
    method = method_class(config.method)
    if method.needs_anchor:
        if given.anchor is None:
            raise ValueError(
                f"the method {config.method} needs an anchor of the backbone before fine-tuning, and the start has no "
                "anchor.safetensors: make one with 'aegis anchor' and pass it with --anchor"
            )
        given.anchor.check(policy)
    return method(policy, config, given)
