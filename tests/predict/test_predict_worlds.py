"""What a rank of a world is predicted to need, against what two real ranks measure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import worlds
from fakes.cells import QUICK, cell
from workloads.worlds_tasks import memory

from retnet_bench.base import UserError
from retnet_bench.measure.devices import DEVICES, find
from retnet_bench.models import cost
from retnet_bench.predict import rooflines, targets
from retnet_bench.predict.footprint import footprint
from retnet_bench.predict.tensor_counter import Exchange
from retnet_bench.study.plan import Planned
from retnet_bench.workloads.settings import Parallel

TWO = [Parallel(data=2), Parallel(data=2, shard="fsdp"), Parallel(tensor=2)]


def predicted(found):
    return footprint(rooflines.step_of(found, found.matched().config, "cpu"))


@pytest.mark.parametrize("parallel", TWO, ids=str)
@pytest.mark.parametrize(
    ("mixer", "changes"),
    [
        ("retention", {"length": 130}),
        ("attention", {"length": 128, "size": "0.8M", "kernel": "sdpa"}),
    ],
)
def test_a_ranks_peak_is_what_two_real_ranks_measure(mixer, changes, parallel, tmp_path):
    found = cell(mixer=mixer, parallel=parallel, batch=4, **changes)
    expected, config = predicted(found).peak_bytes, found.matched().config
    # gloo's own threads let go of what they have exchanged a moment after it is there, and later
    # where others want the core: of tensors of the residual stream, or of a block's gradients.
    late = 0
    if parallel.tensor > 1:
        late = 3 * 4 * found.batch * found.length * config.d_model
    if parallel.shard == "fsdp":
        embedding = config.vocab_size * config.d_model
        late = 4 * (cost.parameters(config) - embedding) // config.n_layers
    # FSDP2 holds a block's last gradient beside the buffer that it is copied to.
    within = 1e-2 if parallel.shard == "fsdp" else 2e-3
    for rank in worlds.run(memory, 2, tmp_path, found):
        peak = rank["peak_tensor_bytes"]
        assert (1 - within) * expected <= peak <= (1 + within) * expected + late


def test_what_is_exchanged_follows_from_the_shapes():
    """DDP: every gradient once. A split: in each layer four tensors of the residual stream's size,
    one of the embedding, one in front of the head, and the loss's numbers a token."""
    found = cell(batch=4, length=32, size="0.8M")
    config = found.matched().config
    whole = 4 * cost.parameters(config)
    reduced = Exchange("all_reduce", "data")
    assert predicted(replace(found, parallel=TWO[0])).exchanged == {reduced: whole}
    shared = predicted(replace(found, parallel=TWO[1])).exchanged
    assert shared[Exchange("reduce_scatter", "data")] == pytest.approx(whole, rel=0.01)
    embedding = 4 * (config.vocab_size + 1) * config.d_model
    gathered = 2 * (whole - embedding) + embedding
    assert shared[Exchange("all_gather", "data")] == pytest.approx(gathered, rel=0.1)
    tokens = 4 * found.batch * found.length
    stream = tokens * config.d_model
    split = predicted(replace(found, parallel=TWO[2])).exchanged
    assert split == {
        Exchange("all_reduce", "tensor"): (4 * config.n_layers + 2) * stream + 3 * tokens
    }


def test_memory_of_many_ranks_is_that_of_their_part():
    found = cell(batch=8, length=32, size="0.8M", vocab_size=64)
    alone = predicted(found).memory
    eight = predicted(replace(found, parallel=Parallel(data=8, shard="fsdp"))).memory
    for category in ("weights", "optimiser"):
        assert eight[category] == pytest.approx(alone[category] / 8, rel=0.02)


def test_the_link_is_the_fourth_term_of_the_roofline():
    found = cell(batch=4, length=32, parallel=TWO[0])
    config = found.matched().config
    slow = replace(DEVICES["h100-80gb"], link_bytes_per_s=1e3)
    line = rooflines.roofline(found, config, slow, None, found=predicted(found))
    assert line.bound == "link"
    assert line.seconds == pytest.approx(4 * cost.parameters(config) / 1e3)  # twice a half of it
    unknown = replace(slow, link_bytes_per_s=None)
    assert rooflines.roofline(found, config, unknown, None, found=predicted(found)).link_s is None


def test_a_machine_of_several_devices_has_their_number():
    eight = targets.on("8xh100-80gb")
    assert (eight.count, eight.rates) == (8, find("h100-80gb"))
    assert eight.name == "8 x h100-80gb"
    assert targets.on("h100-80gb").count == 1


@pytest.mark.parametrize("count", ["0", "-1", "99999"])
def test_a_machine_of_no_devices_or_too_many_is_refused(count):
    words = f"--on {count}xh100-80gb: a machine has 1 to 9999 devices, such as 8xh100-80gb"
    with pytest.raises(UserError, match=f"^{words}$"):
        targets.on(f"{count}xh100-80gb")


def test_a_target_has_too_few_devices_for_more_ranks():
    found = Planned(cell(batch=4, parallel=Parallel(data=4)), QUICK, None)
    reasons = {
        name: targets.retargeted([[found]], targets.on(name))[0][0].unsupported
        for name in ("h100-80gb", "2xh100-80gb", "4xh100-80gb")
    }
    assert reasons == {
        "h100-80gb": "parallel asks for 4 ranks, and h100-80gb is 1 GPU",
        "2xh100-80gb": "parallel asks for 4 ranks, and 2 x h100-80gb is 2 GPUs",
        "4xh100-80gb": None,
    }


def test_every_link_rate_has_a_source():
    for device in DEVICES.values():
        assert (device.link_bytes_per_s is None) == (not device.link_source)
    assert DEVICES["a100-80gb"].link_bytes_per_s == 300e9
    assert DEVICES["rtx4090"].link_bytes_per_s is None
