"""Computes the losses: next-token loss, and two helping losses whose heads are thrown away afterwards.

The helpers pull the model over its plateau: the vision tower says which characters have their centre in
each patch, and an early text block says where on the page the next token is. Everything here has fixed
shapes and no host reads, so that it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo_model.batches import SLOTS
from tools.demo_model.model import DemoConfig, DemoModel, Rotary, VisionGeometry, VisionOutput

X_BINS, X_STEP = 128, 8.0  # pixels
Y_BINS, Y_STEP = 128, 8.0  # finer than any leading, or neighbouring lines of small type look alike
PLACE_LAYER = 2  # the text block that says where the next token is
CHARACTER_WEIGHT, PLACE_WEIGHT = 0.5, 0.4
BLANK_WEIGHT = 0.2  # most slots of most patches are empty
LINE_STEP, LINE_START_WEIGHT = 4.0, 3.0  # a reader that goes to a wrong line is lost for the rest of the page
BOX_WEIGHT = 0.5  # a box's last digits are guesses, and reading matters more

SPOILED_PAGES, MOST_SPOILED = 0.5, 0.08  # of the pages; of such a page's tokens

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StepInputs:
    """One batch on the device. T answer tokens, P patches in merge-block order."""

    pages: Tensor  # [B, h, w], -1 to 1
    answers: Tensor  # int64 [B, T], padded
    lengths: Tensor  # int64 [B]
    places: Tensor  # float32 [B, T, 2] pixels (x, y), nan where a token is nowhere
    characters: Tensor  # int64 [B, P, SLOTS], 0 for an empty slot


@dataclass(frozen=True)
class Shape:
    """The constants of all batches of one page size and prompt."""

    geometry: VisionGeometry
    rotary: Rotary
    lead: Tensor  # int64 [n] tokens before the image
    prompt: Tensor  # int64 [n] tokens between the image and the answer
    marks: Tensor  # int64 [V] 1 where a token begins a box, -1 where it ends one, else 0
    texts: Tensor  # bool [V] whether a token is text, not a tag and not special


@dataclass(frozen=True)
class StepLosses:
    """Scalars on the device; the accuracy leaves out the numbers of boxes."""

    total: Tensor
    reading: Tensor
    character: Tensor
    place: Tensor
    accuracy: Tensor


class Helpers(nn.Module):
    """The heads of the helping losses."""

    def __init__(self, config: DemoConfig, characters: int) -> None:
        super().__init__()
        self.characters = nn.Linear(config.vision_hidden, SLOTS * (characters + 1))
        self.places = nn.Linear(config.hidden, X_BINS + Y_BINS)

    def initialise(self) -> None:
        """Set all to zero: they pull on the model only once they have learned something themselves."""
        for weight in self.parameters():
            with torch.no_grad():
                weight.zero_()


def mean_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over rows; logits [N, K], labels int64 [N], weights float32 [N]."""
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return (loss * weights).sum() / weights.sum().clamp(min=1)


def in_boxes(answers: Tensor, marks: Tensor) -> Tensor:
    """Find the tokens that are the numbers of a box; answers int64 [B, T], marks int64 [V] -> bool [B, T]."""
    marked = marks[answers]
    return (marked.cumsum(1) > 0) & (marked == 0)


def spoiled(answers: Tensor, lengths: Tensor, boxed: Tensor, texts: Tensor) -> Tensor:
    """Replace some text of the answers, as if the reader had misread it. Tags and boxes stay.

    A reader that has only seen right answers is lost after its first mistake. Half of the replacements are
    text from elsewhere on the page, which misleads the most.
    answers int64 [B, T], lengths int64 [B], boxed bool [B, T] from in_boxes, texts bool [V] -> int64 [B, T].
    """
    pages, device = len(answers), answers.device
    share = (torch.rand(pages, 1, device=device) - (1 - SPOILED_PAGES)) * (MOST_SPOILED / SPOILED_PAGES)
    place = (torch.rand(answers.shape, device=device) * lengths[:, None]).long()
    elsewhere = answers.gather(1, place)
    anything = torch.randint(len(texts), answers.shape, device=device)
    other = torch.where(torch.rand(answers.shape, device=device) < 0.5, elsewhere, anything)
    text = texts[answers] & texts[other] & ~boxed
    return torch.where(text & (torch.rand(answers.shape, device=device) < share), other, answers)


def reading_states(
    model: DemoModel, vision: VisionOutput, inputs: StepInputs, shape: Shape
) -> tuple[Tensor, Tensor]:
    """Return the streams that predict the answer, [B, T, hidden]: after PLACE_LAYER and the last block."""
    pages, length = inputs.answers.shape
    lead = model.embed(shape.lead).expand(pages, -1, -1)
    prompt = model.embed(shape.prompt).expand(pages, -1, -1)
    stream = torch.cat((lead, vision.tokens, prompt, model.embed(inputs.answers[:, :-1])), dim=1)
    states = model.text(stream, shape.rotary, vision, len(shape.lead))
    start = stream.shape[1] - length
    return states[PLACE_LAYER][:, start:], states[-1][:, start:]


def line_weights(places: Tensor) -> Tensor:
    """Return [B, T] LINE_START_WEIGHT for a token on a lower line than the one before it, else 1."""
    lower = places[:, 1:, 1] - places[:, :-1, 1] > LINE_STEP
    return F.pad(torch.where(lower, LINE_START_WEIGHT, 1.0), (1, 0), value=1.0)


def place_loss(logits: Tensor, inputs: StepInputs, counted: Tensor, cross_entropy: LossFunction) -> Tensor:
    """Score where each answer token is, in bins; logits [B, T, X_BINS + Y_BINS], counted float32 [B, T]."""
    weights = (counted * ~inputs.places.isnan().any(-1)).flatten()
    spots = inputs.places.nan_to_num()
    column = (spots[..., 0] / X_STEP).long().clamp(0, X_BINS - 1)
    row = (spots[..., 1] / Y_STEP).long().clamp(0, Y_BINS - 1)
    x, y = (part.contiguous() for part in logits.split((X_BINS, Y_BINS), dim=-1))
    return cross_entropy(x.flatten(0, 1), column.flatten(), weights) + cross_entropy(
        y.flatten(0, 1), row.flatten(), weights
    )


def character_loss(logits: Tensor, labels: Tensor, cross_entropy: LossFunction) -> Tensor:
    """Score the characters of each patch; logits [B, P, SLOTS * K], labels int64 [B, P, SLOTS]."""
    rows = logits.unflatten(-1, (SLOTS, -1)).flatten(0, 2)
    flat = labels.flatten()
    return cross_entropy(rows, flat, torch.where(flat == 0, BLANK_WEIGHT, 1.0))


def step_losses(
    model: DemoModel, helpers: Helpers, inputs: StepInputs, shape: Shape, cross_entropy: LossFunction
) -> StepLosses:
    """Compute all losses of one batch. Pass a compiled mean_cross_entropy where speed matters."""
    vision = model.vision(inputs.pages, shape.geometry)
    boxed = in_boxes(inputs.answers, shape.marks)
    misread = replace(inputs, answers=spoiled(inputs.answers, inputs.lengths, boxed, shape.texts))
    early, last = reading_states(model, vision, misread, shape)
    logits = model.logits(last)
    order = torch.arange(inputs.answers.shape[1], device=logits.device)
    counted = order < inputs.lengths[:, None]  # [B, T]
    lines = line_weights(inputs.places) * counted
    weights = torch.where(boxed, BOX_WEIGHT, lines).mul(counted).flatten()
    reading = cross_entropy(logits.flatten(0, 1), inputs.answers.flatten(), weights)
    character = character_loss(helpers.characters(vision.patches), inputs.characters, cross_entropy)
    place = place_loss(helpers.places(early), inputs, lines, cross_entropy)
    read = counted & ~boxed
    right = (logits.detach().argmax(-1) == inputs.answers) & read
    return StepLosses(
        total=reading + CHARACTER_WEIGHT * character + PLACE_WEIGHT * place,
        reading=reading.detach(),
        character=character.detach(),
        place=place.detach(),
        accuracy=right.sum() / read.sum().clamp(min=1),
    )
