from PIL import Image as PIL
from PIL import ImageOps


def pixels(picture):
    return ImageOps.exif_transpose(PIL.open(picture.path)).convert("RGB")
