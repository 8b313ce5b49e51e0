"""Training whose weights, gradients and optimizer are shared out among processes (FSDP2), by accelerate.

A whole copy of the model stays in the CPU's memory of each process. It is what is validated, written and returned, so
that all else works as without sharding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from sharpen.evaluation.processes import process_state
from sharpen.training.launch import is_set


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are shared out."""
    return isinstance(model, FSDPModule)


def will_shard() -> bool:
    """Whether the configuration of ``accelerate launch``, which comes in the environment, asks for it."""
    return is_set("ACCELERATE_USE_FSDP") and process_state().distributed_type != DistributedType.NO


def copied(model: nn.Module, loss: nn.Module | None) -> tuple[nn.Module, nn.Module | None]:
    """A copy of both for sharding, on the model's device; ``model`` itself goes to the CPU.

    What the loss holds beside modules, as teachers' vectors, is shared.
    """
    device = next(model.parameters()).device
    shared = {id(v): v for v in vars(loss).values() if not isinstance(v, nn.Module | dict)} if loss else {}
    trained, loss = copy.deepcopy((model.to("cpu"), loss), shared)
    return trained.to(device), loss


def enable_sharding(accelerator: Accelerator, model: nn.Module) -> None:
    """Have accelerate shard ``model``, on CPUs, too, where it takes no notice of FSDP.

    By the classes of layers that transformers knows, where the configuration names none: sentence-transformers names
    none either, and the whole model would be put together at once.
    """
    state, plugin = accelerator.state, FullyShardedDataParallelPlugin()  # what an earlier training had names its layers
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    if accelerator.mixed_precision == "bf16":  # gradients are summed in float32, which accelerate's own policy does not
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in model.modules()}
        named = [n for m in model.modules() if isinstance(m, PreTrainedModel) for n in m._no_split_modules or ()]
        plugin.transformer_cls_names_to_wrap = sorted(present & set(named))


def gather_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Give ``whole`` the weights of ``sharded``, one after the other. Every process must call this."""
    for target, source in _pairs(whole, sharded):
        target.data.copy_(gathered(source.detach()))


def scatter_weights(whole: nn.Module, sharded: nn.Module) -> None:
    """Give ``sharded`` the weights of ``whole``, which are the same on every process."""
    for source, target in _pairs(whole, sharded):
        target.data.copy_(_like(source.detach(), target))


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process must call this for one that is shared out."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Of an optimizer of sharded weights, whole and on the CPU. Every process must call this."""
    return _of_tensors(optimizer.state_dict(), lambda tensor: gathered(tensor.detach()).cpu())


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Give an optimizer of sharded weights what ``optimizer_state`` gave, with any number of processes."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def shared_out(value: Any, weight: Tensor) -> Any:
        return _like(value, weight) if isinstance(value, Tensor) and value.shape == weight.shape else value

    of_weights = {
        number: {key: shared_out(value, weights[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": of_weights})


def _pairs(whole: nn.Module, sharded: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Of the same weights: those of copies come in the same order, whatever was wrapped around layers."""
    yield from zip(whole.parameters(), sharded.parameters(), strict=True)


def _like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """``tensor`` shared out as ``sharded`` is; nothing is sent, as each process has all of it."""
    if not isinstance(sharded, DTensor):
        return tensor
    tensor = tensor.to(sharded.to_local().device)
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)


def _of_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _of_tensors(v, change) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_of_tensors(v, change) for v in value]
    return change(value) if isinstance(value, Tensor) else value
