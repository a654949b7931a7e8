"""What a file is that is no image we read, told by its first bytes; so that a person knows what to do."""

import re

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is read, by PIL's names. No others: some of its plugins start programs (EPS), some are little tried."""

_KNOWN = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<WEBP>RIFF.{4}WEBP)|(?P<GIF>GIF8)|(?P<BMP>BM.{4}\0\0\0\0)"
    rb"|(?P<TIFF>II\*\0|MM\0\*|II\+\0|MM\0\+)|(?P<PPM>P[1-6f]\s)",
    re.DOTALL,
)

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "a pointer of Git LFS; fetch the image itself with `git lfs pull`"),
    (rb"%PDF-", "a PDF document; save the page as PNG or JPEG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing; save it as PNG or JPEG"),
    (rb"8BPS", "a Photoshop document; save it as PNG or JPEG"),
    (rb".{4}ftypavi[fs]", "an AVIF image; save it as PNG or JPEG"),
    (rb".{4}ftyp(hei|hev|mif|msf)", "a HEIC image, as phones take them; save it as JPEG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image; save it as PNG or JPEG"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 image; save it as PNG or JPEG"),
    (rb"\0\0\x01\0[\x01-\x20]\0", "a Windows icon; save it as PNG"),
    (rb"SIMPLE  =", "a FITS file; save it as PNG"),
    (rb"DDS ", "a DDS texture; save it as PNG"),
    (
        rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI |\0\0\x01\xba|.{4}moov|FLV",
        "a video; save the frame that is meant",
    ),
    (rb"ID3|OggS|fLaC|RIFF.{4}WAVE", "a sound"),
    (rb"PK\x03\x04", "a ZIP archive, or a document that is one; unpack it"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed file; unpack it"),
    (rb"\x93NUMPY", "a NumPy array; save it as PNG"),
    (rb"\x89HDF", "an HDF5 file; save the image as PNG"),
    (
        rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)",
        "an HTML page, perhaps in place of a failed download",
    ),
    (rb"(?i)\s*(<\?xml.*?>\s*)?(<!--.*?-->\s*)?(<!doctype svg.*?>\s*)?<svg", "an SVG drawing; save it as PNG"),
    (rb"\s*<\?xml", "an XML document"),
    (rb"\s*[{\[]", "JSON, perhaps in place of a failed download"),
    (rb"data:image/", "the text of a data: URL; decode it, or write it into the record"),
    (rb"/9j/|iVBORw0KGgo", "an image in base64, as text; decode it"),
)
_OTHER_KINDS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _OTHERS)
_LOOKED_AT = 1024  # bytes


def claimed_format(content: bytes) -> str | None:
    """The one of FORMATS that the bytes begin like."""
    found = _KNOWN.match(content)
    return found.lastgroup if found else None


def seems(content: bytes) -> str:
    """What bytes that are no image we read seem to be: 'it seems to be a PDF document; save …'."""
    head = content[:_LOOKED_AT].removeprefix(b"\xef\xbb\xbf")
    for pattern, name in _OTHER_KINDS:
        if pattern.match(head):
            return f"it seems to be {name}"
    if not head.strip(b"\0"):
        return "it is filled with zeros; copy it again"
    if _is_text(head):
        return f"it seems to be text, and begins with {head[:30].decode(errors='replace')!r}"
    return f"it is of an unknown kind; {', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"


def _is_text(head: bytes) -> bool:
    try:
        text = head[: _LOOKED_AT - 4].decode()
    except UnicodeDecodeError as error:
        if error.end < min(len(head), _LOOKED_AT - 4):  # else only the last letter was cut
            return False
        text = head[: error.start].decode()
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)
