"""What a keyboard and a screen reader need, and smalldocs 0.5.4 leaves out: a way past
the menus, names of the landmarks, buttons that are buttons."""

import re

SKIP = '<a class="skip-link" href="#quarto-document-content">Skip to the lesson</a>'
CHANGES = [
    (r"<body([^>]*)>", rf"<body\1>{SKIP}", 1),
    (r'<main class="content"', r'<main tabindex="-1" class="content"', 1),
    (r'<nav class="navbar ', r'<nav aria-label="Site" class="navbar ', 1),
    (r'<nav id="quarto-sidebar"', r'<nav aria-label="Course" id="quarto-sidebar"', 1),
    (
        r'<div id="quarto-margin-sidebar"',
        r'<div role="complementary" aria-label="About this page" '
        r'id="quarto-margin-sidebar"',
        None,
    ),
    (
        r'<nav class="page-navigation"',
        r'<nav aria-label="Previous and next page" class="page-navigation"',
        None,
    ),
    # sections of the sidebar: the name is the button, the arrow is a picture
    (
        r'<a class="sidebar-item-text sidebar-link text-start"([^>]*) role="navigation"'
        r"([^>]*)>(.*?)</a>",
        r'<button type="button" class="sidebar-item-text sidebar-link text-start"\1\2>'
        r"\3</button>",
        None,
    ),
    (
        r'(<a class="sidebar-item-toggle[^>]*) role="navigation"([^>]*)'
        r' aria-label="Toggle section">',
        r'\1\2 aria-hidden="true">',
        None,
    ),
    (
        r'<a onclick="window.scrollTo\(0, 0\); return false;" role="button"',
        r'<a href="#quarto-header"',
        None,
    ),
    (
        r'title="Toggle dark mode"',
        r'title="Toggle dark mode" role="button" aria-label="Toggle dark mode"',
        None,
    ),
    (r"<th></th>", r"<td></td>", None),  # the corner of a table heads nothing
]


def with_access(html):
    "A page that can be used without a mouse and without seeing it."
    for old, new, times in CHANGES:
        html, changed = re.subn(old, new, html)
        if times is not None and changed != times:
            raise ValueError(f"{old} is {changed} times on the page")
    return html
