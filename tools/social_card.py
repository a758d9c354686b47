"""Draw the picture that a link to the course shows elsewhere (og:image): 1200 x 630, the
overview figure of the results page under the course's name.
python tools/social_card.py"""

from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

NBS = Path(__file__).resolve().parent.parent / "nbs"
CARD = NBS / "vendor" / "card.png"
BLUE = "#1a5fb4"  # of the bar at the top of the site


def font(size, weight):
    "Matplotlib's own font: the same on every machine."
    path = font_manager.findfont(f"DejaVu Sans:{weight}", fallback_to_default=False)
    return ImageFont.truetype(path, size)


def draw():
    card = Image.new("RGB", (1200, 630), "white")
    pen = ImageDraw.Draw(card)
    pen.rectangle((0, 0, 1200, 140), fill=BLUE)
    pen.text((50, 24), "Variational autoencoders", "white", font(46, "bold"))
    line = "a course in PyTorch notebooks, every equation checked"
    pen.text((52, 88), line, "white", font(27, "normal"))
    figure = Image.open(NBS / "results" / "overview.png").convert("RGBA")
    figure = figure.resize((1020, 1020 * figure.height // figure.width), Image.LANCZOS)
    card.paste(figure, (90, 150), figure)
    few = card.quantize(
        96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )  # by coverage: a median cut merges a digit's colour with another's
    few.save(CARD, optimize=True)


if __name__ == "__main__":
    draw()
