"""The card of a backbone as a page for people, made from the card for programs."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

# What is known of the terms of the data sets that backbones have been trained on.
_DATA_TERMS = {
    "tiny-imagenet": (
        "Tiny ImageNet, made by Stanford's CS231n from ImageNet: 64 px, 200 classes. The ImageNet terms of "
        "access apply: non-commercial research and education."
    )
}
_UNKNOWN_TERMS = "the terms of the data set apply."

_PAGE = """# {{ name }}

A plain timm `VisionTransformer`, pre-trained from random weights by `vitune pretrain`. This page is made \
from `{{ name }}.json` beside it, which holds everything here and more.
{% if interim %}
**Interim weights.** {{ note }} Judge methods on it by comparison, not by their absolute accuracy.
{% endif %}
| | |
| --- | --- |
| architecture | {% for key, value in architecture.items() %}`{{ key }}={{ value }}`\
{{ ", " if not loop.last }}{% endfor %} |
| parameters | {{ "{:,}".format(parameters) }} with the classifier of {{ num_classes }} classes |
| input | {{ input.size[1] }} x {{ input.size[2] }} RGB, mean {{ input.mean }}, std {{ input.std }} |
| data | {{ "{:,}".format(data.train) }} training and {{ "{:,}".format(data.val) }} validation images |
| top-1 accuracy | {{ "%.2f" % (100 * val_accuracy) }} % on the {{ "{:,}".format(data.val) }} \
validation images, after the last epoch, of the file as it is stored |
| file | fp16 safetensors, {{ "{:,}".format(bytes) }} bytes, sha256 `{{ sha256 }}` |
| seed | {{ seed }} |
| versions | {% for key, value in versions.items() %}{{ key }} {{ value }}\
{{ ", " if not loop.last }}{% endfor %} |

## Data and its terms

{{ terms }} The validation images were never trained on.

## Use

```python
import timm
import vitune.backbones  # registers the name

model = timm.create_model("{{ name }}", pretrained=True, num_classes=10)
```

## How it was trained
{% for stage in stages %}
Stage {{ loop.index }}{% if stage.command %}, {{ stage.epochs_done }} of {{ stage.settings.epochs }} \
epochs in {{ "%.0f" % (stage.seconds / 60) }} minutes on {{ stage.device }}:

```
{{ stage.command }}
```

{% if stage.note is defined %}{{ stage.note }}

{% endif -%}
| epoch | training loss | validation loss | top-1 |
| --- | --- | --- | --- |
{% for line in stage.log -%}
| {{ line.epoch }} | {{ "%.3f" % line.train_loss }} | {{ "%.3f" % line.val_loss }} | \
{{ "%.2f" % (100 * line.val_accuracy) }} % |
{% endfor -%}
{% else %}: weights `{{ stage.weights }}`, sha256 `{{ stage.sha256 }}`.
{% endif %}{% endfor %}"""


def readme(card: dict[str, Any]) -> str:
    """The page of one backbone.

    Args:
        card: The card, as `export_backbone` writes it.

    Returns:
        Markdown.
    """
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )  # Markdown
    name = card["data"]["name"]
    terms = _DATA_TERMS.get(name, f"`{name}`: {_UNKNOWN_TERMS}")
    return environment.from_string(_PAGE).render(card, terms=terms)
