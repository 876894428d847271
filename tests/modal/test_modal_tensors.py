"""Tensors that were made on a GPU arrive where there is none."""

from __future__ import annotations

import pytest

from hypernodes.remote.packing import pack, unpack

torch = pytest.importorskip("torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_tensor_arrives_as_a_cpu_tensor_without_a_gpu(monkeypatch):
    tensor = torch.arange(6.0).reshape(2, 3)
    with monkeypatch.context() as patch:  # what a machine with a GPU would write
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        data = pack({"weights": tensor}).data
    assert b"cuda:0" in data
    (arrived,) = unpack(data).values()
    assert arrived.device.type == "cpu"
    assert torch.equal(arrived, tensor)
