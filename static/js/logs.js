/* One replica's log: a bounded tail, painted once a frame, however fast lines come. */
(function () {
  "use strict";
  var MOST = 2000;
  var card = document.querySelector("[data-log]");
  if (!card) return;
  var box = card.querySelector("[data-log-lines]");
  var follow = card.querySelector("[data-log-follow]");
  var filter = card.querySelector("[data-log-filter]");
  var markElement = card.querySelector("[data-log-mark]");
  var say = window.berth.say;
  var lines = [];
  var fresh = 0;
  var repaint = true;
  var planned = false;

  function wanted(line) {
    var needle = filter.value.toLowerCase();
    return !needle || line.toLowerCase().indexOf(needle) >= 0;
  }

  function paint() {
    planned = false;
    var stick = follow.checked;
    if (repaint || fresh >= lines.length) {
      box.textContent = "";
      append(lines);
    } else {
      append(lines.slice(lines.length - fresh));
      while (box.childNodes.length > MOST) box.firstChild.remove();
    }
    box.classList.toggle("is-empty", lines.length === 0);
    fresh = 0;
    repaint = false;
    if (stick) box.scrollTop = box.scrollHeight;
  }

  function append(some) {
    var part = document.createDocumentFragment();
    some.filter(wanted).forEach(function (line) { part.appendChild(document.createTextNode(line + "\n")); });
    box.appendChild(part);
  }

  function plan() {
    if (!planned) { planned = true; window.requestAnimationFrame(paint); }
  }

  function take(more) {
    lines = lines.concat(more);
    fresh += more.length;
    if (lines.length > MOST) lines = lines.slice(-MOST);
    plan();
  }

  function mark(state, text) {
    markElement.setAttribute("data-live", state);
    markElement.textContent = text;
  }

  var tries = 0;
  var watchdog = 0;
  function connect() {
    var url = new URL(card.getAttribute("data-log"), window.location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    var socket = new WebSocket(url);
    function again() {
      window.clearTimeout(watchdog);
      mark("off", say("reconnecting"));
      window.setTimeout(connect, Math.min(250 * Math.pow(2, tries++), 2500));
    }
    function heard() {
      window.clearTimeout(watchdog);
      watchdog = window.setTimeout(function () { socket.onclose = socket.onmessage = null; socket.close(); again(); }, 4500);
    }
    heard();
    socket.onmessage = function (event) {
      heard();
      tries = 0;
      mark("on", say("live"));
      if (!event.data) return;
      var message = JSON.parse(event.data);
      if (message.all) { lines = []; repaint = true; }
      take(message.lines);
    };
    socket.onclose = function (event) {
      if (event.code >= 4400 && event.code < 4500) {
        window.clearTimeout(watchdog);
        mark("ended", say(event.code === 4401 ? "signed-out" : "no-access"));
        return;
      }
      again();
    };
  }

  filter.addEventListener("input", function () { repaint = true; plan(); });
  follow.addEventListener("change", plan);
  box.addEventListener("scroll", function () {
    var end = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
    if (!end && follow.checked && box.scrollHeight > box.clientHeight) follow.checked = false;
    else if (end) follow.checked = true;
  });
  connect();
})();
