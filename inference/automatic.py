"""Which weights an image takes if nobody has chosen any: those for clean images, or those for photographs.

The former cannot tell compression artefacts from details, and sharpen both. The latter were trained on blurred, noisy
and compressed images, and are a little worse on clean ones. Evaluations and simulations never choose.
"""

from utils.image import Lossy

CLEAN, PHOTOS = "softgate-pcsr-phase1", "softgate-pcsr-photo"  # each is configs/NAME.yaml and save/NAME
# A JPEG of a higher quality counts as clean. On Set14 the weights for photographs are ahead there by 0.05 dB if colours
# are stored coarsely (4:2:0), and behind by 0.05 to 0.1 dB if they are not (docs/experiments.md).
CLEAN_QUALITY = 97


def weights_for(lossy: Lossy | None, clean: str = "neither JPEG nor lossy WebP") -> tuple[str, str]:
    """CLEAN or PHOTOS, for a file of this compression; and why, for people.

    `clean` says why an image is clean that was not compressed.
    """
    if lossy is None or (lossy.quality or 0) > CLEAN_QUALITY:
        return CLEAN, f"{lossy or clean}: weights for clean images"
    return PHOTOS, f"{lossy}: weights for photographs"
