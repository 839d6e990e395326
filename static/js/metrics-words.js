/* How the charts write figures and moments: localised, with their unit. Moments are seconds since 1970, shown in the
   browser's time zone. */
(function () {
  "use strict";
  var lang = document.documentElement.lang || "en";
  var NBSP = "\u00a0";
  var NONE = "–";

  function format(options) { return new Intl.NumberFormat(lang, options); }
  var byDigits = [0, 1, 2, 3].map(function (digits) { return format({ maximumFractionDigits: digits }); });
  var compact = format({ notation: "compact", maximumFractionDigits: 1 });
  var percents = [0, 1].map(function (digits) { return format({ style: "percent", maximumFractionDigits: digits }); });

  /* Three figures are enough for a chart. */
  function number(value) {
    var size = Math.abs(value);
    if (size >= 10000) return compact.format(value);
    return byDigits[size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3].format(value);
  }

  function milliseconds(value) {
    if (value < 1000) return (value < 10 ? byDigits[1] : byDigits[0]).format(value) + NBSP + "ms";
    if (value < 120000) return number(value / 1000) + NBSP + "s";
    return number(value / 60000) + NBSP + "min";
  }

  function value(unit, figure) {
    if (figure === null || figure === undefined) return NONE;
    if (unit === "per_second") return number(figure) + "/s";
    if (unit === "ms") return milliseconds(figure);
    if (unit === "percent") return percents[figure < 10 ? 1 : 0].format(figure / 100);
    if (unit === "whole") return byDigits[1].format(figure);
    return number(figure);
  }

  /* All labels of one axis in the same unit. */
  function axis(unit, splits) {
    var most = splits[splits.length - 1] || 0;
    return splits.map(function (split) {
      if (split === null) return "";
      if (unit === "percent") return percents[most < 5 ? 1 : 0].format(split / 100);
      if (unit !== "ms") return (most >= 10000 ? compact.format(split) : number(split)) + (unit === "per_second" ? "/s" : "");
      if (most < 1000) return byDigits[most < 5 ? 1 : 0].format(split) + NBSP + "ms";
      return byDigits[2].format(split / 1000) + NBSP + "s";
    });
  }

  function dates(options) {
    var made = new Intl.DateTimeFormat(lang, options);
    return function (at) { return made.format(new Date(at * 1000)); };
  }
  var clock = dates({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  var minute = dates({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  var day = dates({ day: "numeric", month: "short" });
  var dayMinute = dates({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  var dayClock = dates({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

  /* `step` seconds between two points say whether seconds matter. */
  function moment(at, step) { return step < 60 ? dayClock(at) : dayMinute(at); }

  function ticks(splits, increment) {
    if (increment >= 86400) return splits.map(day);
    var before = "";
    return splits.map(function (split) {
      var date = day(split);
      var text = increment < 60 ? clock(split) : minute(split);
      if (date !== before) text += "\n" + date;
      before = date;
      return text;
    });
  }

  function span(seconds) {
    if (seconds < 60) return seconds + NBSP + "s";
    if (seconds < 3600) return byDigits[1].format(seconds / 60) + NBSP + "min";
    if (seconds < 86400) return byDigits[1].format(seconds / 3600) + NBSP + "h";
    return byDigits[1].format(seconds / 86400) + NBSP + "d";
  }

  /* "%from to %to" filled in. */
  function fill(text, values) {
    Object.keys(values).forEach(function (name) { text = text.replace("%" + name, values[name]); });
    return text;
  }

  /* berth-me-…-v3-r2-1 is the third revision's replica in slot 2, first attempt. Said is what tells these names apart:
     "Slot 2" as a rule. Returns name → label. */
  function replicas(names, say) {
    var all = names.map(function (name) { return /-v(\d+)-r(\d+)-(\d+)$/.exec(name) || []; });
    var repeats = function (keys) {
      var seen = {};
      return all.some(function (parts) {
        var key = keys.map(function (i) { return parts[i]; }).join("/");
        return seen[key] || !(seen[key] = true);
      });
    };
    var revisions = all.some(function (parts) { return parts[1] !== all[0][1]; });
    var attempts = repeats([1, 2]);
    var labels = {};
    names.forEach(function (name, i) {
      var parts = all[i];
      var said = [fill(say("slot"), { slot: parts[2] })];
      if (attempts) said.push(fill(say("attempt"), { attempt: parts[3] }));
      if (revisions) said.push(fill(say("revision"), { revision: parts[1] }));
      labels[name] = parts.length ? said.join(" · ") : name;
    });
    return labels;
  }

  window.berthMetrics = {
    words: {
      NONE: NONE, value: value, axis: axis, ticks: ticks, moment: moment, clock: clock, span: span, fill: fill,
      replicas: replicas, zone: Intl.DateTimeFormat().resolvedOptions().timeZone.replace(/_/g, " "),
      iso: function (at) { return new Date(at * 1000).toISOString(); },
    },
  };
})();
