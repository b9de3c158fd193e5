"""The maps are the rows of the class query, computed apart from the model, in the image's own orientation."""

import numpy as np
import pytest
import torch
from analysed_models import images, tiny_model

from cait_dist.analysis import AnalysisError
from cait_dist.analysis.attention_maps import measure_maps
from cait_dist.analysis.draw import _overlay


def test_maps_equal_a_computation_by_hand() -> None:
    model, batch = tiny_model(), images(5)
    maps, own, logits = measure_maps(model, [batch[:2], batch[2:]])
    assert maps.shape == (5, 2, 3, 3, 3)
    with torch.no_grad():
        x = model.patch_embed(batch) + model.pos_embed
        for block in model.blocks:
            x = block(x, None, None)
        cls = model.cls_token.expand(5, -1, -1)
        for layer, block in enumerate(model.blocks_token_only):
            tokens = block.norm1(torch.cat((cls, x), 1))
            q, k = block.attn.q(tokens[:, :1]), block.attn.k(tokens)
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                row = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)[:, 0]  # √(d/H) = 2
                torch.testing.assert_close(own[:, layer, head], row[:, 0])
                torch.testing.assert_close(maps[:, layer, head].flatten(1), row[:, 1:])
            cls = block(x, cls)
        torch.testing.assert_close(logits, model(batch))
    torch.testing.assert_close(maps.sum((3, 4)) + own, torch.ones(5, 2, 3))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_map_lies_over_the_image_as_the_patches_do() -> None:
    # A model that attends by brightness: one bright patch, in the second row, third column.
    model = tiny_model()
    with torch.no_grad():
        for parameter in (model.pos_embed, model.patch_embed.proj.bias):
            parameter.zero_()
        for block in model.blocks:
            block.gamma_1.zero_()
            block.gamma_2.zero_()
    image = torch.zeros(1, 3, 12, 12)
    image[:, :, 4:8, 8:12] = 3.0
    maps, _, _ = measure_maps(model, [image])
    others = torch.ones(3, 3, dtype=torch.bool)
    others[1, 2] = False
    for head in maps[0].flatten(0, 1):
        assert (head[others] - head[0, 0]).abs().max() < 1e-6
        assert (head[1, 2] - head[0, 0]).abs() > 1e-4


def test_the_overlay_is_brightest_where_attention_is() -> None:
    attention = np.zeros((8, 8), dtype=np.float32)
    attention[2, 5] = 0.3
    picture = np.full((8, 8, 3), 128, dtype=np.uint8)
    brightness = _overlay(picture, attention).sum(axis=2)
    assert np.unravel_index(brightness.argmax(), (8, 8)) == (2, 5)


def test_a_model_without_class_attention_has_no_maps() -> None:
    model = tiny_model(class_token="average_pooling")
    with pytest.raises(AnalysisError, match="no class-attention layers"):
        measure_maps(model, [images()])
