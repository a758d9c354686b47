"What the tests of the docs site share: its pages, a server, a visit to a page."

import gzip
import http.server

import docs
import notebooks

ROOT = docs.ROOT
ROUTE = [path.relative_to(notebooks.NBS) for _, path in notebooks.route()]
PAGES = [docs.page_of(path).with_suffix(".html").as_posix() for path in ROUTE]
NOTEBOOK_OF = dict(zip(PAGES, ROUTE))
LIVE = "inside/live_figures.html"


class Server(http.server.SimpleHTTPRequestHandler):
    "Files with gzip, as any host of static pages sends them."

    def do_GET(self):
        path = self.translate_path(self.path.rstrip("/") or "/index.html")
        try:
            with open(path, "rb") as file:
                body = file.read()
        except OSError:
            return self.send_error(404)
        packed = (
            gzip.compress(body, 6)
            if path.endswith((".html", ".js", ".css", ".json", ".svg", ".md", ".txt"))
            else body
        )
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if packed is not body:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        try:
            self.wfile.write(packed)
        except ConnectionError:
            # The page was closed early. Left alone, this thread prints a traceback,
            # and for its carets parses code: beside a test that parses code too,
            # Python 3.11.7 then fails with "AST constructor recursion depth mismatch".
            self.close_connection = True

    def log_message(self, *_):
        pass


class Visit:
    "A page, and what went wrong on it."

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**options)
        self.page, self.problems, self.received = self.context.new_page(), [], 0
        self.page.on(
            "console",
            lambda message: (
                self.problems.append(message.text)
                if message.type in ("error", "warning")
                and "Canvas2D" not in message.text
                else None
            ),
        )  # these tests read pixels
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "request",
            lambda request: (
                self.problems.append(f"asks for {request.url}")
                if not request.url.startswith(
                    (url.split("/")[0] + "//" + url.split("/")[2], "data:", "blob:")
                )
                else None
            ),
        )
        self.page.on(
            "response",
            lambda response: (
                self.problems.append(f"{response.status} {response.url}")
                if response.status >= 400
                else None
            ),
        )
        self.page.goto(url, wait_until="load")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()
