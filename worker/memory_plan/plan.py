"""What a card's memory is used for with given settings, whether it suffices, and how pictures are decoded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.call_sizes import CallSizes
from worker.memory_plan.cards import Card
from worker.memory_plan.weights import COMPONENTS, TEXT_1, TEXT_2, UNET, VAE, ModelWeights
from worker.memory_plan.working import DTYPE_BYTES, PX_PER_LATENT, unet_bytes, vae_bytes

# CUDA's context with the kernels of torch, cuBLAS and cuDNN; not part of what torch counts.
CONTEXT_BYTES = 600_000_000
# Workspaces of convolutions, cached prompts, and what lies unused between allocations. An estimate: without it a worker
# starts, but may have to save memory while it runs.
SPARE_BYTES = 500_000_000
# What the driver keeps of one captured step, with its inputs: some 2,000 kernels with their arguments. An estimate.
GRAPH_BYTES = 64_000_000

# Sides of the tiles that a picture may be decoded in, the best first; None: as a whole.
TILES_PX: tuple[int | None, ...] = (None, 512, 256)
TILE_CHOICES = {"none": None, "512": 512, "256": 256}
# Sizes of pictures at which a call may have another number of samples (`call_sizes.py`), in latent positions.
_SIZES = (64 * 64, 96 * 96, 128 * 128)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a worker."""

    base: ModelWeights
    refiner: ModelWeights | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the settings ask of a card.

    Args:
        dtype: float32, bfloat16 or float16.
        tile: the setting VAE_TILE_PX: auto, none, 512 or 256.
        rows: rows of a call at most where calls are not padded; None: `slots` or the table decides.
        loras: whether there are LoRAs at all.
        lora_bytes: of those that are kept on the device.
        largest_lora: of one of them.
        compiled: latent positions of the pictures whose steps are compiled, once for each number of chunks.
    """

    dtype: str
    refiner_offload: bool = False
    max_pixels: int = 1728 * 1024
    tile: str = "auto"
    slots: int | None = None
    rows: int | None = None
    loras: bool = False
    lora_bytes: int = 0
    largest_lora: int = 0
    compiled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bucket:
    """What pictures of one size need while they are drawn, and while one of them is decoded, in bytes."""

    positions: int
    samples: int
    step: int
    decode: int

    @property
    def megapixels(self) -> float:
        return self.positions * PX_PER_LATENT**2 / 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """A card's memory by use, in bytes.

    Args:
        working: the most that a step or a decode needs, whichever is more.
        lora_copy: the second copy of the UNet's weights, for merged LoRAs; 0 where there are none, or no room for it.
        tile_px: side of the tiles that pictures are decoded in; None: as a whole.
        graphs: what captured steps keep: memory of their own for the largest of them, and what the driver holds.
    """

    card: Card
    weights: int
    loras: int
    lora_copy: int
    working: int
    tile_px: int | None
    buckets: tuple[Bucket, ...]
    graphs: int = 0

    @property
    def needed(self) -> int:
        """Bytes without which the largest picture cannot be drawn: no second copy, no captured steps, nothing spare."""
        return CONTEXT_BYTES + self.weights + self.loras + self.working

    @property
    def total(self) -> int:
        """Bytes in use at the worst moment, as far as they can be told."""
        return self.needed + self.lora_copy + self.graphs + SPARE_BYTES

    @property
    def fits(self) -> bool:
        return self.needed <= self.card.total

    @property
    def is_tight(self) -> bool:
        """It fits only without anything to spare."""
        return self.fits and self.total > self.card.total


def make_plan(models: Models, wishes: Wishes, card: Card) -> Plan:
    """Return the plan for a card.

    With VAE_TILE_PX=auto, pictures are decoded in the largest tiles that leave something to spare, else in those that
    fit, else in the smallest; captured steps have no part in this choice, which changes pictures. The second copy for
    merged LoRAs is on the card where it fits with all else, captured steps included, which are twice as many then.
    """
    tiles = TILES_PX if wishes.tile == "auto" else (TILE_CHOICES[wishes.tile],)
    plans = [_with_tiles(models, wishes, card, tile) for tile in tiles]
    roomy = [plan for plan in plans if plan.total <= card.total]
    plan = next(iter(roomy or [plan for plan in plans if plan.fits]), plans[-1])
    plan = replace(plan, graphs=_graphs(models, wishes, card, second_copy=False))
    if not wishes.loras:
        return plan
    copy = models.base.count(UNET) * DTYPE_BYTES[wishes.dtype]
    with_copy = replace(plan, lora_copy=copy, graphs=_graphs(models, wishes, card, second_copy=True))
    return plan if with_copy.total > card.total else with_copy


def _graphs(models: Models, wishes: Wishes, card: Card, *, second_copy: bool) -> int:
    if not wishes.compiled or (wishes.refiner_offload and models.refiner is not None):
        return 0
    # Each is captured for every stage, and for the base's second copy; all of them share their working memory.
    number = 1 + (models.refiner is not None) + second_copy
    working = max(_bucket(models, wishes, card, None, positions).step for positions in wishes.compiled)
    return working + number * len(wishes.compiled) * GRAPH_BYTES


def _with_tiles(models: Models, wishes: Wishes, card: Card, tile_px: int | None) -> Plan:
    buckets = _buckets(models, wishes, card, tile_px)
    return Plan(
        card,
        _weights(models, wishes),
        wishes.lora_bytes,
        0,
        max(max(bucket.step, bucket.decode) for bucket in buckets),
        tile_px,
        buckets,
    )


def _weights(models: Models, wishes: Wishes) -> int:
    base, refiner = models.base, models.refiner
    count = sum(base.count(component) for component in COMPONENTS)
    if refiner is not None:
        # A refiner's encoder and VAE are the base's own where their weights are equal, as SDXL's are.
        own = sum(
            refiner.count(component)
            for component in (TEXT_1, TEXT_2, VAE)
            if component in refiner.networks and refiner.networks[component] != base.networks.get(component)
        )
        if wishes.refiner_offload:
            count += max(refiner.count(UNET) + own - base.count(UNET), 0)
        else:
            count += refiner.count(UNET) + own
    return count * DTYPE_BYTES[wishes.dtype]


def _buckets(models: Models, wishes: Wishes, card: Card, tile_px: int | None) -> tuple[Bucket, ...]:
    largest = wishes.max_pixels // PX_PER_LATENT**2
    sizes = sorted({*(size for size in _SIZES if size < largest), largest})
    return tuple(_bucket(models, wishes, card, tile_px, positions) for positions in sizes)


def _bucket(models: Models, wishes: Wishes, card: Card, tile_px: int | None, positions: int) -> Bucket:
    if wishes.rows is not None:
        samples = 2 * wishes.rows
    else:
        # The table asks for a picture's sides, and goes by the positions of its latents.
        sides_px = positions * PX_PER_LATENT, PX_PER_LATENT
        samples = 2 * CallSizes(card.name, wishes.dtype, wishes.slots).rows(*sides_px)
    stages = [model for model in (models.base, models.refiner) if model is not None]
    step = max(unet_bytes(model.channels, samples, positions, wishes.dtype) for model in stages)
    upcast = wishes.dtype == "float16" and models.base.upcast
    decode = vae_bytes(models.base.vae_channels, positions, "float32" if upcast else wishes.dtype, tile_px)
    if upcast:
        # The VAE's weights are twice as large while it works.
        decode += models.base.count(VAE) * DTYPE_BYTES["float16"]
    return Bucket(positions, samples, step, decode)
