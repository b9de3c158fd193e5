import torch

from cait_dist.augment.normalize import Normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_every_byte_is_normalised_to_float_precision() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    found = Normalize(MEAN, STD)(images)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(found.double(), (images.double() / 255 - mean) / std, atol=1e-6, rtol=0)
    assert found.dtype == torch.float32


def test_constants_follow_the_module_and_stay_out_of_checkpoints() -> None:
    module = Normalize(MEAN, STD)
    assert not module.state_dict()
    assert {name for name, _ in module.named_buffers()} == {"scale", "shift"}
    assert module.to("meta").scale.is_meta
