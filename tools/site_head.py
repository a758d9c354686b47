"""What the head of a page tells those that link to it: its address, a description, and a
picture (tools/social_card.py)."""

import re
from html import escape

from site_links import has_address

CARD = "vendor/card.png"
ALT = "The test digits of MNIST in a VAE's latent space, and what it decodes at each point."


def with_head(html, page, up, config):
    "Absolute addresses only when the site has one; else they hold on this site."
    home = f"{config.doc_host}{config.doc_baseurl}/" if has_address(config) else up
    tags = [
        '<meta property="og:type" content="article">',
        f'<meta property="og:image" content="{home}{CARD}">',
        '<meta property="og:image:width" content="1200">',
        '<meta property="og:image:height" content="630">',
        f'<meta property="og:image:alt" content="{escape(ALT)}">',
        '<meta name="twitter:card" content="summary_large_image">',
    ]
    if has_address(config):
        tags += [
            f'<link rel="canonical" href="{home}{page}">',
            f'<meta property="og:url" content="{home}{page}">',
        ]
    if '<meta name="description"' not in html:
        title = re.search(r"<title>(.*?) – ", html)[1]
        about = f"{title}, of the course {config.title}"
        tags.append(f'<meta name="description" content="{about}">')
        tags.append(f'<meta property="og:description" content="{about}">')
    return html.replace("</head>", "".join(tags) + "</head>", 1)
