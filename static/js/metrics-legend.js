/* A chart's legend: what each line is, and its value as text: at the cursor, or the last one that was measured. */
(function () {
  "use strict";
  var words = window.berthMetrics.words;
  var SHOWN = 6; // replicas before "n more"
  var RECENT = 2; // figures of replicas come a slot later than the gateway's

  function node(tag, className, text) {
    var made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  }

  function Legend(figure, say, chart) {
    this.list = figure.querySelector("[data-legend]");
    this.say = say;
    this.chart = chart;
    this.items = [];
    this.shape = null;
    this.all = false;
  }

  /* rows in the reader's order. */
  Legend.prototype.show = function (rows) {
    var shape = rows.map(function (row) { return row.kind + row.label; }).join("|") + this.all;
    if (shape !== this.shape) this.build(rows);
    this.shape = shape;
    this.items.forEach(function (item, i) { item.row = rows[i]; });
  };

  Legend.prototype.build = function (rows) {
    var legend = this;
    var replicas = 0;
    this.list.textContent = "";
    this.items = rows.map(function (row) {
      var item = legend.item(row);
      if (row.kind === "replica" && ++replicas > SHOWN && !legend.all) item.element.hidden = true;
      return item;
    });
    if (replicas > SHOWN) this.more(rows, replicas - SHOWN);
  };

  Legend.prototype.item = function (row) {
    var legend = this;
    var element = node("li", "is-" + row.kind);
    var button = node("button");
    var item = { element: element, row: row, value: node("b", "num"), button: button };
    button.type = "button";
    button.title = row.title || this.say("hide");
    button.setAttribute("aria-pressed", String(!this.chart.hidden[row.label]));
    button.append(node("i", "chart-key key-" + row.ink + " look-" + row.look), node("span", "", row.label));
    button.addEventListener("click", function () {
      legend.chart.toggle(item.row);
      button.setAttribute("aria-pressed", String(!legend.chart.hidden[item.row.label]));
    });
    ["mouseenter", "focus"].forEach(function (name) {
      button.addEventListener(name, function () { legend.chart.emphasise(item.row); });
    });
    ["mouseleave", "blur"].forEach(function (name) {
      button.addEventListener(name, function () { legend.chart.emphasise(null); });
    });
    element.append(button, item.value);
    this.list.append(element);
    return item;
  };

  Legend.prototype.more = function (rows, count) {
    var legend = this;
    var element = node("li");
    var button = node("button", "chart-more", this.all ? this.say("less") : this.say("more").replace("%s", count));
    button.type = "button";
    button.setAttribute("aria-expanded", String(this.all));
    button.addEventListener("click", function () {
      legend.all = !legend.all;
      legend.show(rows);
      legend.chart.tell();
      legend.list.querySelector(".chart-more").focus();
    });
    element.append(button);
    this.list.append(element);
  };

  function recent(values, at) {
    for (var i = at; i >= 0 && i >= at - RECENT; i--) if (values[i] !== null) return values[i];
    return null;
  }

  /* Returns it all as one sentence. `newest`: there is no cursor. */
  Legend.prototype.tell = function (at, newest, unit) {
    var legend = this;
    return this.items.map(function (item) {
      var figure = newest ? recent(item.row.values, at) : item.row.values[at];
      var text = words.value(unit, figure);
      if (item.value.textContent !== text) item.value.textContent = text;
      item.element.classList.toggle("is-none", item.row.kind === "replica" && text === words.NONE);
      return item.row.label + " " + (text === words.NONE ? legend.say("none") : text);
    }).join(", ");
  };

  /* The line that is nearest to the mouse stands out here, too. */
  Legend.prototype.mark = function (row) {
    this.items.forEach(function (item) { item.element.classList.toggle("is-near", item.row === row); });
  };

  window.berthMetrics.Legend = Legend;
})();
