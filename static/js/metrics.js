/* The Metrics tab: puts range, feed and charts together. */
(function () {
  "use strict";
  var root = document.getElementById("metrics");
  if (!root) return;
  var metrics = window.berthMetrics;
  var words = metrics.words;
  var plan = JSON.parse(document.getElementById("metrics-plan").textContent);
  var say = function (name) { return root.getAttribute("data-say-" + name) || name; };
  var state = root.querySelector("[data-state]");
  var tail = root.querySelector("[data-tail]");
  // The server's clock counts: a browser's that is wrong would ask for figures of the future.
  var ahead = Date.now() / 1000 - plan.now;
  var now = function () { return Date.now() / 1000 - ahead; };
  var shownAt = null;
  var zooming = false;

  var range = new metrics.Range(root, plan, now, function () {
    root.classList.add("is-loading");
    feed.open();
  });
  var feed = new metrics.Feed(root.getAttribute("data-metrics"), root.getAttribute("data-project"), say,
    function () { return range.span(); }, show, tell);

  var page = {
    say: say,
    decisions: root.getAttribute("data-decisions"),
    zoomOut: function () { range.zoomOut(); },
    zoomAround: function (at) { range.zoomAround(at); },
    // The selection is drawn in all charts, and each of them tells of it.
    zoom: function (from, to) {
      if (zooming) return;
      zooming = true;
      window.setTimeout(function () { zooming = false; });
      range.zoom(from, to);
    },
  };
  var charts = plan.charts.map(function (chart) {
    return new metrics.Chart(root.querySelector("[data-chart=" + chart.key + "]"), chart, page);
  });

  function show(picture, span) {
    var empty = metrics.merge.empty(picture);
    shownAt = now();
    root.classList.remove("is-loading");
    root.querySelector("[data-charts]").hidden = empty;
    root.querySelector("#metrics-keys").hidden = empty;
    root.querySelector("[data-empty]").hidden = !empty;
    if (empty) sayEmpty(span);
    else charts.forEach(function (chart) { chart.show(picture, span); });
    spanText = words.fill(say("span"), { from: words.moment(span.from, 60), to: words.moment(span.to, 60),
      step: words.span(picture.step), zone: words.zone });
    tail.hidden = !span.live;
  }
  var spanText = "";

  function sayEmpty(span) {
    var head = document.getElementById("ep-status"); // gone with the endpoint
    var status = head && head.getAttribute("data-status");
    var kind = !span.live ? "span" : status === "ASLEEP" ? "asleep" : status === "INACTIVE" ? "paused"
      : root.hasAttribute("data-served") && status !== "DEPLOYING" ? "span" : "new";
    root.querySelectorAll("[data-for]").forEach(function (part) { part.hidden = part.getAttribute("data-for") !== kind; });
  }

  function tell(news) {
    var live = news.kind === "ok" ? "on" : news.kind === "failed" ? "off" : "ended";
    var text = news.kind === "ok" ? spanText : news.kind === "ended" ? words.fill(say("ended"), { why: news.why })
      : words.fill(say(shownAt === null ? "failed-first" : "failed"),
        { why: news.why, at: shownAt === null ? "" : words.clock(shownAt), wait: news.wait });
    if (news.kind !== "ok" && root.getAttribute("data-feed") !== news.kind) window.berth.announce(text);
    root.setAttribute("data-feed", news.kind);
    state.classList.toggle("is-bad", live !== "on");
    if (state.textContent !== text) state.textContent = text;
    tail.setAttribute("data-live", live);
    tail.textContent = live === "on" ? say("live") : live === "off" ? window.berth.say("reconnecting") : "";
  }

  metrics.axes.onTheme(function () { charts.forEach(function (chart) { chart.redraw(); }); });
  new ResizeObserver(function () { charts.forEach(function (chart) { chart.resize(); }); }).observe(root);
  if (document.fonts) document.fonts.ready.then(function () { charts.forEach(function (chart) { chart.redraw(); }); });
  feed.open();
})();
