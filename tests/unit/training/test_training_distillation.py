"""What a teacher adds to the loss, whom it may be, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm_reference import import_timm_cait
from torch import nn

from cait_dist.augment.mixup import MixPlan
from cait_dist.augment.normalize import Normalize
from cait_dist.config import RunConfig
from cait_dist.config.distillation import DistillationConfig
from cait_dist.models import create_model
from cait_dist.models.weights import resize_pos_embed, save_weights
from cait_dist.training.distilling.identity import TeacherError, teacher_digest
from cait_dist.training.distilling.lesson import LabelGuide, TeacherGuide, distil, read_labels
from cait_dist.training.distilling.teacher import Teacher, Teaching, open_teacher
from cait_dist.training.starting.plan import Plan

SMALL = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
PUBLISHED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def plan(num_classes: int = 4, image_size: int = 16, samples: int = 5) -> Plan:
    calendar = SimpleNamespace(num_samples=samples)
    return Plan(SimpleNamespace(), calendar, num_classes, image_size, "digest of the data")  # type: ignore[arg-type]


def config(**distillation: Any) -> RunConfig:
    settings = {"kind": "hard", **distillation}
    return RunConfig.model_validate(
        {
            "name": "n",
            "data": {"path": "d"},
            "model": {"name": "cait_xxs24_224", **SMALL},
            "training": {"precision": "fp32"},
            "distillation": settings,
        }
    )


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the student, soft labels and logits of the teacher, for 3 images of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, torch.softmax(torch.randn(3, 4, generator=generator, dtype=torch.float64), 1), teacher


def cross_entropy_by_hand(logits: torch.Tensor, target: torch.Tensor) -> float:
    total = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        normaliser = np.log(np.sum(np.exp(row)))
        total -= sum(p * (value - normaliser) for p, value in zip(wanted, row, strict=True))
    return total / len(logits)


class TestLoss:
    @pytest.mark.parametrize("alpha", [0.5, 0.3, 1.0])
    def test_hard_is_cross_entropy_with_the_class_that_the_teacher_takes_for_right(self, case, alpha):
        student, labels, teacher = case
        right = torch.eye(4, dtype=torch.float64)[teacher.argmax(1)]
        by_hand = (1 - alpha) * cross_entropy_by_hand(student, labels) + alpha * cross_entropy_by_hand(student, right)
        found = distil(
            student, labels.float(), right.float(), DistillationConfig(kind="hard", teacher="t", alpha=alpha)
        )
        assert float(found.loss) == pytest.approx(by_hand, abs=1e-6)
        assert float(found.parts[0]) == pytest.approx(cross_entropy_by_hand(student, right), abs=1e-6)

    @pytest.mark.parametrize("heat", [1.0, 3.0])
    def test_soft_is_the_divergence_from_the_teacher_s_probabilities_times_the_squared_temperature(self, case, heat):
        student, labels, teacher = case
        p, q = (torch.softmax(logits / heat, 1).numpy() for logits in (teacher, student))
        divergence = float(np.sum(p * np.log(p / q))) / 3
        by_hand = 0.5 * cross_entropy_by_hand(student, labels) + 0.5 * heat**2 * divergence
        found = distil(
            student, labels.float(), teacher.float(), DistillationConfig(kind="soft", teacher="t", temperature=heat)
        )
        assert float(found.loss) == pytest.approx(by_hand, abs=1e-6)

    def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn_from_it(self, case):
        _, labels, teacher = case
        found = distil(teacher, labels.float(), teacher.float(), DistillationConfig(kind="soft", teacher="t"))
        assert found.parts.tolist() == pytest.approx([0, 1], abs=1e-6)

    def test_agreement_is_the_share_of_images_given_the_same_class(self):
        student, teacher = torch.eye(4)[[0, 1, 2, 3]], torch.eye(4)[[0, 1, 3, 2]]
        found = distil(student, student, teacher, DistillationConfig(kind="hard", teacher="t"))
        assert float(found.parts[1]) == 0.5

    def test_only_the_student_gets_a_gradient(self, case):
        student, labels, teacher = (tensor.clone().requires_grad_() for tensor in case)
        distil(student, labels.detach(), teacher.detach(), DistillationConfig(kind="soft", teacher="t")).loss.backward()
        assert student.grad.abs().sum() > 0


class TestTeaching:
    def test_the_teacher_is_asked_without_dropout_and_without_gradient(self):
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)).train()
        asked = Teaching(Teacher(network, HALF, "t"), HALF, "fp32", torch.device("cpu"))
        images = torch.randn(6, 3, 2, 2, requires_grad=True)
        first, second = asked.logits(images), asked.logits(images)
        assert torch.equal(first, second)
        assert not first.requires_grad
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_it_sees_images_as_it_was_trained_to(self):
        seen = []

        class Eye(nn.Module):
            def forward(self, images):
                seen.append(images)
                return images.flatten(1)

        pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
        Teaching(Teacher(Eye(), PUBLISHED, "t"), HALF, "fp32", torch.device("cpu")).logits(Normalize(*HALF)(pixels))
        torch.testing.assert_close(seen[0], Normalize(*PUBLISHED)(pixels), rtol=0, atol=2e-6)

    def test_its_answers_are_fp32_whatever_it_computes_in(self):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        images = torch.randn(2, 3, 2, 2)
        exact = Teaching(Teacher(network, HALF, "t"), HALF, "fp32", torch.device("cpu")).logits(images)
        rounded = Teaching(Teacher(network, HALF, "t"), HALF, "bf16", torch.device("cpu")).logits(images)
        assert exact.dtype == rounded.dtype == torch.float32
        assert 0 < (exact - rounded).abs().max() < 0.05


class TestTeachers:
    def test_a_file_of_ours_at_another_resolution(self, tmp_path: Path):
        torch.manual_seed(1)
        ours = create_model("cait_xxs24_224", num_classes=4, image_size=224)
        save_weights(ours, tmp_path / "t.safetensors")
        teacher = open_teacher(
            config(teacher=str(tmp_path / "t.safetensors"), teacher_model="cait_xxs24_224"), 4, image_size=32
        )
        torch.testing.assert_close(teacher.network.state_dict()["pos_embed"], resize_pos_embed(ours.pos_embed.data, 2))
        assert "resized from 14x14 to 2x2" in str(teacher)
        assert f"{teacher.parameters:,} parameters" in str(teacher)

    def test_a_network_of_timm_s(self, tmp_path: Path):
        import_timm_cait()
        import timm  # noqa: PLC0415

        torch.manual_seed(1)
        network = timm.create_model("resnet10t", num_classes=4).eval()
        save_weights(network.state_dict(), tmp_path / "r.pth", format="deit")
        settings = config(teacher=str(tmp_path / "r.pth"), teacher_model="timm/resnet10t")
        guide = TeacherGuide(settings, plan(image_size=32), torch.device("cpu"))
        images = torch.randn(5, 3, 32, 32)
        with torch.no_grad():
            theirs = network(images)
        asked = guide.targets(images, np.arange(5), None)
        assert torch.equal(asked.argmax(1), theirs.argmax(1))
        assert torch.equal(asked.sum(1), torch.ones(5))
        assert teacher_digest(settings.distillation) == teacher_digest(settings.distillation) is not None

    @pytest.mark.parametrize(
        ("settings", "complaint"),
        [
            ({"teacher_model": None}, "say in distillation.teacher_model whose"),
            ({"teacher_model": "cait_xxs36_224"}, "does not fit the model"),
            ({"teacher_model": "cait_xxs42_224"}, "unknown model 'cait_xxs42_224'"),
            ({"teacher_model": "timm/resnet11"}, "has no such model"),
            ({"teacher_model": "timm/resnet10t"}, "does not fit timm's resnet10t"),
        ],
    )
    def test_a_teacher_that_is_none_is_told(self, tmp_path: Path, settings: dict[str, Any], complaint: str):
        import_timm_cait()
        save_weights(create_model("cait_xxs24_224", num_classes=4), tmp_path / "t.safetensors")
        with pytest.raises(TeacherError, match=complaint):
            open_teacher(config(teacher=str(tmp_path / "t.safetensors"), **settings), 4, 224)

    def test_a_teacher_of_other_classes_is_told(self, tmp_path: Path):
        save_weights(create_model("cait_xxs24_224", num_classes=7), tmp_path / "t.safetensors")
        wanted = config(teacher=str(tmp_path / "t.safetensors"), teacher_model="cait_xxs24_224")
        with pytest.raises(TeacherError, match=r"head\.weight"):
            open_teacher(wanted, 4, 224)

    def test_a_teacher_that_takes_images_of_one_size_only_is_told(self, tmp_path: Path):
        import_timm_cait()
        import timm  # noqa: PLC0415

        save_weights(timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict(), tmp_path / "v.safetensors")
        wanted = config(teacher=str(tmp_path / "v.safetensors"), teacher_model="timm/vit_tiny_patch16_224")
        with pytest.raises(TeacherError, match="does not take images of 32 px"):
            open_teacher(wanted, 4, 32)


class TestLabels:
    def write(self, path: Path, sample: Any = range(5), predicted: Any = (3, 1, 0, 2, 1), digest: str = "") -> Path:
        columns = {"sample": np.array(sample), "predicted": np.array(predicted)}
        np.savez(path, **columns, digest=np.str_(digest or plan().data_digest))
        return path

    def test_they_are_found_by_sample(self, tmp_path: Path):
        path = self.write(tmp_path / "l.npz", [4, 2, 0, 1, 3], [0, 1, 2, 3, 0])
        assert read_labels(path, plan()).tolist() == [2, 3, 1, 0, 0]

    def test_for_mixed_images_they_are_mixed_as_the_labels_are(self, tmp_path: Path):
        guide = LabelGuide(config(labels=str(self.write(tmp_path / "l.npz"))), plan(), torch.device("cpu"))
        weight = torch.tensor([0.7, 0.7])
        mixing = MixPlan(blend=weight, label_weight=weight, boxes=torch.zeros(2, 4, dtype=torch.int64))
        found = guide.targets(torch.zeros(2, 3, 16, 16), np.array([0, 3]), mixing)  # classes 3 and 2
        torch.testing.assert_close(found, torch.tensor([[0, 0, 0.3, 0.7], [0, 0, 0.7, 0.3]]))

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ({"digest": "of others"}, "other images than the training set"),
            ({"sample": [0, 1, 2, 3], "predicted": [0, 0, 0, 0]}, "about 4 images, and the training set 5"),
            ({"sample": [0, 1, 2, 3, 3]}, "about 5 images"),
            ({"predicted": [0, 1, 2, 3, 4]}, "names class 4, but the student knows 4"),
        ],
    )
    def test_labels_of_other_images_are_told(self, tmp_path: Path, content: dict[str, Any], complaint: str):
        with pytest.raises(TeacherError, match=complaint):
            read_labels(self.write(tmp_path / "l.npz", **content), plan())

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
    def test_a_file_that_is_none_is_told(self, tmp_path: Path, content: bytes):
        (tmp_path / "l.npz").write_bytes(content)
        with pytest.raises(TeacherError, match="no answers as `cait evaluate` writes them"):
            read_labels(tmp_path / "l.npz", plan())

    def test_a_pickle_in_it_is_not_run(self, tmp_path: Path):
        np.savez(tmp_path / "l.npz", sample=np.array([print], dtype=object), predicted=np.zeros(1), digest="d")
        with pytest.raises(TeacherError, match="no answers"):
            read_labels(tmp_path / "l.npz", plan())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "hard"}, "needs one of teacher and labels, got none"),
        ({"kind": "hard", "teacher": "t", "labels": "l"}, "got both"),
        ({"kind": "soft", "labels": "l"}, "labels hold no probabilities"),
        ({"kind": "none", "teacher": "t"}, "kind is 'none'"),
        ({"kind": "hard", "teacher": "t", "temperature": 3}, "means nothing with kind 'hard'"),
        ({"kind": "hard", "labels": "l", "teacher_model": "m"}, "belongs to a teacher"),
        ({"kind": "hard", "teacher": "t", "alpha": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(ValidationError, match=complaint):
        DistillationConfig.model_validate(settings)


@pytest.mark.parametrize(("settings", "complaint"), [({"teacher": "none"}, "no none"), ({"labels": "none"}, "no file")])
def test_a_place_where_nothing_is_is_told(settings: dict[str, Any], complaint: str):
    with pytest.raises(TeacherError, match=complaint):
        teacher_digest(config(**settings).distillation)
