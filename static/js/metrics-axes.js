/* What all charts share: colours from the style sheet, axes, and the height of the y axis. */
(function () {
  "use strict";
  var words = window.berthMetrics.words;
  var WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
  var cache = {};
  var probe = null;

  /* A canvas knows no CSS variables: "ink-1" → the colour that var(--chart-ink-1) is now. */
  function colour(name) {
    if (!cache[name]) {
      if (!probe) {
        probe = document.createElement("i");
        probe.hidden = true;
        document.getElementById("metrics").appendChild(probe);
      }
      probe.style.color = "var(--chart-" + name + ")";
      cache[name] = window.getComputedStyle(probe).color;
    }
    return cache[name];
  }

  function faint(name, alpha) {
    var parts = colour(name).match(/[\d.]+/g);
    return "rgba(" + parts.slice(0, 3).join(",") + "," + alpha + ")";
  }

  function font() { return "11px " + window.getComputedStyle(document.body).fontFamily; }

  function grid() { return { stroke: function () { return colour("grid"); }, width: 1 }; }

  function axes(unit) {
    var text = function () { return colour("text"); };
    return [
      { stroke: text, font: font(), size: 40, gap: 6, space: 66, grid: { show: false },
        ticks: { stroke: function () { return colour("line"); }, width: 1, size: 4 },
        border: { show: true, stroke: function () { return colour("line"); }, width: 1 },
        values: function (u, splits, axisIndex, space, increment) { return words.ticks(splits, increment); } },
      { stroke: text, font: font(), size: 58, gap: 6, space: unit === "whole" ? 22 : 34, grid: grid(), ticks: { show: false },
        incrs: unit === "whole" ? WHOLE : undefined,
        values: function (u, splits) { return words.axis(unit, splits); } },
    ];
  }

  /* The top of the y axis for what is drawn; it starts at 0, so that heights can be compared.
     A threshold that is far above everything is left to the legend: it would press the lines flat. */
  function top(unit, most, limit) {
    if (unit === "percent") {
      if (limit || most > 50) return Math.max(100, most * 1.05);
      return most > 20 ? 50 : most > 10 ? 20 : 10;
    }
    if (unit === "whole") return Math.max(1, most) * 1.06 + 0.3;
    if (limit && (limit <= most * 4 || !most)) most = Math.max(most, limit);
    return most > 0 ? most * 1.12 : 1;
  }

  /* Calls back whenever the colours are other ones. */
  function onTheme(callback) {
    new MutationObserver(function () { cache = {}; callback(); })
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
  }

  window.berthMetrics.axes = { colour: colour, faint: faint, axes: axes, top: top, onTheme: onTheme };
})();
