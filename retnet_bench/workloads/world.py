"""The processes that run one cell together, as one of them sees it: what each has, and how they
meet.

Ranks of a model that is split (`models.split`) are neighbours; ranks that have the same part of it
share each batch, with the whole part each (DDP) or a share of it (FSDP2). CPU tensors go through
gloo, CUDA tensors through NCCL. A single process is `ALONE`, in which nothing is exchanged.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from retnet_bench.measure import allocation
from retnet_bench.measure.allocation import Allocation
from retnet_bench.models import LanguageModel
from retnet_bench.models import split as splitting
from retnet_bench.workloads.cell import Cell
from retnet_bench.workloads.settings import ONE_RANK, Parallel

TCP = "tcp://"
LOOPBACK = "lo"
"""Linux's network interface of the machine itself, which gloo takes: nobody else can connect."""


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, or its share of one that FSDP2 shares."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Alone:
    """A cell that one process runs."""

    def __init__(self, parallel: Parallel = ONE_RANK, rank: int = 0) -> None:
        self.parallel, self.rank = parallel, rank
        self.data_rank = rank // parallel.tensor
        """Which of those that read different sequences it is."""

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them found."""
        return self.rank == 0

    def meet(self) -> None:
        """Return when every rank has come here."""

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        """Each time of the rank that it took longest."""
        return list(seconds)

    def rows(self, batch: Tensor) -> Tensor:
        """This rank's sequences of a batch."""
        return batch

    def mean(self, losses: Tensor) -> Tensor:
        """Of a loss that each rank has of its own sequences: that of the whole batch."""
        return losses

    def split(self, model: LanguageModel) -> None:
        """Leave this rank's part of the whole model, in place."""

    def share(self, model: LanguageModel, low: torch.dtype | None) -> None:
        """Have the ranks share the weights of what each has, in place. `low`: what they compute
        in, if below fp32."""

    def trained(self, model: LanguageModel) -> Callable[..., Tensor]:
        """From a batch to the loss whose gradients the ranks then have together."""
        return model.loss

    def exchange(self, loss: Callable[..., Tensor], model: LanguageModel, now: bool) -> None:
        """Whether the next backward pass ends with the exchange of gradients, or leaves it to a
        later one (of the last of several micro-batches)."""

    def gradient_norm(self, model: LanguageModel) -> Tensor:
        """Norm of all gradients of the whole model together."""
        return _norm([p.grad for p in model.parameters() if p.grad is not None])

    def clip(self, model: LanguageModel, most: float) -> None:
        """Scale the gradients down to a norm of at most `most`."""
        torch.nn.utils.clip_grad_norm_(model.parameters(), most)

    def whole(self, model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole of each tensor, of which every rank gives its part: parameters of the model,
        or what has their names and shapes."""
        return dict(tensors)

    def own(self, model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse: this rank's part of whole tensors."""
        return dict(tensors)

    def bucket_bytes(self, model: LanguageModel) -> int:
        """Bytes of gradients that stay allocated between steps."""
        return 0


ALONE = Alone()


class World(Alone):
    """One rank of several. Made by `join`."""

    def __init__(self, parallel: Parallel, rank: int, device: torch.device, mesh: Any) -> None:
        super().__init__(parallel, rank)
        self.device = device
        self.mesh = mesh
        """torch's DeviceMesh (data, tensor)."""
        self.shards = parallel.shard == "fsdp"
        self.by: splitting.Split | None = None
        """How the model is split; None where it is not."""
        if (ranks := parallel.tensor) > 1:
            group = mesh.get_group("tensor")
            self.by = splitting.Split(rank % ranks, ranks, splitting.over_group(group))

    def meet(self) -> None:
        dist.all_reduce(torch.zeros(1))

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        times = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(times, dist.ReduceOp.MAX)
        return times.tolist()

    def rows(self, batch: Tensor) -> Tensor:
        return batch.chunk(self.parallel.data)[self.data_rank]

    def mean(self, losses: Tensor) -> Tensor:
        total = losses.detach().clone()
        dist.all_reduce(total, group=self.mesh.get_group("data"))
        return total / self.parallel.data

    def split(self, model: LanguageModel) -> None:
        if self.by is not None:
            splitting.split(model, self.by)

    def share(self, model: LanguageModel, low: torch.dtype | None) -> None:
        if self.shards:
            share_weights(model, self.mesh["data"], low)

    def trained(self, model: LanguageModel) -> Callable[..., Tensor]:
        if self.shards or self.parallel.data == 1:
            return model.loss
        return nn.parallel.DistributedDataParallel(
            _Loss(model),
            process_group=self.mesh.get_group("data"),
            broadcast_buffers=False,  # constants, which are equal everywhere
            gradient_as_bucket_view=True,
        )

    def exchange(self, loss: Callable[..., Tensor], model: LanguageModel, now: bool) -> None:
        if self.shards:
            model.set_requires_gradient_sync(now)  # type: ignore[operator]
        elif isinstance(loss, nn.parallel.DistributedDataParallel):
            loss.require_backward_grad_sync = now

    def gradient_norm(self, model: LanguageModel) -> Tensor:
        """Of a parameter that every rank has, one rank's gradient counts."""
        along = splitting.cuts(model) if self.by is not None else {}
        cut, whole = (
            [p.grad for name, p in model.named_parameters() if (name in along) == is_cut]
            for is_cut in (True, False)
        )
        squares = torch.stack([_norm(cut) ** 2, _norm(whole) ** 2]).to(self.device)
        if self.shards:
            dist.all_reduce(squares, group=self.mesh.get_group("data"))
        if self.by is not None:
            self.by.reduce(squares[:1], "sum")
        return squares.sum().sqrt()

    def clip(self, model: LanguageModel, most: float) -> None:
        factor = (most / (self.gradient_norm(model) + 1e-6)).clamp(max=1.0)
        for parameter in model.parameters():
            if parameter.grad is not None:
                local(parameter.grad).mul_(factor)

    def whole(self, model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        along = splitting.cuts(model)
        return {name: self._joined(tensor, along.get(name)) for name, tensor in tensors.items()}

    def _joined(self, tensor: Tensor, dim: int | None) -> Tensor:
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        full = full.detach()
        if self.by is None or dim is None or full.dim() == 0:
            return full
        group = self.mesh.get_group("tensor")
        sizes: list[int] = [0] * self.parallel.tensor
        dist.all_gather_object(sizes, full.shape[dim], group=group)
        most = max(sizes)
        padded = full.new_zeros([most if i == dim else n for i, n in enumerate(full.shape)])
        padded.narrow(dim, 0, full.shape[dim]).copy_(full)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part.narrow(dim, 0, n) for part, n in zip(parts, sizes)], dim)

    def own(self, model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(tensors)
        if self.by is not None:
            found = splitting.parts(found, model, self.by)
        if not self.shards:
            return found
        from torch.distributed.tensor import DTensor, distribute_tensor

        like = {n: p for n, p in model.named_parameters() if isinstance(p, DTensor)}
        for name in found.keys() & like:
            if found[name].dim():
                mesh, placements = like[name].device_mesh, like[name].placements
                tensor = found[name].to(self.device)
                found[name] = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
        return found

    def bucket_bytes(self, model: LanguageModel) -> int:
        """DDP's buckets, whose views the gradients are."""
        if self.shards or self.parallel.data == 1:
            return 0
        return sum(p.numel() * p.element_size() for p in model.parameters())


def share_weights(model: LanguageModel, mesh: Any, low: torch.dtype | None) -> None:
    """Have the ranks of a mesh share weights, gradients and AdamW's state, block by block (FSDP2).

    Below fp32 the blocks' weights travel in what they are used in; autocast stays, so that norms
    and the residual stream are what one process has. The embedding's travel in fp32.
    """
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    exact = any(getattr(module, "fp32_parameters", ()) for module in model.modules())
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if low is not None and not exact:
        policy = MixedPrecisionPolicy(low, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
        for name in ("prefill", "step"):
            register_fsdp_forward_method(block, name)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for name in ("loss", "prefill", "step_at"):
        register_fsdp_forward_method(model, name)


class _Loss(nn.Module):
    """A model as DDP takes it: called, it gives the loss."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> Tensor:
        return self.model.loss(*batch)


def _norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """Of what this process holds of them, in fp32 at least."""
    norms = [torch.linalg.vector_norm(local(g)) for g in gradients if g is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


@dataclass(frozen=True)
class Seat:
    """Where a process stands among those that run a cell together, and where they meet."""

    rank: int
    rendezvous: str
    """A file that is not there yet, or, of a world over several machines, tcp://ADDRESS:PORT: a
    TCPStore that the runner holds."""
    local_rank: int
    """Which it is of the ranks on its machine: it has the device of that number."""
    local_ranks: int
    """How many ranks its machine has."""


def join(parallel: Parallel, seat: Seat, device: str, timeout_s: float) -> World:
    """Become a rank of a world. The others are waited for, here and in every exchange, for
    `timeout_s` at most."""
    cuda = torch.device(device).type == "cuda"
    own = torch.device("cuda", seat.local_rank) if cuda else torch.device(device)
    if cuda:
        torch.cuda.set_device(own)
    _say(parallel, seat)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=_store(parallel, seat, timedelta(seconds=timeout_s)),
        rank=seat.rank,
        world_size=parallel.ranks,
        timeout=timedelta(seconds=timeout_s),
    )
    from torch.distributed.device_mesh import init_device_mesh

    shape = (parallel.data, parallel.tensor)
    mesh = init_device_mesh(own.type, shape, mesh_dim_names=("data", "tensor"))
    return World(parallel, seat.rank, own, mesh)


def _say(parallel: Parallel, seat: Seat) -> None:
    """Say it in the environment, as torchrun does: torch and others look there."""
    os.environ |= {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(parallel.ranks),
        "LOCAL_RANK": str(seat.local_rank),
        "LOCAL_WORLD_SIZE": str(seat.local_ranks),
    }


def _store(parallel: Parallel, seat: Seat, timeout: timedelta) -> dist.Store:
    """Where the ranks tell each other their addresses; and gloo's network, which is that by which
    the others can be reached, unless the user says another."""
    if not seat.rendezvous.startswith(TCP):
        _use_network(LOOPBACK)
        store = dist.FileStore(seat.rendezvous, parallel.ranks)
        store.set_timeout(timeout)
        return store
    host, port = seat.rendezvous.removeprefix(TCP).rsplit(":", 1)
    _use_network(network_to(host))
    return dist.TCPStore(host, int(port), parallel.ranks, is_master=False, timeout=timeout)


def held_store(address: str, ranks: int) -> dist.TCPStore:
    """A store that processes of other machines can meet at: it listens at `address`, on a port that
    the system chooses, as long as this process has it."""
    with socket.create_server((address, 0)) as listening:
        port = listening.getsockname()[1]
        return dist.TCPStore(
            *(address, port, ranks),
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )


def _use_network(name: str | None) -> None:
    if name is not None and sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def network_to(host: str) -> str | None:
    """Name of this machine's network interface by which it reaches `host`; None where the system
    does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # of a datagram's socket: nothing is sent
        own = probe.getsockname()[0]
    found = psutil.net_if_addrs().items()
    return next((name for name, every in found if own in [one.address for one in every]), None)


def leave() -> None:
    """Close what `join` opened, if it did."""
    if dist.is_initialized():
        dist.destroy_process_group()


def spread(parallel: Parallel, each: int, machines: int) -> list[int] | None:
    """How many ranks each machine has, of `machines` that hold at most `each`: as few machines as
    hold them, as evenly as can be. Ranks that share one model stay on one machine where that has
    room for them, for they exchange the most. None where there is no room."""
    for unit in (parallel.tensor, 1):
        if unit > each:
            continue
        units = parallel.ranks // unit
        used = -(-units // (each // unit))
        if used <= machines:
            most = -(-units // used) * unit
            left = parallel.ranks - most * (used - 1)
            return [*[most] * (used - 1), left]
    return None


def ranks_by_machine(parallel: Parallel | None, device: str, threads: int) -> list[int]:
    """How many ranks each machine has, this one first; all here where there is no room for them."""
    if parallel is None:
        return [1]
    within = allocation.here()
    each, _ = _room(device, threads, within)
    return spread(parallel, each, within.nodes) or [parallel.ranks]


def section(cell: Cell) -> dict[str, Any]:
    """What the environment of a cell's records says of a world over several machines: it is part of
    the fingerprint, for what the same ranks measure on one machine is another thing."""
    counts = ranks_by_machine(cell.parallel, cell.device, cell.threads)
    return {"world": {"ranks_by_machine": counts}} if len(counts) > 1 else {}


def _room(device: str, threads: int, within: Allocation) -> tuple[int, str]:
    """How many ranks a machine has room for, and of what it has so many. On one machine ranks with
    several threads may share its cores; of several machines others are taken first."""
    if torch.device(device).type == "cuda":
        return torch.cuda.device_count(), "GPUs"
    if within.nodes == 1 or threads == 1:
        return within.cores, "cores"
    return max(1, within.cores // threads), f"cores by {threads} threads"


def why_not(parallel: Parallel, device: str, threads: int, within: Allocation) -> str | None:
    """Why the world is not available here, or None."""
    if not dist.is_available():
        return "this build of torch has no torch.distributed, which parallel needs"
    if torch.device(device).type == "cuda" and not dist.is_nccl_available():
        return "this build of torch has no NCCL, which parallel needs on CUDA"
    each, what = _room(device, threads, within)
    there = each * within.nodes
    if parallel.ranks <= there:
        return None
    more = f", {each} a node" if within.nodes > 1 else ""
    return (
        f"parallel asks for {parallel.ranks} ranks, {parallel.data} x {parallel.tensor}, each on "
        f"one of the {what} of {within.name}, of which there are {there}{more}; more machines: "
        "run --on slurm --slurm nodes=N"
    )
