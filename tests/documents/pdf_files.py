"""Small PDFs, written by hand: with rotated pages, form fields, a password, nothing in them, or damage."""

import hashlib
import struct
import zlib
from pathlib import Path

PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
FILE_ID = bytes(range(16))


def page_of(colour: str = "0 0 0", box: str = "0 0 200 300", extra: str = "", content: str = "") -> bytes:
    """A page: a field of this colour (red, green, blue from 0 to 1) in its top left quarter."""
    left, bottom, right, top = (float(number) for number in box.split())
    width, height = (right - left) / 2, (top - bottom) / 2
    drawn = content or f"{colour} rg {left} {bottom + height} {width} {height} re f"
    return f"[{box}] {extra}|{drawn}".encode()


def pdf(pages: list[bytes], more: dict[int, bytes] | None = None, catalog: str = "") -> bytes:
    """A whole PDF of pages from `page_of`. Objects in `more` have numbers from 100 on."""
    kids = " ".join(f"{10 + 2 * place} 0 R" for place in range(len(pages)))
    objects = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
    }
    for place, page in enumerate(pages):
        facts, _, drawn = page.partition(b"|")
        number = 10 + 2 * place
        contents = b" /Contents %d 0 R" % (number + 1)
        objects[number] = b"<< /Type /Page /Parent 2 0 R /MediaBox " + facts + contents + b" >>"
        objects[number + 1] = stream(drawn)
    return assembled(objects | (more or {}))


def stream(content: bytes, facts: str = "") -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (facts.encode(), len(content), content)


def assembled(objects: dict[int, bytes], trailer: bytes = b"") -> bytes:
    """The objects as a file, with its table of where they are."""
    out = bytearray(b"%PDF-1.7\n")
    table = bytearray(b"xref\n0 1\n0000000000 65535 f \n")
    for number, content in sorted(objects.items()):
        table += b"%d 1\n%010d 00000 n \n" % (number, len(out))
        out += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    start = len(out)
    out += table + b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (max(objects) + 1, trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def form_pdf(xfa: bool = False) -> bytes:
    """A white page whose only mark is the look of a filled form field, black, in its top left quarter."""
    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /F 4 /Rect [0 150 100 300]"
    field += b" /AP << /N 101 0 R >> >>"
    look = stream(b"0 g 0 0 100 150 re f", "/Type /XObject /Subtype /Form /BBox [0 0 100 150]")
    page = page_of(content="1 g 0 0 200 300 re f", extra="/Annots [100 0 R]")
    more = "/XFA 102 0 R" if xfa else ""
    objects = {100: field, 101: look, 102: stream(b"<xdp:xdp/>")}
    return pdf([page], objects, f"/AcroForm << /Fields [100 0 R] {more} >>")


def picture_pdf(width: int, height: int) -> bytes:
    """A page that shows a picture which says that it has this size; there is next to nothing in it."""
    facts = f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /BitsPerComponent 8"
    image = stream(zlib.compress(b"\0" * 100), facts + " /ColorSpace /DeviceGray /Filter /FlateDecode")
    page = page_of(content="200 0 0 300 0 0 cm /P Do", extra="/Resources << /XObject << /P 100 0 R >> >>")
    return pdf([page], {100: image})


def locked_pdf(password: str) -> bytes:
    """One black page behind a password: the standard handler's revision 2, RC4 with 40 bits."""
    secret = (password.encode() + PADDING)[:32]
    owner = rc4(hashlib.md5(secret).digest()[:5], secret)
    rights = struct.pack("<i", -4)
    key = hashlib.md5(secret + owner + rights + FILE_ID).digest()[:5]
    page_key = hashlib.md5(key + struct.pack("<I", 11)[:3] + b"\0\0").digest()[:10]
    drawn = b"0 g 0 0 200 300 re f"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [10 0 R] /Count 1 >>",
        10: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 11 0 R >>",
        11: stream(rc4(page_key, drawn)),
        20: b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>"
        % (owner.hex().encode(), rc4(key, PADDING).hex().encode()),
    }
    identity = FILE_ID.hex().encode()
    return assembled(objects, b"/Encrypt 20 0 R /ID [<%s> <%s>]" % (identity, identity))


def rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def damaged_pdf() -> bytes:
    """It begins as a PDF does, and that is all."""
    return b"%PDF-1.7\n" + b"\x93\x8f nothing of use " * 200


def make_pdf(path: Path, *colours: str) -> Path:
    """A PDF with a page for each colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pdf([page_of(colour) for colour in colours]))
    return path
