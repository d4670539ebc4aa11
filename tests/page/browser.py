"""Headless Chromium by the WebDriver protocol, without any library."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request


def missing():
    """The programs that are needed and not there."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


def until(condition, what, seconds=60):
    """Waits until a condition holds, and returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Browser:
    """One page of one browser."""

    def __init__(self, directory):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True,
                                       stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(directory)})
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.split('port ')[1].strip().rstrip('.')}"
                break
        else:
            raise AssertionError("chromedriver does not start")
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                            "--force-device-scale-factor=1", f"--user-data-dir={directory}/profile"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()[:500]}") from None

    def to(self, method, path, body=None):
        return self.ask(method, self.session + path, body)

    def open(self, url):
        self.to("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What a function with this body returns in the page."""
        return self.to("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command, **parameters):
        return self.to("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width, height, dark=False, touch=False):
        """Of this size and in these colours from now on."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=2 if touch else 1, mobile=touch)
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=colours)

    def press(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.to("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def shoot(self, path, whole=False):
        """A picture of the screen, or of the whole page."""
        parameters = {"format": "png"}
        if whole:
            size = self.run("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
            parameters |= {"captureBeyondViewport": True,
                           "clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}
        path.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot", **parameters)["data"]))

    def complaints(self):
        """What the console has, but for the failed requests of a gateway that is gone."""
        entries = self.to("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if not re.search("ERR_CONNECTION|^chrome://", entry["message"])]

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def close(self):
        try:
            self.to("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()
