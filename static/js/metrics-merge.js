/* The API's answers as one picture. Pure: no document, no clock.

   A picture is {step, at: [seconds…], series: {name: […]}, replicas: {name: {series: […]}}, thresholds, decisions}.
   null is what nobody measured: a gap, never a zero. */
(function () {
  "use strict";

  function seconds(moment) { return typeof moment === "number" ? moment : Date.parse(moment) / 1000; }

  function decided(list) {
    return (list || []).map(function (item) { return Object.assign({}, item, { at: seconds(item.at) }); });
  }

  /* From an answer. */
  function picture(answer) {
    return { step: answer.step, at: answer.at.map(seconds), series: answer.series || {}, replicas: answer.replicas || {},
      thresholds: answer.thresholds || {}, decisions: decided(answer.decisions) };
  }

  function nulls(count) { return new Array(count).fill(null); }

  function both(one, other) { return Object.keys(Object.assign({}, one, other)); }

  function columns(old, kept, part, count) {
    var result = {};
    both(old, part).forEach(function (name) {
      var before = old[name] ? old[name].slice(kept[0], kept[1]) : nulls(kept[1] - kept[0]);
      result[name] = before.concat(part[name] || nulls(count));
    });
    return result;
  }

  function hasFigures(column) { return column.some(function (figure) { return figure !== null; }); }

  /* `old` from `from` on, with the newest part in place of what it had there. */
  function merge(old, part, from) {
    var first = part.at.length ? part.at[0] : Infinity;
    var start = old.at.findIndex(function (at) { return at + old.step > from; });
    var end = old.at.findIndex(function (at) { return at >= first; });
    if (end < 0) end = old.at.length;
    if (start < 0) start = end;
    var kept = [Math.min(start, end), end];
    var count = part.at.length;
    var replicas = {};
    both(old.replicas, part.replicas).forEach(function (name) {
      var found = columns(old.replicas[name] || {}, kept, part.replicas[name] || {}, count);
      if (Object.keys(found).some(function (series) { return hasFigures(found[series]); })) replicas[name] = found;
    });
    var seen = {};
    var decisions = old.decisions.concat(part.decisions).filter(function (item) {
      var key = item.id || item.at + " " + item.text;
      if (seen[key] || item.at < from) return false;
      return (seen[key] = true);
    });
    return { step: part.step, at: old.at.slice(kept[0], kept[1]).concat(part.at), series: columns(old.series, kept, part.series, count),
      replicas: replicas, thresholds: part.thresholds, decisions: decisions };
  }

  /* Where slots are missing altogether, lines must break: rows of nulls, and one at each end of the window.
     Returns {at, row: function (column) → as long as `at`}. */
  function spaced(picture, from, to) {
    var at = [];
    var source = [];
    var add = function (moment, index) { at.push(moment); source.push(index); };
    if (!picture.at.length || picture.at[0] > from) add(from, -1);
    picture.at.forEach(function (moment, index) {
      var last = at[at.length - 1];
      if (at.length && moment - last > picture.step * 1.5 && last !== from) add(last + picture.step, -1);
      add(moment, index);
    });
    if (at[at.length - 1] < to) add(to, -1);
    return { at: at, source: source, row: function (column) {
      return source.map(function (index) { return index < 0 || !column || column[index] === undefined ? null : column[index]; });
    } };
  }

  function empty(picture) {
    var measured = ["requests_per_s", "in_flight", "cpu", "memory", "ready"];
    return !measured.some(function (name) {
      var column = picture.series[name];
      return column && (name === "ready" ? column.some(function (figure) { return figure > 0; }) : hasFigures(column));
    });
  }

  window.berthMetrics.merge = { picture: picture, merge: merge, spaced: spaced, empty: empty, hasFigures: hasFigures };
})();
