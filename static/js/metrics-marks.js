/* The autoscaler's decisions above the replicas: ▲ more, ▼ fewer, ◆ up and down, ● something holds it up. Those that would lie on each
   other are one mark. Pointing at one shows its sentence and its moment in all charts; it leads to the decision. */
(function () {
  "use strict";
  var words = window.berthMetrics.words;
  var APART = 18; // px
  var TOLD = 4; // sentences in one tip
  var ON_PAGE = 10;
  var LEAVE_MS = 150;

  function kind(item) { return item.after > item.before ? "up" : item.after < item.before ? "down" : "held"; }

  var SIGNS = { up: "▲", down: "▼", held: "●", both: "◆" };

  /* Of neighbours: where they lead together. */
  function kindOf(items) {
    var all = kind({ before: items[0].before, after: items[items.length - 1].after });
    return all === "held" && items.some(function (item) { return kind(item) !== "held"; }) ? "both" : all;
  }

  function Marks(chart, page) {
    this.chart = chart;
    this.page = page;
    this.decisions = [];
    this.pool = [];
    this.strip = document.createElement("div");
    this.strip.className = "chart-marks";
    this.tip = document.createElement("div");
    this.tip.className = "chart-tip";
    this.tip.id = "decision-tip";
    this.tip.setAttribute("role", "tooltip");
    this.tip.hidden = true;
    this.tip.addEventListener("mouseenter", this.stay.bind(this));
    this.tip.addEventListener("mouseleave", this.closeSoon.bind(this));
    chart.plot.after(this.strip, this.tip);
  }

  Marks.prototype.show = function (decisions) {
    this.decisions = decisions.slice().sort(function (a, b) { return a.at - b.at; });
    this.place();
  };

  /* Neighbours together: [{left, items}], positions in px of the plot. */
  Marks.prototype.groups = function (u) {
    var groups = [];
    this.decisions.forEach(function (item) {
      var left = u.valToPos(item.at, "x");
      if (left < 0 || left > u.over.clientWidth) return;
      var last = groups[groups.length - 1];
      if (last && left - last.left < APART) last.items.push(item);
      else groups.push({ left: left, items: [item] });
    });
    return groups;
  };

  Marks.prototype.place = function () {
    var u = this.chart.u;
    if (!u) return;
    var marks = this;
    var groups = this.groups(u);
    var inset = u.over.offsetLeft + u.root.offsetLeft;
    groups.forEach(function (group, i) {
      var mark = marks.pool[i] || marks.make(i);
      marks.fill(mark, group);
      mark.left = Math.round(inset + group.left);
      mark.style.transform = "translateX(" + mark.left + "px)"; // moving on with time is no shift of the layout
    });
    this.pool.splice(groups.length).forEach(function (mark) { mark.remove(); });
    if (this.shown && !this.shown.isConnected) this.close();
  };

  Marks.prototype.make = function (index) {
    var mark = document.createElement(this.page.decisions ? "a" : "button");
    if (mark.tagName === "BUTTON") mark.type = "button";
    mark.setAttribute("aria-describedby", this.tip.id);
    var open = this.open.bind(this, mark);
    var close = this.close.bind(this);
    mark.addEventListener("mouseenter", open);
    mark.addEventListener("focus", open);
    mark.addEventListener("mouseleave", this.closeSoon.bind(this));
    mark.addEventListener("blur", close);
    mark.addEventListener("keydown", function (event) { if (event.key === "Escape") close(); });
    this.strip.append(mark);
    this.pool[index] = mark;
    return mark;
  };

  Marks.prototype.fill = function (mark, group) {
    var newest = group.items[group.items.length - 1];
    var sort = kindOf(group.items);
    mark.group = group;
    var name = "chart-mark is-" + sort;
    if (mark.className !== name) mark.className = name;
    var sign = SIGNS[sort];
    if (mark.textContent !== sign) mark.textContent = sign;
    mark.setAttribute("aria-label", words.moment(newest.at, 1) + ": " + newest.text);
    if (this.page.decisions) mark.href = this.address(newest);
  };

  /* The page of decisions shows the newest ones: an older one's address begins with itself. */
  Marks.prototype.address = function (item) {
    if (!item.id) return this.page.decisions;
    var newer = this.decisions.length - 1 - this.decisions.indexOf(item);
    return this.page.decisions + (newer < ON_PAGE ? "" : "?before=" + (item.id + 1)) + "#decision-" + item.id;
  };

  Marks.prototype.open = function (mark) {
    this.stay();
    var items = mark.group.items.slice().reverse();
    var tip = this.tip;
    tip.textContent = "";
    items.slice(0, TOLD).forEach(function (item) {
      var line = document.createElement("p");
      var time = document.createElement("time");
      time.dateTime = words.iso(item.at);
      time.className = "num";
      time.textContent = words.moment(item.at, 1);
      line.append(time, " " + item.text);
      tip.append(line);
    });
    if (items.length > TOLD) {
      var rest = document.createElement("p");
      rest.className = "muted";
      rest.textContent = this.page.say("more").replace("%s", items.length - TOLD);
      tip.append(rest);
    }
    tip.hidden = false;
    this.shown = mark;
    var room = this.strip.clientWidth - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(room, mark.left - tip.offsetWidth / 2)) + "px";
    this.chart.pointAt(items[0].at);
  };

  /* The mouse may go on into the tip. */
  Marks.prototype.stay = function () { window.clearTimeout(this.leaving); };

  Marks.prototype.closeSoon = function () {
    this.stay();
    this.leaving = window.setTimeout(this.close.bind(this), LEAVE_MS);
  };

  Marks.prototype.close = function () {
    this.stay();
    this.tip.hidden = true;
    this.shown = null;
    this.chart.leave();
  };

  window.berthMetrics.Marks = Marks;
})();
