/* Which span of time is shown. It stands in the address, so that a link shows the same to someone else:
   ?range=6h follows the present, ?from=…&to=… (seconds since 1970) stands still. */
(function () {
  "use strict";
  var LEAST_S = 60;

  function whole(text) { return /^\d{1,11}$/.test(text || "") ? Number(text) : NaN; }

  function same(a, b) { return a.range === b.range && a.from === b.from && a.to === b.to; }

  /* plan: {ranges: {name: seconds}, default}; now() is the server's clock. */
  function Range(root, plan, now, changed) {
    this.root = root;
    this.ranges = plan.ranges;
    this.names = Object.keys(plan.ranges).sort(function (a, b) { return plan.ranges[a] - plan.ranges[b]; });
    this.default = plan.default;
    this.now = now;
    this.changed = changed;
    this.before = []; // what zooming out goes back to
    this.view = this.read();
    root.addEventListener("click", this.onClick.bind(this));
    window.addEventListener("popstate", this.onBack.bind(this));
    this.mark();
  }

  Range.prototype.read = function () {
    var query = new URLSearchParams(window.location.search);
    var from = whole(query.get("from"));
    var to = whole(query.get("to"));
    var longest = this.ranges[this.names[this.names.length - 1]];
    if (to - from >= LEAST_S && from < this.now()) return { from: Math.max(from, to - longest), to: to };
    return { range: this.ranges[query.get("range")] ? query.get("range") : this.default };
  };

  /* {from, to, live}: seconds since 1970; live: it ends now. */
  Range.prototype.span = function () {
    if (!this.view.range) return { from: this.view.from, to: this.view.to, live: false };
    var now = Math.floor(this.now());
    return { from: now - this.ranges[this.view.range], to: now, live: true };
  };

  Range.prototype.choose = function (view) {
    if (same(view, this.view)) return;
    this.view = view;
    var query = view.range ? "?range=" + view.range : "?from=" + view.from + "&to=" + view.to;
    window.history.pushState(null, "", query);
    this.mark();
    this.changed();
  };

  Range.prototype.zoom = function (from, to) {
    var middle = (from + to) / 2;
    var half = Math.max(to - from, LEAST_S) / 2;
    var last = this.view;
    this.choose({ from: Math.round(middle - half), to: Math.round(middle + half) });
    if (this.view !== last) this.before.push(last);
  };

  Range.prototype.zoomAround = function (at) {
    var span = this.span();
    var quarter = (span.to - span.from) / 4;
    this.zoom(at - quarter, at + quarter);
  };

  /* Back to where it was zoomed from; else to the next longer range. */
  Range.prototype.wider = function () {
    var length = this.span().to - this.span().from;
    var reach = this.view.range ? length + 1 : Math.max(length + 1, this.now() - this.view.from);
    var ranges = this.ranges;
    return this.names.filter(function (name) { return ranges[name] >= reach; })[0];
  };

  Range.prototype.zoomOut = function () {
    var to = this.before.pop();
    if (to && !same(to, this.view)) { this.choose(to); return; }
    var name = this.wider() || (this.view.range ? null : this.names[this.names.length - 1]);
    if (name) this.choose({ range: name });
  };

  /* Half a window earlier (-1) or later (1). What reaches the present follows it again. */
  Range.prototype.shift = function (way) {
    var span = this.span();
    var length = span.to - span.from;
    var to = Math.round(span.to + way * length / 2);
    var ranges = this.ranges;
    var name = this.names.filter(function (n) { return ranges[n] === length; })[0];
    this.before = [];
    if (to >= this.now() && name) this.choose({ range: name });
    else if (to >= this.now()) this.choose({ from: Math.floor(this.now()) - length, to: Math.floor(this.now()) });
    else this.choose({ from: to - length, to: to });
  };

  Range.prototype.onClick = function (event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    var link = event.target.closest("[data-range]");
    if (link) {
      event.preventDefault();
      this.before = [];
      this.choose({ range: link.getAttribute("data-range") });
    }
    if (event.target.closest("[data-zoom-out]")) this.zoomOut();
    if (event.target.closest("[data-earlier]")) this.shift(-1);
    if (event.target.closest("[data-later]")) this.shift(1);
  };

  Range.prototype.onBack = function () {
    this.view = this.read();
    this.mark();
    this.changed();
  };

  Range.prototype.mark = function () {
    var view = this.view;
    this.root.querySelectorAll("[data-range]").forEach(function (link) {
      if (link.getAttribute("data-range") === view.range) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    this.root.querySelector("[data-later]").disabled = Boolean(view.range);
    this.root.querySelector("[data-zoom-out]").disabled = !this.before.length && Boolean(view.range) && !this.wider();
  };

  window.berthMetrics.Range = Range;
})();
