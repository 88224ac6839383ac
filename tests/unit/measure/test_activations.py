import timm
import torch
from torch import nn
from torch.nn import functional as F

from vitune.measure import saved_activation_bytes, weightless_copy

MIB = 2**20


def linear(weight: bool, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(6, 3)
    layer.weight.requires_grad_(weight)
    layer.bias.requires_grad_(bias)
    return layer


def run(layer: nn.Module) -> torch.Tensor:
    return layer(torch.ones(5, 6)).sum()


def test_a_linear_keeps_its_input_only_when_its_weight_trains():
    saved = saved_activation_bytes(linear(weight=True), run)
    assert saved.bytes == 5 * 6 * 4
    assert [(t.shape, t.dtype, t.bytes, t.times) for t in saved.tensors] == [((5, 6), "float32", 120, 1)]
    assert saved_activation_bytes(linear(weight=False), run).bytes == 0


def test_a_small_view_keeps_its_whole_storage():
    def loss(layer: nn.Module) -> torch.Tensor:
        return layer(torch.ones(5, 100, 6)[:, 0]).sum()

    saved = saved_activation_bytes(linear(weight=True), loss)
    assert saved.bytes == 5 * 100 * 6 * 4
    assert saved.tensors[0].shape == (5, 6)


def test_one_storage_saved_twice_counts_once():
    net = nn.ModuleList([linear(weight=True), linear(weight=True)])

    def loss(layers: nn.Module) -> torch.Tensor:
        x = torch.ones(5, 6)
        return layers[0](x).sum() + layers[1](x).sum()  # type: ignore[index]

    saved = saved_activation_bytes(net, loss)
    assert (saved.bytes, saved.tensors[0].times) == (120, 2)


def test_weights_and_buffers_saved_for_the_input_gradient_do_not_count():
    def loss(layer: nn.Module) -> torch.Tensor:
        return layer(torch.ones(5, 6, requires_grad=True)).sum()

    assert saved_activation_bytes(linear(weight=False), loss).bytes == 0


def test_dropout_keeps_its_mask():
    def loss(net: nn.Module) -> torch.Tensor:
        return net(torch.ones(5, 6, requires_grad=True)).sum()

    # The mask is kept as bool, or as float already scaled, depending on the kernel: never both.
    saved = saved_activation_bytes(nn.Dropout(0.5), loss)
    assert [t.shape for t in saved.tensors] == [(5, 6)]
    assert saved.bytes in (30, 120)


def test_addresses_used_again_are_not_missed():
    net = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)])

    def loss(layers: nn.Module) -> torch.Tensor:
        return layers(torch.ones(16, 64)).sum()

    # Every linear keeps its input, every GELU its own.
    assert saved_activation_bytes(net, loss).bytes == 16 * 16 * 64 * 4


def test_ignored_tensors_and_sparse_ones():
    x = torch.ones(5, 6)
    assert saved_activation_bytes(linear(weight=True), lambda layer: layer(x).sum(), ignore=[x]).bytes == 0

    sparse = torch.eye(4).to_sparse()
    dense = nn.Linear(4, 4, bias=False)
    saved = saved_activation_bytes(dense, lambda m: torch.sparse.mm(sparse, m.weight).sum())
    assert saved.bytes == 2 * 4 * 8 + 4 * 4  # two int64 indices and one float a value


def vit_mebibytes(trains, checkpointing: bool = False) -> float:
    """Saved MiB of a ViT-Ti/16 at 224, batch 8, counted without its memory."""
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=100)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name) or name.startswith("head"))
    model.set_grad_checkpointing(checkpointing)
    with weightless_copy(model) as twin:
        return saved_activation_bytes(
            twin, lambda m: F.cross_entropy(m(torch.zeros(8, 3, 224, 224)), torch.zeros(8, dtype=torch.long))
        ).mebibytes


def test_known_numbers_of_a_vit():
    # Measured on real tensors: 229.05, 145.94, 141.34, 1.157, 20.77 MiB.
    assert round(vit_mebibytes(lambda name: True), 2) == 229.05
    assert round(vit_mebibytes(lambda name: name.endswith("bias")), 2) == 145.94
    assert round(vit_mebibytes(lambda name: "norm" in name), 2) == 141.34
    assert round(vit_mebibytes(lambda name: False), 3) == 1.157
    assert round(vit_mebibytes(lambda name: True, checkpointing=True), 2) == 20.77


def test_weightless_and_real_counts_agree():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, img_size=32, depth=2, embed_dim=48, num_heads=3
    )

    def loss(m: nn.Module) -> torch.Tensor:
        return F.cross_entropy(m(torch.zeros(4, 3, 32, 32)), torch.zeros(4, dtype=torch.long))

    real = saved_activation_bytes(model, loss)
    with weightless_copy(model) as twin:
        assert saved_activation_bytes(twin, loss) == real
    assert real.mebibytes == real.bytes / MIB
