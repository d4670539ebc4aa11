"""The page in front of a gateway that is only simulated: 1,000 peers and 100,000 topics."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What nobody should be able to put into the page.
HOSTILE = "<img src=x onerror=document.title='hacked'>\"'&"


def report(shown):
    """A report with `shown` items in each list, as the gateway makes it."""
    now = int(time.time())
    rates = {"published": 1234.5, "delivered": 61725.0, "dropped": 3.2, "refused": 0.4}

    def page(total, item):
        return {"total": total, "items": [item(n) for n in range(min(total, shown))]}

    def lanes(n):
        names = ("control", "critical", "high", "normal", "low")
        return [{"lane": name, "messages": n * place, "bytes": n * place * 300} for place, name in enumerate(names)]

    def peer(n):
        return {"node": f"app{n}@host-{n % 97}.example", "kind": ("beam", "gateway", "other")[n % 3 if n < 5 else 0],
                "creation": n, "connected": n % 11 != 3, "since": now - 60 * n, "processes": n * 3,
                "lanes": lanes(n % 7), "waiting_bytes": 3000 * (n % 7), "bytes_in": n << 20, "bytes_out": n << 24,
                "dropped": n % 5 * 17, "silent_ms": n, "round_trip_us": n * 10 or None, "held_ms": None}

    def channel(n):
        return {"channel": HOSTILE if n == 3 else f"esdb_channel_number_{n}", "priority": "normal", "max_rate": None,
                "hmac": "optional", "replay_last": False, "topics": 100_000, "subscriptions": 1_000_000,
                "nodes": page(1000, lambda m: {"node": f"app{m}@h", "subscriptions": 9, "processes": 1}),
                "published": 10 ** 9, "relayed": 5, "delivered": 10 ** 12, "dropped": {"queue_full": n},
                "refused": {}, "rates": {**rates, "delivered": 60000 / (n + 1)}}

    def slow(n):
        return {"node": f"app{n}@h", "connected": True, "losing": n < 3, "dropped": 1000 - n, "by_channel": {},
                "waiting_messages": 5, "waiting_bytes": 1 << 20, "held_ms": 3, "advice": "look at its message queues"}

    def lost(n):
        return {"at": now - n * 60, "node": HOSTILE if n == 0 else f"app{n}@h", "address": "10.0.0.1",
                "origin": "accepted", "stage": "authentication", "reason": HOSTILE, "times": n + 1, "lasted_seconds": None}

    node = "gater1@10.0.0.1"
    members = [{"node": f"gater{n}@10.0.0.{n}", "id": str(n), "role": "voter", "connected": True, "matched": 7}
               for n in (1, 2, 3)]
    alarm = {"name": "subscriber_drops", "severity": "warning", "subject": "app1@h", "text": HOSTILE,
             "next_step": HOSTILE, "since": now - 100}
    return {
        "status": {
            "node": node, "version": "0.1.0", "commit": "0", "creation": 1, "now": now, "started_at": now - 10 ** 6,
            "uptime_seconds": 10 ** 6, "ready": True, "checks": [{"name": "quorum", "ok": True, "reason": ""}],
            "config": {"port": 4370, "data_dir": "/var/lib/esdb-gater"},
            "totals": {"peers": 1000, "gateways": 2, "stores": 500, "registrations": 5000, "subscriptions": 10 ** 6,
                       "topics": 100_000, "sessions": 900, "published": 10 ** 9, "relayed": 0, "delivered": 10 ** 12,
                       "dropped": 12345, "refused": 17},
            "rates": rates, "process": {"pid": 1, "memory_bytes": 10 ** 9, "descriptors": 1100, "descriptor_limit": 8192,
                                        "disk_free_bytes": 10 ** 11, "disk_total_bytes": 10 ** 12},
            "role": "leader", "leader": node, "health": "healthy", "alarms": 1},
        "cluster": {"node": node, "id": "1", "role": "leader", "health": "healthy", "term": 4, "leader": node,
                    "quorum": {"voters": 3, "reached": 3, "needed": 2, "held": True, "silent_ms": 1},
                    "log": {"last": 18251, "applied": 18251, "snapshot": 15000, "purged": 14000},
                    "members": members, "never_seen": [], "refused": 0},
        "peers": page(1000, peer), "stores": page(500, lambda n: {"store": f"store_{n}", "workers": 500 - n, "offered": 499 - n}),
        "channels": page(200, channel), "slow": page(1000, slow), "alarms": [alarm] * min(shown, 20),
        "lost_connections": page(100, lost),
        "history": {"until": now, **{name: [int(rate * (1 + n % 60 / 60)) for n in range(300)] for name, rate in rates.items()}}}


class Simulated:
    """Serves the page from its sources, and such a report."""

    def __init__(self, folder, shown):
        body = json.dumps(report(shown)).encode()
        files = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"),
                 "/page.js": ("page.js", "text/javascript")}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path in files:
                    name, kind = files[self.path]
                    content = (folder / name).read_bytes()
                else:
                    kind, content = "application/json", body
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
