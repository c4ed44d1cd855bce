# SPDX-License-Identifier: Apache-2.0
"""A bucket on localhost, in memory, with faults on demand.

It speaks the part of the Google Cloud Storage JSON API that gcsfs, tensorstore
and orbax use; its one bucket is called `bucket`.

Objects are put whole and carry a generation, a write may ask for the one that
it replaces (ifGenerationMatch), and listings are consistent, as in the real
service. `fault` decides about each request before it is served: None lets it
pass, a status refuses it, and DROP closes the connection.
"""

import contextlib
import http.server
import itertools
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from unittest import mock

DROP = -1  # no answer at all
BUCKET = "bucket"


class ObjectStore:
  """The server; `url` is its address, `objects` what is in the bucket."""

  def __init__(self) -> None:
    self.objects: dict[str, tuple[int, bytes]] = {}  # key: generation, content
    self.requests: list[tuple[str, str]] = []  # (method, key or path)
    self.fault: Callable[[str, str], int | None] = lambda method, key: None
    self.lock = threading.Lock()
    self._generations = itertools.count(1)
    self._uploads: dict[str, tuple[str, dict, bytearray]] = {}
    self._server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self})
    )
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}"
    self._thread = threading.Thread(
      target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
    )
    self._thread.start()

  def stop(self) -> None:
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()

  def clear(self) -> None:
    """An empty bucket without faults."""
    with self.lock:
      self.objects.clear()
      self.requests.clear()
      self.fault = lambda method, key: None

  def environment(self) -> dict[str, str]:
    """What points gcsfs, tensorstore and orbax of a process here."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
      "GOOGLE_CLOUD_PROJECT": "none",
      "NO_GCE_CHECK": "true",
      "NO_PROXY": "127.0.0.1",
      "no_proxy": "127.0.0.1",
    }

  def files(self, prefix: str = "") -> dict[str, bytes]:
    """Contents by key, below a prefix which the keys lose."""
    with self.lock:
      return {
        key.removeprefix(prefix): content
        for key, (_, content) in self.objects.items()
        if key.startswith(prefix)
      }

  def put(self, key: str, content: bytes, query: dict) -> int | dict:
    """Stores one object; a status where the condition fails."""
    with self.lock:
      now = self.objects.get(key, (0, b""))[0]
      if int(query.get("ifGenerationMatch", now)) != now:
        return 412
      self.objects[key] = (next(self._generations), content)
      return self.about(key)

  def about(self, key: str) -> dict:
    generation, content = self.objects[key]
    return {
      "kind": "storage#object",
      "bucket": BUCKET,
      "name": key,
      "size": str(len(content)),
      "generation": str(generation),
      "metageneration": "1",
      "contentType": "application/octet-stream",
      "timeCreated": "2026-01-01T00:00:00.000Z",
      "updated": "2026-01-01T00:00:00.000Z",
    }

  def begin(self, key: str, query: dict) -> str:
    number = f"u{next(self._generations)}"
    self._uploads[number] = (key, query, bytearray())
    return number

  def more(self, number: str, content: bytes, last: bool) -> int | dict | None:
    """Adds a piece to a resumable upload; stores the object at its end."""
    key, query, held = self._uploads[number]
    held += content
    return self.put(key, bytes(held), query) if last else None


class _Handler(http.server.BaseHTTPRequestHandler):
  store: ObjectStore
  protocol_version = "HTTP/1.1"

  def __getattr__(self, name: str):
    if name.startswith("do_"):  # whatever the method is
      return self._serve
    raise AttributeError(name)

  def handle(self) -> None:
    with contextlib.suppress(ConnectionError):  # a client may hang up
      super().handle()

  def log_message(self, *_) -> None:
    pass

  def _serve(self) -> None:
    length = int(self.headers.get("Content-Length") or 0)
    self.body = self.rfile.read(length)
    parsed = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(parsed.query))
    path = re.sub(r"^/(upload|download)(?=/)", "", parsed.path)
    match = re.fullmatch(r"/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", path)
    named = urllib.parse.unquote(match[2]) if match and match[2] else ""
    key = named or self.query.get("name", "")
    if not key and self.query.get("uploadType") == "multipart":
      key = self._parts()[0]["name"]
    if "upload_id" in self.query:
      key = self.store._uploads[self.query["upload_id"]][0]
    self.store.requests.append((self.command, key or path))
    fault = self.store.fault(self.command, key or path)
    if fault == DROP:
      self.close_connection = True
    elif fault is not None:
      self._say(fault, {"error": {"code": fault, "message": "injected"}})
    elif parsed.path.startswith("/batch"):
      self._batch()
    elif match and match[1] != BUCKET:
      self._say(404, {"error": {"code": 404, "message": "no such bucket"}})
    elif not match:
      self._say(501, {"error": {"code": 501, "message": self.path}})
    else:
      self._object(parsed.path, named, path.endswith("/o"))

  def _object(self, path: str, key: str, listing: bool) -> None:
    store, query = self.store, self.query
    if path.startswith("/upload"):
      self._upload()
    elif "/rewriteTo/" in key or "/copyTo/" in key:
      source, _, target = re.split(r"/(rewriteTo|copyTo)/b/[^/]+/o/", key)
      done = store.put(target, store.objects[source][1], {})
      self._say(200, {"done": True, "resource": done})
    elif self.command == "GET" and listing:
      self._say(200, self._list())
    elif self.command == "GET" and not key:
      self._say(200, {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET})
    elif key not in store.objects:
      self._say(404, {"error": {"code": 404, "message": "No such object"}})
    elif self.command == "DELETE":
      self._say(self._delete(key, query))
    elif query.get("alt") == "media":
      self._content(*store.objects[key])
    else:
      self._say(200, store.about(key))

  def _content(self, generation: int, content: bytes) -> None:
    wanted = self.query.get("ifGenerationMatch")
    if wanted is not None and int(wanted) != generation:
      return self._say(412)
    if self.query.get("ifGenerationNotMatch") == str(generation):
      return self._say(304)
    headers = {"x-goog-generation": str(generation)}
    part = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    if part is None:
      return self._say(200, content, headers)
    start = int(part[1])
    stop = min(int(part[2] or len(content)) + 1, len(content))
    if start >= len(content):
      return self._say(416)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return self._say(206, content[start:stop], headers)

  def _delete(self, key: str, query: dict) -> int:
    with self.store.lock:
      if key not in self.store.objects:
        return 404
      now = self.store.objects[key][0]
      if int(query.get("ifGenerationMatch", now)) != now:
        return 412
      del self.store.objects[key]
    return 204

  def _list(self) -> dict:
    query, items, prefixes = self.query, [], {}
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    with self.store.lock:
      for key in sorted(self.store.objects):
        rest = key.removeprefix(prefix)
        if not key.startswith(prefix) or key < query.get("startOffset", ""):
          continue
        if "endOffset" in query and key >= query["endOffset"]:
          continue
        if delimiter and delimiter in rest:
          prefixes[prefix + rest.partition(delimiter)[0] + delimiter] = None
        else:
          items.append(self.store.about(key))
    limit = int(query.get("maxResults", 1000))
    start = int(query.get("pageToken", 0))
    both = [*((p, None) for p in prefixes), *((i["name"], i) for i in items)]
    page = sorted(both, key=lambda pair: pair[0])[start : start + limit]
    found: dict = {
      "items": [item for _, item in page if item],
      "prefixes": [name for name, item in page if not item],
    }
    if start + limit < len(both):
      found["nextPageToken"] = str(start + limit)
    return found

  def _parts(self) -> tuple[dict, bytes]:
    """Metadata and content of a multipart upload."""
    kind = self.headers["Content-Type"]
    boundary = re.search(r"boundary=\"?([^\";]+)", kind)
    assert boundary, kind
    mark = b"--" + boundary[1].strip("'").encode()
    _, about, content = self.body.split(mark)[:3]
    about = re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1]
    content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
    return json.loads(about), re.sub(rb"\r?\n$", b"", content)

  def _upload(self) -> None:
    query, store = self.query, self.store
    if "upload_id" in query:
      number = query["upload_id"]
      sent = self.headers.get("Content-Range", "")
      done = store.more(number, self.body, last=not sent.endswith("/*"))
      if done is None:
        held = len(store._uploads[number][2])
        return self._say(308, headers={"Range": f"bytes=0-{held - 1}"})
    elif query["uploadType"] == "resumable":
      key = query.get("name") or json.loads(self.body)["name"]
      number = store.begin(key, query)
      where = f"{store.url}/upload/storage/v1/b/{BUCKET}/o?upload_id={number}"
      return self._say(200, {}, {"Location": where})
    elif query["uploadType"] == "multipart":
      about, content = self._parts()
      done = store.put(about["name"], content, query)
    else:
      done = store.put(query["name"], self.body, query)
    return self._say(done) if isinstance(done, int) else self._say(200, done)

  def _batch(self) -> None:
    answers = []
    for found in re.finditer(rb"DELETE /storage/v1/b/[^/]+/o/(\S+)", self.body):
      key = urllib.parse.unquote(found[1].decode().partition("?")[0])
      answers.append(
        "--batch\r\nContent-Type: application/http\r\n\r\n"
        f"HTTP/1.1 {self._delete(key, {})} -\r\n\r\n"
      )
    text = "".join([*answers, "--batch--"]).encode()
    kind = {"Content-Type": "multipart/mixed; boundary=batch"}
    self._say(200, text, kind)

  def _say(
    self, status: int, body: bytes | dict = b"", headers: dict | None = None
  ) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/json" if isinstance(body, dict) else "binary/octet"
    with contextlib.suppress(ConnectionError):
      self.send_response(status)
      for name, value in ({"Content-Type": kind} | (headers or {})).items():
        self.send_header(name, value)
      if status not in (204, 304):
        self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      if status not in (204, 304):
        self.wfile.write(content)


@contextlib.contextmanager
def serve() -> Iterator[ObjectStore]:
  """A running store, which this process and its children use as gs://."""
  store = ObjectStore()
  try:
    with mock.patch.dict(os.environ, store.environment()):
      yield store
  finally:
    store.stop()
