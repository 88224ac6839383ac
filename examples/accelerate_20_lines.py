"""The shortest loop with Accelerate, for methods without policies; all others: `accelerate_loop.py`."""

import torch
from accelerate import Accelerator

import vitune
from vitune.backbones import create

labels = torch.arange(48) % 3  # made-up images: class k is brighter in channel k
images = torch.randn(48, 3, 64, 64) + torch.eye(3)[labels][:, :, None, None]
tuned = vitune.apply(create("vitune_vit_nano_patch8_64", num_classes=3), vitune.LoRA(rank=4))
assert not tuned.policies
loader = torch.utils.data.DataLoader(list(zip(images, labels, strict=True)), batch_size=12, shuffle=True)
accelerator, optimizer = Accelerator(), torch.optim.AdamW(tuned.parameters(), lr=1e-3)
model, optimizer, loader = accelerator.prepare(tuned.model, optimizer, loader)
for inputs, targets in loader:
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
tuned.save("adapter")
