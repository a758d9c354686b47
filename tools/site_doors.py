"""What stands around the lessons on the site: search, links, words, the way for keyboards
and screen readers, the head, the downloads. One module each; here they are put together."""

import functools
import shutil

from downloads import write_downloads
from site_access import with_access
from site_glossary import terms, with_anchors, with_terms
from site_head import with_head
from site_links import COPIES, with_pages_linked
from site_search import with_box, write_index

words_of = functools.cache(terms)


def with_doors(html, page, up, pages, config):
    "A page (its path on the site) with its doors; `pages` are those of the notebooks."
    words = words_of(config.nbs_path)
    html = with_pages_linked(html, up, pages)
    html = with_access(with_box(html, up))
    html = with_head(html, page, up, config)
    html = with_anchors(html, words) if page == "glossary.html" else html
    return with_terms(html, page, words, up, pages)


def write_doors(site, notebooks, config):
    "What the pages' doors lead to, once all pages are written."
    write_index(site, config.nbs_path / "search_words.yml")
    shutil.rmtree(site / "site_libs" / "fuse")  # of the search that is not ours
    shutil.copy(config.config_path / "LICENSE", site / COPIES["LICENSE"])
    write_downloads(site, notebooks, config)
