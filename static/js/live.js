/* Live parts: <div data-live="/ws/…">. A frame is HTML; each of its top elements replaces the one with its id.
   Elements are morphed, not swapped, so that a ticked box, an open menu, the focus and a text selection stay.
   The server sends something at least every two seconds: silence means that the connection is dead. */
(function () {
  "use strict";

  var SILENCE_MS = 4500;
  var RETRY_MS = [250, 500, 1000, 2000, 2500];
  var ENDED = { 4401: "signed-out", 4403: "no-access", 4404: "no-access" };
  // What a script or a person changed on these must survive: open menus, typed and ticked inputs, unfolded details.
  var OWN = { "data-bs-toggle": true };

  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    var tag = old.nodeName;
    if (tag === "TIME" && old.getAttribute("datetime") === fresh.getAttribute("datetime")) return;
    if (old.hasAttribute("data-elapsed-since") && old.getAttribute("data-elapsed-since") === fresh.getAttribute("data-elapsed-since")) return;
    attributes(old, fresh, tag);
    if (tag === "INPUT" || tag === "TEXTAREA" || tag === "SELECT") return;
    children(old, fresh);
  }

  function attributes(old, fresh, tag) {
    var menu = old.classList.contains("dropdown-menu") || old.hasAttribute("data-bs-toggle");
    var keep = function (name) {
      if (menu && (name === "class" || name === "style" || name.indexOf("aria-") === 0 || name.indexOf("data-popper") === 0)) return true;
      if (tag === "DETAILS" && name === "open") return true;
      if (name === "title" && !fresh.hasAttribute("title")) return true;
      return name === "data-said" || name === "data-live" || OWN[name] === true;
    };
    var copied = old.classList.contains("is-copied");
    Array.prototype.slice.call(old.attributes).forEach(function (attr) {
      if (!fresh.hasAttribute(attr.name) && !keep(attr.name)) old.removeAttribute(attr.name);
    });
    Array.prototype.slice.call(fresh.attributes).forEach(function (attr) {
      if (!keep(attr.name) && old.getAttribute(attr.name) !== attr.value) old.setAttribute(attr.name, attr.value);
    });
    if (copied) old.classList.add("is-copied");
  }

  function children(old, fresh) {
    var byId = {};
    for (var node = old.firstElementChild; node; node = node.nextElementSibling) if (node.id) byId[node.id] = node;
    var at = old.firstChild;
    Array.prototype.slice.call(fresh.childNodes).forEach(function (wanted) {
      var match = wanted.id ? byId[wanted.id] : null;
      if (match) {
        if (match !== at) old.insertBefore(match, at); else at = at.nextSibling;
        morph(match, wanted);
        return;
      }
      // A keyed old element is wanted elsewhere or not at all: never turn it into another one.
      if (at && !wanted.id && !at.id && at.nodeName === wanted.nodeName) {
        var next = at.nextSibling;
        morph(at, wanted);
        at = next;
        return;
      }
      old.insertBefore(wanted, at);
    });
    while (at) {
      var gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function apply(html, host) {
    var template = document.createElement("template");
    template.innerHTML = html;
    var seen = false;
    Array.prototype.slice.call(template.content.children).forEach(function (fresh) {
      var old = fresh.id && document.getElementById(fresh.id);
      if (old) {
        morph(old, fresh);
        seen = true;
      } else if (fresh.id && fresh.id === host.getAttribute("data-live-reload-when") && fresh.querySelector("tr[id^='ep-me-']")) {
        window.location.reload();
      }
    });
    if (seen) document.dispatchEvent(new CustomEvent("berth:swapped"));
  }

  function mark(state) {
    var say = window.berth ? window.berth.say : function (x) { return x; };
    document.querySelectorAll("[data-live-mark]").forEach(function (element) {
      if (element.getAttribute("data-live") === state) return;
      element.setAttribute("data-live", state);
      element.textContent = state === "on" ? say("live") : state === "off" ? say("reconnecting") : say(element.getAttribute("data-ended") || "no-access");
    });
  }

  function connect(host) {
    var tries = 0;
    var socket = null;
    var watchdog = 0;
    var retry = 0;
    var stopped = false;
    var opened = 0;

    function quiet() {
      // No word for too long: this connection is dead, whatever the browser thinks.
      if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
      again();
    }

    function heard() {
      window.clearTimeout(watchdog);
      watchdog = window.setTimeout(quiet, SILENCE_MS);
    }

    function again() {
      window.clearTimeout(watchdog);
      if (stopped || !document.contains(host)) return;
      mark("off");
      window.clearTimeout(retry);
      retry = window.setTimeout(open, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
    }

    function open() {
      if (stopped || !document.contains(host)) return;
      var url = new URL(host.getAttribute("data-live"), window.location.href);
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      socket = new WebSocket(url);
      opened = Date.now();
      watchdog = window.setTimeout(quiet, SILENCE_MS);
      socket.onmessage = function (event) {
        heard();
        if (Date.now() - opened > 5000) tries = 0;
        mark("on");
        if (event.data) apply(event.data, host);
      };
      socket.onclose = function (event) {
        if (ENDED[event.code]) {
          stopped = true;
          window.clearTimeout(watchdog);
          document.querySelectorAll("[data-live-mark]").forEach(function (e) { e.setAttribute("data-ended", ENDED[event.code]); });
          mark("ended");
          return;
        }
        again();
      };
    }

    open();
    return function () {
      stopped = true;
      window.clearTimeout(watchdog);
      window.clearTimeout(retry);
      if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
    };
  }

  var running = new Map();
  function scan() {
    running.forEach(function (stop, host) {
      if (!document.contains(host)) { stop(); running.delete(host); }
    });
    document.querySelectorAll("div[data-live], section[data-live], tbody[data-live]").forEach(function (host) {
      if (!running.has(host)) running.set(host, connect(host));
    });
  }
  document.addEventListener("htmx:afterSettle", scan);
  window.addEventListener("pageshow", function (event) { if (event.persisted) { running.forEach(function (stop) { stop(); }); running.clear(); scan(); } });
  window.berthLive = { apply: apply, morph: morph };
  scan();
})();
