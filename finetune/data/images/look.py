import hashlib
import io
from pathlib import Path

from PIL import Image as PIL
from PIL import ImageOps

from finetune.data.images.access import WrongImageError
from finetune.data.images.picture import Picture
from finetune.disk import cache_folder


def look(image):
    if image.data is not None:
        h = hashlib.sha256(image.data).hexdigest()
        p = cache_folder() / "images" / h
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(image.data)
        path = str(p)
    else:
        path = image.path
    try:
        b = Path(path).read_bytes()
    except OSError as e:
        raise WrongImageError("E310", f"{path}: {e.strerror}")
    im = ImageOps.exif_transpose(PIL.open(io.BytesIO(b)))
    return Picture(path, hashlib.sha256(b).hexdigest(), *im.size)
